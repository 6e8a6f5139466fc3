//! Notices that somebody saved a manifest.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc;

use crate::plan::Options;
use crate::run::SETTLE;

/// Says that something changed in the folders of the user's files; what, the reader finds out by reading.
pub(crate) struct Watch {
    changes: mpsc::Receiver<()>,
}

/// How often the thread looks whether anybody still wants to know.
const LOOK_UP_MS: u16 = 500;

impl Watch {
    pub(crate) fn new(options: &Options) -> anyhow::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .context("watch the manifests: no inotify instance to be had (fs.inotify.max_user_instances)")?;
        let mut roots = Vec::new();
        for path in options.files.iter().chain(&options.expect) {
            // Editors replace a file by renaming: what is watched is its folder.
            let folder = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(path) };
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            roots.push((folder.to_owned(), path.is_dir()));
        }
        add_all(&inotify, &roots)?;
        let (sender, changes) = mpsc::channel(1);
        thread::spawn(move || {
            // It ends when nobody listens any more, or when there is nothing to watch: then nothing changes either.
            follow(&inotify, &roots, &sender).unwrap_or_default();
        });
        Ok(Self { changes })
    }

    /// Waits for a change, and until the ones right after it have come too.
    pub(crate) async fn changed(&mut self) -> anyhow::Result<()> {
        if self.changes.recv().await.is_none() {
            bail!("the manifests cannot be watched any more");
        }
        tokio::time::sleep(SETTLE).await;
        while self.changes.try_recv().is_ok() {}
        Ok(())
    }
}

fn follow(inotify: &Inotify, roots: &[(PathBuf, bool)], changes: &mpsc::Sender<()>) -> anyhow::Result<()> {
    while !changes.is_closed() {
        let mut descriptors = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::from(LOOK_UP_MS)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error).context("wait for changes"),
        }
        while inotify.read_events().is_ok() {}
        // There may be new folders among it; watching one twice is one watch.
        add_all(inotify, roots)?;
        // Full: a change is already announced.
        changes.try_send(()).unwrap_or_default();
    }
    Ok(())
}

fn add_all(inotify: &Inotify, roots: &[(PathBuf, bool)]) -> anyhow::Result<()> {
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ONLYDIR;
    let mut folders: Vec<(PathBuf, bool)> = roots.to_vec();
    while let Some((folder, deep)) = folders.pop() {
        inotify.add_watch(&folder, flags).with_context(|| format!("watch folder {}", folder.display()))?;
        if deep {
            // A folder that went away a moment ago has nothing in it.
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            folders.extend(below.map(|entry| (entry.path(), true)));
        }
    }
    Ok(())
}
