//! The Unix socket: taken by one agent at a time, open to root only.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::event::Event;
use crate::http;

/// The socket, gone with this value.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Held as long as this agent lives, however it dies: what it leaves behind is nobody's.
    _lock: File,
}

impl Socket {
    /// Takes the place of a dead agent's socket; a living one's stays.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let place = || format!("listen at {}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(place)?;
        }
        let lock = File::create(beside(path, ".lock")).with_context(place)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "{}: another agent answers there; stop it, or give this one another --socket",
                path.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(place),
        }
        // Closed to others before anybody can find it.
        let unfinished = beside(path, ".new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(place),
            _ => {}
        }
        let listener = UnixListener::bind(&unfinished).with_context(place)?;
        fs::set_permissions(&unfinished, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&unfinished, path))
            .with_context(place)?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    /// Answers calls for as long as it is polled.
    pub(crate) async fn serve(self, events: mpsc::Sender<Event>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let events = events.clone();
                    tokio::task::spawn_local(async move {
                        if let Err(error) = http::serve(TokioIo::new(stream), events).await {
                            debug!(%error, "connection to the socket ended early");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "connection to the socket not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(socket = %self.path.display(), %error, "socket stays behind");
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[tokio::test]
    async fn a_second_agent_at_one_socket_is_told_so_and_a_dead_ones_is_replaced() {
        let folder = Folder::new();
        let path = folder.path().join("agent.sock");
        let first = Socket::bind(&path).unwrap();
        let error = Socket::bind(&path).err().unwrap().to_string();
        assert!(error.contains("another agent answers there"), "{error}");

        // As after SIGKILL: the lock is gone, the file is not.
        let Socket { listener, _lock, .. } = &first;
        let _: (&UnixListener, &File) = (listener, _lock);
        _lock.unlock().unwrap();
        std::mem::forget(first);
        assert!(path.exists());
        let second = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(second);
        assert!(!path.exists());
    }
}
