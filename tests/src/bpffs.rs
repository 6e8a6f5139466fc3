//! A bpffs of a test's own, in a mount namespace of the test's own thread: gone with the thread, whatever happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A mounted bpffs. Only the thread that made it, and what it spawns, can see it.
pub struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    /// Panics with a sentence where the process is not root.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: it loads programs into the kernel");
        sweep();
        let name = format!("weir-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        fs::create_dir(&path).unwrap();
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The mount goes with the thread; where a signal ended the process, its folder stays: empty, and nobody's.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix("weir-test-")?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // A test of manifests has files of the same name; another process may have been here first.
            fs::remove_dir(entry.path()).ok();
        }
    }
}

impl Default for Bpffs {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let unmounted = nix::mount::umount2(&self.path, nix::mount::MntFlags::MNT_DETACH);
        let removed = fs::remove_dir(&self.path);
        if (unmounted.is_err() || removed.is_err()) && !std::thread::panicking() {
            panic!("clean up {}: {unmounted:?}, {removed:?}", self.path.display());
        }
    }
}
