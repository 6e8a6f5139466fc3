//! The plugin's place on the node: written beside and renamed, so that a runtime finds the old one or the new one, whole.
//!
//! Runtimes also call `loopback`, which brings a pod's `lo` up. Where the folder has none, ours does it: a link to weir-cni
//! by that name, so that it is told from anybody else's, and is as new as weir-cni itself.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::below;
use super::cni_dirs::CniDirs;

pub(super) const PLUGIN: &str = "weir-cni";
pub(super) const LOOPBACK: &str = "loopback";

pub(super) fn install(from: Option<&Path>, root: &Path) -> Result<()> {
    let from = match from {
        Some(folder) => folder.to_owned(),
        None => {
            let program = std::env::current_exe().context("find the folder of this program")?;
            program.parent().unwrap_or(Path::new("/")).to_owned()
        }
    };
    let dirs = CniDirs::of(root)?;
    let folders: Vec<PathBuf> = dirs.bin.iter().map(|folder| below(root, folder)).collect();
    let folder = folders.first().context("a runtime without a folder for plugins")?;
    fs::create_dir_all(folder).with_context(|| {
        format!(
            "make {}, where this node's runtime looks for plugins: it must be mounted here",
            folder.display()
        )
    })?;
    put(&from.join(PLUGIN), &folder.join(PLUGIN))?;
    eprintln!("weir-agent: installed {}", folder.join(PLUGIN).display());
    if !folders.iter().any(|folder| folder.join(LOOPBACK).exists()) {
        let link = folder.join(LOOPBACK);
        let beside = beside(&link);
        remove(&beside)?;
        symlink(PLUGIN, &beside)
            .and_then(|()| fs::rename(&beside, &link))
            .with_context(|| format!("make the link {}", link.display()))?;
        eprintln!("weir-agent: installed {}, which was missing", link.display());
    }
    Ok(())
}

fn put(source: &Path, target: &Path) -> Result<()> {
    let beside = beside(target);
    let copy = || {
        let mut into = File::create(&beside)?;
        io::copy(&mut File::open(source)?, &mut into)?;
        into.set_permissions(Permissions::from_mode(0o755))?;
        // A power cut must not leave a plugin of no bytes.
        into.sync_all()?;
        fs::rename(&beside, target)
    };
    copy().with_context(|| format!("install {} as {}", source.display(), target.display())).inspect_err(
        |_| {
            // What is left of the attempt; the error that matters is the one above.
            drop(fs::remove_file(&beside));
        },
    )
}

/// Nobody runs a plugin that begins with a dot.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.weir-new"))
}

pub(super) fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn program(folder: &Path, text: &str) {
        fs::write(folder.join(PLUGIN), text).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_plugin_and_a_loopback_are_put_where_the_runtime_looks_and_nothing_beside_them() {
        let (image, node) = (Folder::new(), Folder::new());
        program(image.path(), "one");
        install(Some(image.path()), node.path()).unwrap();
        let bin = node.path().join("opt/cni/bin");
        assert_eq!(names(&bin), [LOOPBACK, PLUGIN]);
        assert_eq!(fs::read_link(bin.join(LOOPBACK)).unwrap(), Path::new(PLUGIN));
        assert_eq!(fs::metadata(bin.join(PLUGIN)).unwrap().permissions().mode() & 0o777, 0o755);

        // Whoever runs the old one goes on running it.
        let mut running = File::open(bin.join(PLUGIN)).unwrap();
        program(image.path(), "two");
        install(Some(image.path()), node.path()).unwrap();
        assert_eq!(io::read_to_string(&mut running).unwrap(), "one");
        assert_eq!(fs::read_to_string(bin.join(LOOPBACK)).unwrap(), "two");
        assert_eq!(names(&bin), [LOOPBACK, PLUGIN]);
    }

    #[test]
    fn a_loopback_that_is_there_stays_and_a_link_to_nowhere_is_none() {
        let (image, node) = (Folder::new(), Folder::new());
        program(image.path(), "one");
        let bin = node.path().join("opt/cni/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join(LOOPBACK), "theirs").unwrap();
        install(Some(image.path()), node.path()).unwrap();
        assert_eq!(fs::read_to_string(bin.join(LOOPBACK)).unwrap(), "theirs");

        remove(&bin.join(LOOPBACK)).unwrap();
        symlink("/nowhere/loopback", bin.join(LOOPBACK)).unwrap();
        install(Some(image.path()), node.path()).unwrap();
        assert_eq!(fs::read_to_string(bin.join(LOOPBACK)).unwrap(), "one");
    }

    #[test]
    fn what_cannot_be_installed_leaves_the_old_one_and_says_which_file() {
        let (image, node) = (Folder::new(), Folder::new());
        program(image.path(), "one");
        install(Some(image.path()), node.path()).unwrap();
        remove(&image.path().join(PLUGIN)).unwrap();
        let error = format!("{:#}", install(Some(image.path()), node.path()).unwrap_err());
        assert!(error.contains("opt/cni/bin/weir-cni"), "{error}");
        let bin = node.path().join("opt/cni/bin");
        assert_eq!(fs::read_to_string(bin.join(PLUGIN)).unwrap(), "one");
        assert_eq!(names(&bin), [LOOPBACK, PLUGIN]);
    }
}
