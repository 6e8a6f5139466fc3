//! What has changed in a [`World`](crate::world::World) since it was last compiled.
//!
//! Says too much rather than too little: whatever is named is looked at again, and what then is as it was costs nothing
//! more.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::world::{Interface, Name};

/// The things whose facts, or absence, may be news.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty {
    /// Their labels.
    pub namespaces: BTreeSet<String>,
    pub policies: BTreeSet<Name>,
    /// The attachment itself, or the pod that it belongs to.
    pub interfaces: BTreeSet<Interface>,
    /// Whose it is, or the pod that has it.
    pub addresses: BTreeSet<IpAddr>,
    /// Themselves, or their slices.
    pub services: BTreeSet<Name>,
    /// Namespaces in which something came or went.
    pub populated: BTreeSet<String>,
    /// What is wrong with an object.
    pub warnings: bool,
}

/// Since nothing was compiled yet, everything is news; from then on what is noted.
#[derive(Clone, Debug, Default)]
pub(crate) enum Log {
    #[default]
    Everything,
    Since(Dirty),
}

impl Log {
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut Dirty)) {
        if let Self::Since(dirty) = self {
            note(dirty);
        }
    }

    /// What was noted so far; `None`: everything. From here on it is noted.
    pub(crate) fn take(&mut self) -> Option<Dirty> {
        match std::mem::replace(self, Self::Since(Dirty::default())) {
            Self::Everything => None,
            Self::Since(dirty) => Some(dirty),
        }
    }
}
