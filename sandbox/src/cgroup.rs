//! A node's cgroup: what hangs in it asks Services at connect time, and ends with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

/// A cgroup of ours. Dropped, it ends every process in it and goes away.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

/// What the names of all our cgroups begin with.
const PREFIX: &str = "weir-";

impl Cgroup {
    pub(crate) fn create(root: &Path, sandbox: &str, node: &str) -> anyhow::Result<Self> {
        let path = root.join(format!("{PREFIX}{sandbox}-{node}"));
        fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("weir: remove cgroup {}: {error}", self.path.display());
        }
    }
}

/// Those that a sandbox has now.
pub(crate) fn of_sandbox(root: &Path, sandbox: &str) -> Vec<PathBuf> {
    let prefix = format!("{PREFIX}{sandbox}-");
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let ours = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path()).collect()
}

/// Ends what is inside, and removes it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    // Kernels before 5.14 have no cgroup.kill; there our own children are killed one by one, and strangers stay.
    fs::write(path.join("cgroup.kill"), "1").ok();
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Killed processes take a moment to leave.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result,
        }
    }
}
