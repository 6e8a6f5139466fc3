//! Chromium, for the tests that look at pages: Debian's headless shell in the cache folder, with the libraries that this
//! machine lacks beside it. Nothing is installed.
//!
//! Debian's mirrors keep only the newest version, so which one it is cannot be laid down here: what was fetched once
//! stays, and its version is said.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{debian, process, workspace};

const PACKAGE: &str = "chromium-headless-shell";
/// Names an executable to use instead.
const VARIABLE: &str = "WEIR_CHROMIUM";

/// A Chromium that runs. The first time it is fetched: 100 MB, and 300 MB in the cache.
pub(crate) fn executable() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE).map(PathBuf::from) {
        let version = version(&path).with_context(|| format!("{VARIABLE} names `{}`", path.display()))?;
        eprintln!("set-up: {version} from {VARIABLE}");
        return Ok(path);
    }
    let cache = workspace::cache()?;
    let lock = File::create(cache.join("lock")).context("make the lock of the cache folder")?;
    lock.lock().context("lock the cache folder")?;
    let root = cache.join("chromium");
    let start = root.join("start");
    if let Ok(version) = version(&start) {
        eprintln!("set-up: {version} from the cache");
        return Ok(start);
    }
    debian::unpack_with_needs(PACKAGE, &root)?;
    write_start(&root, &start)?;
    let version = version(&start).context("Chromium was unpacked but does not run")?;
    eprintln!("set-up: {version} fetched just now");
    Ok(start)
}

/// `Chromium 156.0.8078.79`. A library that is missing shows here.
fn version(executable: &Path) -> Result<String> {
    let text = process::output(Command::new(executable).arg("--version"))?;
    Ok(text.trim().to_owned())
}

/// A script that starts it with the libraries and, where the machine has none, the fonts that were unpacked beside it.
fn write_start(root: &Path, start: &Path) -> Result<()> {
    let program = root.join("usr/lib/chromium").join(PACKAGE);
    ensure!(program.is_file(), "Debian's {PACKAGE} has no {}", program.display());
    let mut folders = Vec::new();
    for top in ["lib", "usr/lib"] {
        library_folders(&root.join(top), &mut folders)?;
    }
    let relative = folders.iter().filter_map(|folder| folder.strip_prefix(root).ok());
    let libraries: Vec<String> = relative.map(|folder| format!("$root/{}", folder.display())).collect();
    let script = format!(
        "#!/bin/sh\nroot=$(dirname \"$(readlink -f \"$0\")\")\nexport LD_LIBRARY_PATH=\"{}\"\n\
         [ -e /etc/fonts/fonts.conf ] || export FONTCONFIG_SYSROOT=\"$root\"\n\
         exec \"$root/usr/lib/chromium/{PACKAGE}\" \"$@\"\n",
        libraries.join(":")
    );
    fs::write(start, script)
        .and_then(|()| fs::set_permissions(start, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", start.display()))
}

/// The folders below `folder` that hold shared libraries; packages hide some in folders of their own.
pub(crate) fn library_folders(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let mut has_libraries = false;
    for entry in entries {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        if path.is_dir() {
            library_folders(&path, found)?;
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            has_libraries |= name.starts_with("lib") && (name.ends_with(".so") || name.contains(".so."));
        }
    }
    // Chromium finds its own.
    if has_libraries && !folder.ends_with("usr/lib/chromium") {
        found.push(folder.to_owned());
    }
    Ok(())
}
