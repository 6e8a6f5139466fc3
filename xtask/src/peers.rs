//! nginx and HAProxy, which the ingress is measured beside: as Debian builds them, in the cache folder, with the libraries
//! that this machine lacks beside them. Nothing is installed, and nothing of Debian's configuration is used.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{chromium, debian, process, workspace};

/// Debian's build of the server in the package `name`, fetched the first time.
pub(crate) fn server(name: &str) -> Result<PathBuf> {
    let cache = workspace::cache()?;
    let lock = File::create(cache.join("lock")).context("make the lock of the cache folder")?;
    lock.lock().context("lock the cache folder")?;
    let root = cache.join(format!("peer-{name}"));
    let start = root.join("start");
    if !start.is_file() {
        debian::unpack_with_needs(name, &root)?;
        write_start(&root, name, &start)?;
    }
    let version = process::output(Command::new("sh").args(["-c", "\"$0\" -v 2>&1"]).arg(&start))
        .with_context(|| format!("Debian's {name} was unpacked but does not run"))?;
    eprintln!("set-up: {}", version.lines().next().unwrap_or_default().trim());
    Ok(start)
}

/// A script that becomes the server, with the libraries that were unpacked beside it.
fn write_start(root: &Path, name: &str, start: &Path) -> Result<()> {
    let program = Path::new("usr/sbin").join(name);
    ensure!(root.join(&program).is_file(), "Debian's {name} has no {}", program.display());
    let mut folders = Vec::new();
    for top in ["lib", "usr/lib"] {
        chromium::library_folders(&root.join(top), &mut folders)?;
    }
    let relative = folders.iter().filter_map(|folder| folder.strip_prefix(root).ok());
    let libraries: Vec<String> = relative.map(|folder| format!("$root/{}", folder.display())).collect();
    let script = format!(
        "#!/bin/sh\nroot=$(dirname \"$(readlink -f \"$0\")\")\nexport LD_LIBRARY_PATH=\"{}\"\nexec \"$root/{}\" \"$@\"\n",
        libraries.join(":"),
        program.display()
    );
    fs::write(start, script)
        .and_then(|()| fs::set_permissions(start, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", start.display()))
}
