//! What a process and the maps that it holds open occupy, by the kernel's account.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Bytes of kernel memory for maps.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Maps {
    /// Of those whose rows are made of policies: endpoints, peers, blocks, rules.
    pub(crate) policy: u64,
    /// All of them, conntrack and the ring among them.
    pub(crate) all: u64,
}

/// Resident bytes of this process.
pub(crate) fn rss() -> Result<u64> {
    field(Path::new("/proc/self"), "VmRSS:")
}

/// One size of a process's status, bytes.
pub(crate) fn field(process: &Path, name: &str) -> Result<u64> {
    let path = process.join("status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{} has no {name}", path.display()))? << 10)
}

/// Every map that this process has open, once.
pub(crate) fn maps() -> Result<Maps> {
    maps_of(Path::new("/proc/self"))
}

pub(crate) fn maps_of(process: &Path) -> Result<Maps> {
    let mut known: BTreeMap<u64, (bool, u64)> = BTreeMap::new();
    let list = || format!("list the descriptors of {}", process.display());
    for entry in std::fs::read_dir(process.join("fdinfo")).with_context(list)? {
        // The one that lists is gone by now.
        let Ok(text) = std::fs::read_to_string(entry.with_context(list)?.path()) else {
            continue;
        };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(bytes), Some(kind)) = (field("map_id:"), field("memlock:"), field("map_type:"))
        {
            known.insert(id, (is_policy(kind, field("key_size:"), field("value_size:")), bytes));
        }
    }
    Ok(Maps {
        policy: known.values().filter(|(of_policy, _)| *of_policy).map(|(_, bytes)| bytes).sum(),
        all: known.values().map(|(_, bytes)| bytes).sum(),
    })
}

/// By the sizes of key and value: tries are blocks and rules; an address leads to a class or to an endpoint.
fn is_policy(kind: u64, key: Option<u64>, value: Option<u64>) -> bool {
    const HASH: u64 = 1;
    const LPM_TRIE: u64 = 11;
    let (class, endpoint) = (size_of::<common::id::ClassId>(), size_of::<common::endpoint::EndpointRow>());
    let is_address = key == Some(size_of::<common::net::Addr>() as u64);
    let of_address = value.is_some_and(|value| value == class as u64 || value == endpoint as u64);
    kind == LPM_TRIE || (kind == HASH && is_address && of_address)
}
