//! What can go wrong: one variant per kind of operation, each naming its object.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request the kernel refused.
    #[error("{operation} {object}")]
    Request { operation: &'static str, object: String, source: io::Error },
    /// An answer that is not what the request asks for, or none at all.
    #[error("{operation} {object}: {problem}")]
    Answer { operation: &'static str, object: String, problem: String },
    #[error("open a netlink socket")]
    Socket { source: io::Error },
    #[error("{operation} network namespace {}", path.display())]
    Netns { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is no network namespace", path.display())]
    NotANetns { path: PathBuf },
    #[error("write `{value}` to {}", path.display())]
    WriteSysctl { path: PathBuf, value: String, source: io::Error },
    #[error("read {}", path.display())]
    ReadSysctl { path: PathBuf, source: io::Error },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kernel's answer, where it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        self.io()?.raw_os_error()
    }

    /// The object was there already.
    pub fn is_already_there(&self) -> bool {
        self.io().is_some_and(|source| source.kind() == io::ErrorKind::AlreadyExists)
    }

    /// The object (or the link it hangs on) is not there: what a deletion may ignore.
    pub fn is_not_there(&self) -> bool {
        use nix::libc::{EADDRNOTAVAIL, ENODEV, ENOENT, ENXIO, ESRCH};
        matches!(self.errno(), Some(ENODEV | ESRCH | ENOENT | ENXIO | EADDRNOTAVAIL))
    }

    fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Request { source, .. }
            | Self::Socket { source }
            | Self::Netns { source, .. }
            | Self::WriteSysctl { source, .. }
            | Self::ReadSysctl { source, .. } => Some(source),
            Self::Answer { .. } | Self::NotANetns { .. } => None,
        }
    }
}
