//! Mounts that only the supervisor and its children see, so that they end with them even by SIGKILL.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Gives the calling thread, and whatever it starts from now on, a mount namespace of its own.
pub(crate) fn make_private() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace (needs CAP_SYS_ADMIN)")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("make our mounts private")
}

/// A file system of ours. Dropped, it is unmounted.
#[derive(Debug)]
pub(crate) struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// Mounts an empty file system of `kind` (`tmpfs`, `bpf`) at a new folder.
    pub(crate) fn at(path: PathBuf, kind: &str) -> anyhow::Result<Self> {
        fs::create_dir(&path).with_context(|| format!("create folder {}", path.display()))?;
        mount(Some("weir"), &path, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount a {kind} file system at {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("weir: unmount {}: {error}", self.path.display());
        }
    }
}
