//! The images of all nodes, imported once: a machine with nothing but a containerd takes them in, and each node gets that
//! containerd's folder as its own. What never changes in it is linked rather than copied: two nodes cost the time and the
//! memory of one. The next cluster with the same images gets the folder back from `target/cluster-images`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::node;
use super::state::Cluster;
use super::tools::Tools;
use crate::{setup, workspace};

const NAME: &str = "images";
const GLANCE: Duration = Duration::from_millis(20);
/// Half a gigabyte on a machine that does three other things at once.
const PATIENCE: Duration = Duration::from_secs(180);

/// A containerd's folder with the images in it, which is to be kept for the next cluster.
pub(crate) struct Fresh {
    key: String,
    imported: PathBuf,
}

/// Gives all machines of these names the images in the archives; what had to be imported for that.
pub(crate) fn fill(
    cluster: &mut Cluster,
    tools: &Tools,
    images: &[PathBuf],
    nodes: &[String],
) -> Result<Option<Fresh>> {
    let key = key(images)?;
    let imported = cluster.disk(NAME).join(node::STORE);
    let kept = kept()?.join(&key);
    let is_kept = kept.is_dir();
    if is_kept {
        share(&kept, &imported, Share::Nothing).context("copy the images of an earlier cluster")?;
    } else {
        import(cluster, tools, images)?;
    }
    for node in nodes {
        share(&imported, &cluster.disk(node).join(node::STORE), Share::Below)
            .with_context(|| format!("give {node} its images"))?;
    }
    if is_kept {
        setup::remove_folder(&imported)?;
    }
    Ok((!is_kept).then_some(Fresh { key, imported }))
}

impl Fresh {
    /// Keeps it in the place of what an earlier cluster kept.
    pub(crate) fn keep(self) -> Result<()> {
        let folder = kept()?;
        let partial = folder.join(format!("{}.{}", self.key, std::process::id()));
        share(&self.imported, &partial, Share::Nothing).context("keep the images for the next cluster")?;
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
            // One that another cluster is about to keep has an extension.
            if path.extension().is_none() {
                setup::remove_folder(&path)?;
            }
        }
        fs::rename(&partial, folder.join(&self.key))
            .with_context(|| format!("move {} into place", partial.display()))?;
        setup::remove_folder(&self.imported)
    }
}

/// Where one containerd's folder is kept.
fn kept() -> Result<PathBuf> {
    let folder = workspace::target().join("cluster-images");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

/// Tells sets of images apart. An archive of ours begins with its index, which names the content by digest.
fn key(images: &[PathBuf]) -> Result<String> {
    let mut digest = Sha256::new();
    for image in images {
        let mut beginning = [0; 4096];
        File::open(image)
            .and_then(|mut file| file.read_exact(&mut beginning))
            .with_context(|| format!("read {}", image.display()))?;
        digest.update(beginning);
    }
    Ok(digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Imports the archives on a machine that is there for nothing else.
fn import(cluster: &mut Cluster, tools: &Tools, images: &[PathBuf]) -> Result<()> {
    let cgroups = cluster.claim_cgroups(NAME)?;
    let hierarchies = cgroups.into_iter().map(|(hierarchy, _)| hierarchy).collect();
    let (orders, last) =
        node::importer(NAME, hierarchies, tools, images, &cluster.disk(NAME), &cluster.logs());
    cluster.start(&orders)?;
    let begun = Instant::now();
    while !last.exists() {
        ensure!(begun.elapsed() < PATIENCE, "the images are not imported after {} s", PATIENCE.as_secs());
        ensure!(cluster.machine(NAME)?.is_alive(), "importing an image failed: see images-steps.log");
        thread::sleep(GLANCE);
    }
    // Nothing but what is on its disk counts, and its databases are made to be killed.
    cluster.dismiss(NAME)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Nothing,
    /// What is in the folders `SHARED`.
    Below,
    Everything,
}

/// Blobs are named after their content, and a layer that lies below others is never written to; all else is a node's own.
const SHARED: [&str; 2] = ["blobs", "snapshots"];

fn share(from: &Path, to: &Path, what: Share) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    fs::set_permissions(to, fs::metadata(from)?.permissions()).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry.with_context(|| format!("list {}", from.display()))?;
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        let is_shared = what == Share::Below && SHARED.iter().any(|name| entry.file_name() == *name);
        let kind = entry.file_type().with_context(|| format!("look at {}", source.display()))?;
        if kind.is_dir() {
            share(&source, &copy, if is_shared { Share::Everything } else { what })?;
        } else if kind.is_file() {
            let done = match what {
                Share::Everything => fs::hard_link(&source, &copy),
                Share::Nothing | Share::Below => fs::copy(&source, &copy).map(drop),
            };
            done.with_context(|| format!("make {} of {}", copy.display(), source.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn layers_are_shared_and_databases_are_not() {
        let folder = std::env::temp_dir().join(format!("weir-store-{}", std::process::id()));
        let (layer, database) = ("overlayfs/snapshots/1/fs/agnhost", "overlayfs/metadata.db");
        for file in [layer, database] {
            let path = folder.join("from").join(file);
            fs::create_dir_all(path.parent().expect("has one")).expect("make a folder");
            fs::write(path, "text").expect("write a file");
        }
        share(&folder.join("from"), &folder.join("to"), Share::Below).expect("share a store");
        let inode =
            |place: &str, file: &str| fs::metadata(folder.join(place).join(file)).expect("is there").ino();
        assert_eq!(inode("from", layer), inode("to", layer));
        assert_ne!(inode("from", database), inode("to", database));
        fs::remove_dir_all(folder).expect("remove the folder");
    }
}
