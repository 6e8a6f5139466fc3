//! Every bpffs path, in one place: `PINS/layout-N/{maps,links}`.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::Error;

pub(crate) struct Pins {
    root: PathBuf,
}

/// The pins below a folder are one agent's at a time. Given back when the agent ends, however it does.
pub struct PinsLock {
    _folder: Flock<File>,
}

impl PinsLock {
    /// Makes the folder. Refuses one that another agent has.
    pub fn take(parent: &Path) -> Result<Self, Error> {
        make(parent)?;
        let failed = |source| Error::Folder { path: parent.to_owned(), source };
        let folder = File::open(parent).map_err(failed)?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(folder) => Ok(Self { _folder: folder }),
            Err((_, Errno::EWOULDBLOCK)) => Err(Error::Taken { path: parent.to_owned() }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

impl Pins {
    /// Makes the folders. Refuses a folder that is on no bpffs, and pins of another layout unless those are to be taken over:
    /// they come along.
    pub(crate) fn open(parent: &Path, layout: u32, migrate: bool) -> Result<(Self, Option<Self>), Error> {
        make(parent)?;
        let statfs = nix::sys::statfs::statfs(parent)
            .map_err(|errno| Error::Folder { path: parent.to_owned(), source: errno.into() })?;
        if statfs.filesystem_type() != nix::sys::statfs::BPF_FS_MAGIC {
            return Err(Error::NotBpffs { path: parent.to_owned() });
        }
        let ours = format!("layout-{layout}");
        let mut others = names(parent)?;
        others.retain(|name| name.starts_with("layout-") && *name != ours);
        others.sort();
        let previous = match &others[..] {
            [] => None,
            [other] if migrate => Some(Self { root: parent.join(other) }),
            _ => {
                let found: Vec<&str> = others.iter().map(|name| name.trim_start_matches("layout-")).collect();
                return Err(Error::Layout {
                    path: parent.to_owned(),
                    found: found.join(", "),
                    wanted: layout,
                });
            }
        };
        let pins = Self { root: parent.join(ours) };
        make(&pins.maps())?;
        make(&pins.links())?;
        Ok((pins, previous))
    }

    /// Removes the folder, and with it whatever only these pins keep.
    pub(crate) fn remove_all(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.root).map_err(|source| Error::Folder { path: self.root, source })
    }

    /// The number of the layout; `None` if it is none.
    pub(crate) fn layout(&self) -> Option<u32> {
        self.root.file_name()?.to_str()?.strip_prefix("layout-")?.parse().ok()
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The link of a program on an interface.
    pub(crate) fn link(&self, program: &str, ifindex: u32) -> PathBuf {
        self.links().join(format!("{program}-{ifindex}"))
    }

    /// The link of a cgroup program.
    pub(crate) fn cgroup_link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Every pinned link of a program on an interface.
    pub(crate) fn interface_links(&self) -> Result<Vec<(String, u32)>, Error> {
        let parse = |name: String| {
            let (program, ifindex) = name.rsplit_once('-')?;
            Some((program.to_owned(), ifindex.parse().ok()?))
        };
        Ok(names(&self.links())?.into_iter().filter_map(parse).collect())
    }

    pub(crate) fn endpoints(&self) -> Result<Vec<u32>, Error> {
        let links = self.interface_links()?;
        Ok(links
            .into_iter()
            .filter(|(program, _)| program == "from_pod")
            .map(|(_, ifindex)| ifindex)
            .collect())
    }

    /// Removes a pin; a pin that is not there is fine.
    pub(crate) fn remove(path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(Error::Folder { path: path.to_owned(), source })
            }
            _ => Ok(()),
        }
    }
}

fn make(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::Folder { path: path.to_owned(), source })
}

fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Folder { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
