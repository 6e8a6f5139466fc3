//! Waits until something in the folders of a source changes.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tracing::warn;

/// Writers of many files are waited for so long. Short: a sandbox waits for what it wrote to be in force.
const SETTLE: Duration = Duration::from_millis(4);

/// A watch on folders. A folder watched twice is watched once.
pub struct Watches {
    inotify: Inotify,
    folders: HashMap<WatchDescriptor, PathBuf>,
}

impl Watches {
    /// The error is that of the kernel, which has a limit (`fs.inotify.max_user_instances`).
    pub fn new() -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self { inotify, folders: HashMap::new() })
    }

    /// Watches this folder too. Where that cannot be had it is said in the log.
    pub fn add(&mut self, folder: &Path) {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        match self.inotify.add_watch(folder, flags) {
            Ok(watch) => {
                self.folders.insert(watch, folder.to_owned());
            }
            Err(error) => {
                warn!(folder = %folder.display(), %error, "changes in this folder will not be seen")
            }
        }
    }

    /// Returns when something has changed that is worth another read, and its writer has paused; or after `patience`.
    pub fn wait(&mut self, patience: Option<Duration>) -> Result<(), Errno> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| PollTimeout::try_from(left).ok()).unwrap_or(PollTimeout::NONE);
            let mut descriptors = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            match poll(&mut descriptors, left) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
            if self.drain()? {
                thread::sleep(SETTLE);
                self.drain()?;
                return Ok(());
            }
        }
    }

    /// Takes what is queued. Whether any of it is worth another read.
    fn drain(&mut self) -> Result<bool, Errno> {
        let mut worth = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    worth |= events.iter().any(|event| self.matters(event));
                    for event in events.iter().filter(|event| event.mask.contains(AddWatchFlags::IN_IGNORED))
                    {
                        self.folders.remove(&event.wd);
                    }
                }
                Err(Errno::EAGAIN) => return Ok(worth),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A plain file that is only just created is still being written: half of a YAML file may be valid YAML. Its
    /// `CLOSE_WRITE` will come. Folders and links are whole when they appear.
    fn matters(&self, event: &InotifyEvent) -> bool {
        if event.mask != AddWatchFlags::IN_CREATE {
            return !event.mask.contains(AddWatchFlags::IN_IGNORED);
        }
        let (Some(folder), Some(name)) = (self.folders.get(&event.wd), &event.name) else { return true };
        folder.join(name).symlink_metadata().is_ok_and(|file| !file.is_file() || file.nlink() > 1)
    }
}
