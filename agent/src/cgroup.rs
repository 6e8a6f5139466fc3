//! The tree of processes whose connections to Services are translated.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// The cgroup2 folder that `path` means: itself, or where the controllers of cgroup v1 are still in use `unified` in it.
pub(crate) fn tree(path: &Path) -> Result<PathBuf> {
    let unified = path.join("unified");
    for folder in [path, &unified] {
        let found = statfs(folder);
        if found.is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok(folder.to_owned());
        }
    }
    path.metadata().with_context(|| format!("--cgroup {}", path.display()))?;
    bail!("--cgroup {}: neither it nor `unified` in it is a cgroup2 file system", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn a_folder_that_is_no_cgroup_is_refused_by_name() {
        let folder = Folder::new();
        let error = tree(folder.path()).unwrap_err().to_string();
        assert!(error.contains("cgroup2") && error.contains(&folder.path().display().to_string()), "{error}");
        let missing = folder.path().join("missing");
        let error = format!("{:#}", tree(&missing).unwrap_err());
        assert!(error.contains("No such file"), "{error}");
    }
}
