//! What Weir leaves on a node: how each kind of thing is found, and how it goes.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use netlink::nftables::Nftables;
use netlink::{Handle, Link, ROUTE_PROTOCOL, Route};

use super::below;
use super::cni_dirs::CniDirs;
use super::install::{LOOPBACK, PLUGIN, remove};
use crate::conflist;
use crate::host_rules::TABLE;

/// Where to look.
pub(super) struct Node<'a> {
    /// Where its root folder is.
    pub(super) root: &'a Path,
    pub(super) pins: &'a Path,
    /// The socket's folder.
    pub(super) run: &'a Path,
    pub(super) state: &'a Path,
}

pub(super) struct Remains(Vec<Remnant>);

/// In the order in which they go: no pod comes any more, then the packets' way ends, then what judged them.
#[derive(Debug, PartialEq)]
pub(super) enum Remnant {
    File(PathBuf),
    Link(Link),
    Route(Route),
    /// Our table of nf_tables.
    Table,
    /// Of the kernel programs.
    Pins(PathBuf),
    Folder(PathBuf),
}

impl Remains {
    pub(super) async fn of(node: &Node<'_>) -> Result<Self> {
        let mut found = Vec::new();
        let dirs = CniDirs::of(node.root)?;
        found.extend(present(below(node.root, &dirs.conf).join(conflist::FILE)).map(Remnant::File));
        for folder in &dirs.bin {
            let folder = below(node.root, folder);
            found.extend(present(folder.join(PLUGIN)).map(Remnant::File));
            let loopback = folder.join(LOOPBACK);
            // Anybody else's stays.
            if fs::read_link(&loopback).is_ok_and(|target| target == Path::new(PLUGIN)) {
                found.push(Remnant::File(loopback));
            }
        }
        let handle = Handle::new().context("look at this node's network")?;
        let links = handle.links().await?;
        found.extend(links.into_iter().filter(is_ours).map(Remnant::Link));
        let routes = handle.routes().await?;
        let ours = routes.into_iter().filter(|route| route.protocol == ROUTE_PROTOCOL);
        found.extend(ours.map(Remnant::Route));
        // A kernel without nf_tables has no table of ours.
        if Nftables::new().and_then(|nftables| nftables.read(TABLE)).is_ok_and(|table| table.is_some()) {
            found.push(Remnant::Table);
        }
        found.extend(present(node.pins.to_owned()).map(Remnant::Pins));
        for folder in [node.run, node.state] {
            found.extend(present(below(node.root, folder)).map(Remnant::Folder));
        }
        Ok(Self(found))
    }

    pub(super) fn list(&self) -> &[Remnant] {
        &self.0
    }

    /// Removes all that can be removed. Returns what went wrong.
    pub(super) async fn remove(self, node: &Node<'_>) -> Vec<String> {
        let mut failures = Vec::new();
        for remnant in self.0 {
            if let Err(error) = remnant.remove(node).await {
                failures.push(format!("{error:#}"));
            }
        }
        failures
    }
}

impl Remnant {
    async fn remove(self, node: &Node<'_>) -> Result<()> {
        match self {
            Self::File(path) => remove(&path).map(drop),
            Self::Link(link) => unless_gone(Handle::new()?.delete_link(link.index).await),
            // Most went with their links.
            Self::Route(route) => unless_gone(Handle::new()?.delete_route(&route).await),
            Self::Table => Ok(Nftables::new()?.remove(TABLE)?),
            Self::Pins(path) => {
                let links = Handle::new()?.links().await?;
                let names: Vec<String> = links.into_iter().map(|link| link.name).collect();
                dataplane::retire(node.pins, &names).with_context(|| format!("remove {}", path.display()))
            }
            Self::Folder(path) => {
                fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))
            }
        }
    }
}

impl fmt::Display for Remnant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Link(link) => write!(f, "{} {}", link.kind, link.name),
            Self::Route(route) => write!(f, "route {route}"),
            Self::Table => write!(f, "nf_tables table {TABLE}"),
            Self::Pins(path) => write!(f, "programs and maps pinned at {}", path.display()),
            Self::Folder(path) => write!(f, "folder {}", path.display()),
        }
    }
}

/// The host's side of a pod's pair, as the plugin calls it, or the overlay's device.
fn is_ours(link: &Link) -> bool {
    let Some(rest) = link.name.strip_prefix("weir") else { return false };
    match link.kind.as_str() {
        "veth" => rest.len() == 11 && rest.bytes().all(|digit| digit.is_ascii_hexdigit()),
        kind => kind == "vxlan",
    }
}

fn present(path: PathBuf) -> Option<PathBuf> {
    path.symlink_metadata().is_ok().then_some(path)
}

fn unless_gone(done: Result<(), netlink::Error>) -> Result<()> {
    match done {
        Err(error) if !error.is_not_there() => Err(error.into()),
        _ => Ok(()),
    }
}
