//! What of a sandbox could be seen on the machine: compared before and after, to show that nothing is left.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Links, mounts, cgroups, and folders of sandboxes.
pub(crate) struct Remains(BTreeSet<String>);

impl Remains {
    pub(crate) fn now() -> Result<Self> {
        let mut seen = BTreeSet::new();
        for folder in ["/sys/class/net", "/run/weir/sandbox", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            list(Path::new(folder), &mut seen)?;
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
        seen.extend(mounts.lines().map(|line| format!("mount {line}")));
        Ok(Self(seen))
    }

    /// Fails naming what was not there before.
    pub(crate) fn ensure_nothing_new(&self) -> Result<()> {
        let after = Self::now()?.0;
        let new: Vec<&str> = after.difference(&self.0).map(String::as_str).collect();
        ensure!(new.is_empty(), "left behind: {}", new.join(", "));
        Ok(())
    }
}

fn list(folder: &Path, seen: &mut BTreeSet<String>) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
    };
    for entry in entries {
        seen.insert(
            entry.with_context(|| format!("list {}", folder.display()))?.path().display().to_string(),
        );
    }
    Ok(())
}
