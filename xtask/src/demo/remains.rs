//! What of a sandbox could be seen on the machine once it is down.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The machine's links before there was a sandbox.
pub(crate) struct Remains {
    links: BTreeSet<String>,
}

impl Remains {
    pub(crate) fn now() -> Result<Self> {
        Ok(Self { links: names(Path::new("/sys/class/net"))? })
    }

    /// Fails naming what is left of the sandbox `id`. Others may be up beside it.
    pub(crate) fn ensure_nothing_of(&self, id: &str) -> Result<()> {
        let mut left: Vec<String> =
            Self::now()?.links.difference(&self.links).map(|link| format!("link {link}")).collect();
        for folder in ["/run/weir/sandbox", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let ours = names(Path::new(folder))?.into_iter().filter(|name| name.contains(id));
            left.extend(ours.map(|name| format!("{folder}/{name}")));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
        left.extend(mounts.lines().filter(|line| line.contains(id)).map(|line| format!("mount {line}")));
        for process in names(Path::new("/proc"))? {
            // Most are gone by the time they are read, or are none.
            let command = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
            if command.contains(id) {
                left.push(format!("process {process} ({})", command.replace('\0', " ").trim()));
            }
        }
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        Ok(())
    }
}

/// What lies in a folder; nothing if there is none.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let list = || format!("list {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error).with_context(list),
    };
    entries.map(|entry| Ok(entry.with_context(list)?.file_name().to_string_lossy().into_owned())).collect()
}
