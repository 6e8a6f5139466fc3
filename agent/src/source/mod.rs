//! Where desired state comes from, as one list of objects.
//!
//! A source knows nothing of the loop but its channel, and the loop nothing of the source but [`Snapshot`].

mod directory;
mod watch;

pub(crate) use directory::Directory;
pub(crate) use watch::follow;

use policy::{Object, Warning};

/// Everything that is desired, complete.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Each object once, with what is odd about it as it was written.
    pub(crate) objects: Vec<(Object, Vec<Warning>)>,
    /// What belongs to no object in the list: files and objects that could not be read, kinds nobody watches.
    pub(crate) warnings: Vec<Warning>,
    /// [`api::source_revision`] of what was read.
    pub(crate) revision: Option<String>,
}
