//! Waits until something in the folders of the source changes.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tracing::warn;

/// Writers of several files are waited for so long.
const SETTLE: Duration = Duration::from_millis(5);
/// However they go on writing, what they have written so far is looked at after this.
const LONGEST: Duration = Duration::from_millis(250);

/// A watch on folders. A folder watched twice is watched once.
pub struct Watch {
    inotify: Inotify,
}

impl Watch {
    pub fn new() -> Result<Self, Errno> {
        Ok(Self { inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)? })
    }

    pub fn add(&self, folder: &Path) {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        if let Err(error) = self.inotify.add_watch(folder, flags) {
            let folder: PathBuf = folder.to_owned();
            warn!(folder = %folder.display(), %error, "changes in this folder will not be seen");
        }
    }

    /// Returns when something has changed and its writer has paused, or after `patience`.
    pub fn wait(&self, patience: Option<Duration>) -> Result<(), Errno> {
        let timeout = patience.and_then(|it| PollTimeout::try_from(it).ok()).unwrap_or(PollTimeout::NONE);
        if !self.readable(timeout)? {
            return Ok(());
        }
        let first = Instant::now();
        self.drain()?;
        let settle = PollTimeout::try_from(SETTLE).unwrap_or(PollTimeout::ZERO);
        while first.elapsed() < LONGEST && self.readable(settle)? {
            self.drain()?;
        }
        Ok(())
    }

    fn readable(&self, timeout: PollTimeout) -> Result<bool, Errno> {
        loop {
            let mut descriptors = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            match poll(&mut descriptors, timeout) {
                Ok(count) => return Ok(count > 0),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn drain(&self) -> Result<(), Errno> {
        loop {
            match self.inotify.read_events() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
