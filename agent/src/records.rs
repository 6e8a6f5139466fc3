//! What the runtime has attached, on disk: a file for each endpoint, so that a new agent knows what an old one took in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use api::{Attach, Attachment};
use tracing::warn;

pub(crate) struct Records {
    folder: PathBuf,
    attached: BTreeMap<(String, String), Attach>,
    /// Goes up with each change.
    revision: u64,
}

impl Records {
    /// Loads every record of `folder`. A file that is no record is set aside with a warning: its pod's packets are
    /// dropped as an unknown endpoint's, and the others live.
    pub(crate) fn load(folder: PathBuf) -> Result<Self> {
        let place = || format!("load endpoints from {}", folder.display());
        fs::create_dir_all(&folder).with_context(place)?;
        let mut attached = BTreeMap::new();
        for entry in fs::read_dir(&folder).with_context(place)? {
            let path = entry.with_context(place)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(attach) => {
                    attached.insert((attach.container_id.clone(), attach.ifname.clone()), attach);
                }
                Err(error) => {
                    warn!(file = %path.display(), error = format!("{error:#}"), "no endpoint's record, skipped");
                }
            }
        }
        Ok(Self { folder, attached, revision: 1 })
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Attach> {
        self.attached.values()
    }

    pub(crate) fn find(&self, attachment: &Attachment) -> Option<&Attach> {
        self.attached.get(&(attachment.container_id.clone(), attachment.ifname.clone()))
    }

    /// Keeps a record, on disk first.
    pub(crate) fn put(&mut self, attach: Attach) -> Result<()> {
        let path = self.path(&attach.container_id, &attach.ifname);
        let text = serde_json::to_vec_pretty(&attach).context("write an endpoint as JSON")?;
        replace(&path, &text)?;
        self.attached.insert((attach.container_id.clone(), attach.ifname.clone()), attach);
        self.revision += 1;
        Ok(())
    }

    pub(crate) fn remove(&mut self, attachment: &Attachment) -> Option<Attach> {
        let attach = self.attached.remove(&(attachment.container_id.clone(), attachment.ifname.clone()))?;
        self.revision += 1;
        let path = self.path(&attach.container_id, &attach.ifname);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(file = %path.display(), %error, "record of a removed endpoint stays behind");
            }
            _ => {}
        }
        Some(attach)
    }

    /// Both parts are file names: see [`is_attachment_name`].
    fn path(&self, container_id: &str, ifname: &str) -> PathBuf {
        self.folder.join(format!("{container_id}:{ifname}.json"))
    }
}

/// Whether the two may name an endpoint, as the CNI specification allows them (semantics.md, CNI 3). The colon that
/// joins them in a file's name is in neither.
pub(crate) fn is_attachment_name(container_id: &str, ifname: &str) -> bool {
    let begins_well = container_id.starts_with(|c: char| c.is_ascii_alphanumeric());
    let id_chars = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let ifname_chars = |c: char| !matches!(c, '/' | ':') && !c.is_whitespace() && !c.is_control();
    begins_well
        && container_id.chars().all(id_chars)
        && (1..=15).contains(&ifname.len())
        && !matches!(ifname, "." | "..")
        && ifname.chars().all(ifname_chars)
}

fn read(path: &Path) -> Result<Attach> {
    serde_json::from_slice(&fs::read(path)?).context("parse")
}

/// Writes a file beside `path` and renames it there: a reader sees the old content or the new, whole.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, content)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("write {}", path.display()))
}
