//! Where desired state comes from, as changes to it.
//!
//! A source knows nothing of the loop but its channel, and the loop nothing of the source but [`Update`].

mod directory;
mod file;
mod key;
mod kubernetes;
mod watch;

pub(crate) use self::kubernetes::follow as follow_api_server;
pub(crate) use directory::Directory;
pub(crate) use watch::follow;

use std::time::Instant;

use policy::{Kind, Object, ObjectKey, Warning};

/// What has changed, to be taken in as one.
#[derive(Debug, Default)]
pub(crate) struct Update {
    pub(crate) changes: Vec<Change>,
    /// With this, everything has been told that there is. Before the first such update nothing is programmed.
    pub(crate) complete: bool,
    /// What belongs to no object: files and objects that could not be read, kinds nobody watches. All of it, each time.
    pub(crate) warnings: Vec<Warning>,
    /// [`api::source_revision`] of what was read, where the source has one.
    pub(crate) revision: Option<String>,
    /// When the event of a watch arrived that this is.
    pub(crate) arrived: Option<Arrival>,
}

/// An event of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) kind: Kind,
    pub(crate) at: Instant,
}

#[derive(Debug)]
pub(crate) enum Change {
    /// New or changed, with what is odd about it as it was written.
    Apply(Object, Vec<Warning>),
    Delete(ObjectKey),
}
