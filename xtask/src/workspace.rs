//! Where things are: this clone, and the cache beside all clones.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The root of this clone.
pub(crate) fn root() -> &'static Path {
    // The manifest of xtask lies one folder below the root, in this clone and in every other.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(path) => root().join(path),
        None => root().join("target"),
    }
}

/// `$XDG_CACHE_HOME/weir`, made if it is missing. What lies in it is named by version and shared by all clones.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => {
            let home = env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
            PathBuf::from(home).join(".cache")
        }
    };
    ensure!(base.is_absolute(), "the cache folder `{}` is not an absolute path", base.display());
    let path = base.join("weir");
    std::fs::create_dir_all(&path).with_context(|| format!("make the cache folder {}", path.display()))?;
    Ok(path)
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
