//! Network namespaces as values.
//!
//! A namespace belongs to a thread, so entering one gives a guard that cannot leave its thread and that goes back when
//! dropped, whichever way the scope ends. Whatever only needs a moment inside (a new namespace, a socket, a sysctl)
//! runs on a helper thread that ends with it: then no caller's thread can be stranded.

use std::fs::{self, File};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::statfs::{FsType, fstatfs};

use crate::error::{Error, Result};

/// An open network namespace; it lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    path: PathBuf,
    /// Made by [`Netns::create_at`]: the mount and its file go away with this value.
    mount: Option<Mount>,
}

impl Netns {
    /// Makes a namespace and mounts it at `path`, a file that must not exist yet. When the value is dropped the mount and
    /// the file go away, unless it was [kept](Netns::keep); the namespace lives on while anything is inside.
    pub fn create_at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let failed = |source| Error::Netns { operation: "create", path: path.clone(), source };
        File::create_new(&path).map_err(failed)?;
        let mounted = on_new_thread(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
            nix::mount::mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        if let Err(source) = mounted {
            return Err(match fs::remove_file(&path) {
                Ok(()) => failed(source),
                Err(left) => {
                    failed(io::Error::new(source.kind(), format!("{source} (its file stays: {left})")))
                }
            });
        }
        let mount = Mount { path: path.clone() };
        Ok(Self { mount: Some(mount), ..Self::open(path)? })
    }

    /// Opens the namespace mounted at `path`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let fd = match File::open(&path) {
            Ok(file) => OwnedFd::from(file),
            Err(source) => return Err(Error::Netns { operation: "open", path, source }),
        };
        let kind = fstatfs(&fd).map(|stat| stat.filesystem_type());
        if kind != Ok(NSFS_MAGIC) {
            return Err(Error::NotANetns { path });
        }
        Ok(Self { fd, path, mount: None })
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self> {
        Self::from_own(File::open(OWN))
    }

    /// A new namespace that is only held open: it goes away with this value and whatever is inside.
    pub fn new_anonymous() -> Result<Self> {
        Self::from_own(on_new_thread(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
            File::open(OWN)
        }))
    }

    fn from_own(file: io::Result<File>) -> Result<Self> {
        match file {
            Ok(file) => {
                let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
                Ok(Self { fd: file.into(), path: path.into(), mount: None })
            }
            Err(source) => Err(Error::Netns { operation: "open", path: OWN.into(), source }),
        }
    }

    /// Where other processes can open it, while this value lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the same namespace. It does not take over the mount.
    pub fn try_clone(&self) -> Result<Self> {
        match self.fd.try_clone() {
            Ok(fd) => Ok(Self { fd, path: self.path.clone(), mount: None }),
            Err(source) => Err(Error::Netns { operation: "clone", path: self.path.clone(), source }),
        }
    }

    /// Leaves the mount of [`Netns::create_at`] in place when this value goes.
    pub fn keep(mut self) -> PathBuf {
        if let Some(mount) = self.mount.take() {
            std::mem::forget(mount);
        }
        self.path.clone()
    }

    /// Moves the calling thread inside until the guard is dropped.
    pub fn enter(&self) -> Result<NetnsGuard> {
        let before = Self::current()?;
        self.set()?;
        Ok(NetnsGuard { before, thread: PhantomData })
    }

    /// Runs `inside` on a helper thread within the namespace, and waits for it.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        on_new_thread(|| self.set().map(|()| inside()))
    }

    /// Whether the calling thread is in this namespace.
    pub fn is_current(&self) -> Result<bool> {
        self.is_same_as(&Self::current()?)
    }

    pub fn is_same_as(&self, other: &Self) -> Result<bool> {
        Ok(self.identity()? == other.identity()?)
    }

    fn identity(&self) -> Result<(u64, u64)> {
        match nix::sys::stat::fstat(&self.fd) {
            Ok(stat) => Ok((stat.st_dev, stat.st_ino)),
            Err(errno) => {
                Err(Error::Netns { operation: "stat", path: self.path.clone(), source: errno.into() })
            }
        }
    }

    fn set(&self) -> Result<()> {
        nix::sched::setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Netns {
            operation: "enter",
            path: self.path.clone(),
            source: errno.into(),
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The calling thread is inside a namespace; dropping this takes it back.
#[must_use = "the thread goes back at once if the guard is dropped"]
#[derive(Debug)]
pub struct NetnsGuard {
    before: Netns,
    /// Makes this `!Send`: it is this thread that has to go back.
    thread: PhantomData<*const ()>,
}

impl Drop for NetnsGuard {
    fn drop(&mut self) {
        if let Err(error) = self.before.set() {
            // Going on would configure somebody else's network, and a panic may be caught.
            eprintln!("go back to the network namespace before: {error:?}");
            std::process::abort();
        }
    }
}

/// A namespace's mount and the file it stands on.
#[derive(Debug)]
struct Mount {
    path: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Somebody else may have cleaned up first (a swept temporary folder); there is nobody to tell about the rest.
        nix::mount::umount2(&self.path, MntFlags::MNT_DETACH).ok();
        fs::remove_file(&self.path).ok();
    }
}

/// The calling thread's own namespace. Not `/proc/self`: that is the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";

const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// Threads are cheap here (some tens of microseconds) and end inside whatever namespace they went to.
fn on_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
