//! What a machine of the cluster is told: values that `control_plane` and `node` make and `init`, its PID 1, carries out.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything about one machine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) name: String,
    /// What outlives a reboot: the upper layers of the machine's own folders. Never on an overlay file system.
    pub(crate) disk: PathBuf,
    pub(crate) logs: PathBuf,
    /// For `PATH`: the tools.
    pub(crate) bin: PathBuf,
    /// The cgroup hierarchies that the machine sees, each with its mount's name: a v1 controller, `systemd`, `unified`.
    /// Empty: no cgroups of its own.
    pub(crate) hierarchies: Vec<String>,
    /// Folders of the machine's disk that are real folders rather than layers: path, and its name on the disk.
    pub(crate) bound: Vec<(PathBuf, String)>,
    /// Folders that must exist.
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) files: Vec<File>,
    /// Plugins are copied into place: whoever installs a CNI writes beside them.
    pub(crate) plugins: Option<(PathBuf, PathBuf)>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// In this order, each begun when the one before is done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Until something is at this path.
    Await(PathBuf),
    /// Until this command succeeds.
    Until(Vec<String>),
    /// In the machine's first life only, which the disk remembers by a file `done-MARK`; it must succeed.
    Once { mark: String, command: Vec<String> },
    /// From now on, and again a second after it ended, unless the disk has a file `hold-NAME`.
    Start { name: String, command: Vec<String> },
}

impl Step {
    pub(crate) fn start(name: &str, command: Vec<String>) -> Self {
        Self::Start { name: name.to_owned(), command }
    }
}

/// A file on the disk: the machine's links are there and have their addresses.
pub(crate) const CONNECTED: &str = "connected";
/// A file on the disk: the API server's port is open.
pub(crate) const API_LISTENS: &str = "api-listens";
/// A file on the disk: the API server answers, and its own roles are there.
pub(crate) const API_READY: &str = "api-ready";
