//! From the pins of another layout to ours, without an instant in which a packet is judged by nothing.
//!
//! Our maps are made beside the old ones and filled while the old programs go on judging by theirs. Then each old link gets
//! our program (`bpf_link_update`) and a pin of ours. Connections come along where both layouts have the same rows for
//! them: copied before the switch, and once more after it, for those that began meanwhile. Each is judged once more by the
//! policy of now. What cannot come along: fragments on their way, and counts made in the moment of the switch.

use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData};
use common::conntrack::{CtEntry, CtKey};
use common::maps as names;
use common::service::{ServiceKey, SocketKey};

use crate::Dataplane;
use crate::attach;
use crate::error::Error;
use crate::load::TC_PROGRAMS;
use crate::pin::Pins;

/// The pins of another layout.
pub(crate) struct Previous {
    pub(crate) pins: Pins,
    /// Where the programs for Services are to go.
    pub(crate) cgroup: Option<PathBuf>,
}

impl Previous {
    pub(crate) fn new(pins: Pins) -> Self {
        Self { pins, cgroup: None }
    }

    pub(crate) fn has_link(&self, program: &str, ifindex: u32) -> bool {
        self.pins.link(program, ifindex).exists()
    }
}

/// What came along from another layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// Links that got our programs.
    pub links: usize,
    /// Connections; `None` where the other layout's rows are not like ours, so that each begins anew with its next packet.
    pub connections: Option<usize>,
}

pub(crate) fn take_over(dataplane: &mut Dataplane) -> Result<Option<TakenOver>, Error> {
    let Some(previous) = dataplane.previous.take() else { return Ok(None) };
    let done = switch(dataplane, &previous);
    match done {
        Ok(taken) => {
            previous.pins.remove_all()?;
            Ok(Some(taken))
        }
        Err(error) => {
            // Links that have moved have our pins; the next attempt goes on with the rest.
            dataplane.previous = Some(previous);
            Err(error)
        }
    }
}

fn switch(dataplane: &mut Dataplane, previous: &Previous) -> Result<TakenOver, Error> {
    let mut connections = copy_connections(dataplane, &previous.pins)?;
    copy_sockets(dataplane, &previous.pins)?;
    let mut links = 0;
    for (program, ifindex) in previous.pins.interface_links()? {
        let Some(program) = TC_PROGRAMS.into_iter().find(|name| *name == program) else { continue };
        let (old, ours) = (previous.pins.link(program, ifindex), dataplane.pins.link(program, ifindex));
        links += usize::from(attach::move_link(dataplane, program, ifindex, &old, &ours)?);
    }
    attach::replace_on_clsact(dataplane)?;
    if let Some(cgroup) = &previous.cgroup {
        // While both run, the second finds an address already translated.
        attach::cgroup(dataplane, cgroup)?;
    }
    if let Some(more) = copy_connections(dataplane, &previous.pins)? {
        connections = Some(connections.unwrap_or(0) + more);
    }
    Ok(TakenOver { links, connections })
}

/// How many rows were copied; those that we have already stay as they are.
fn copy_connections(dataplane: &Dataplane, old: &Pins) -> Result<Option<usize>, Error> {
    let Some(mut ours) = table::<CtKey, CtEntry>(&dataplane.pins, names::CT) else { return Ok(None) };
    // An entry of another epoch than the one in force is judged once more.
    let stale = dataplane.maps.config()?.epoch.wrapping_sub(1);
    let mut copied = None;
    for name in [names::CT, names::CT_HALF] {
        let Some(theirs) = table::<CtKey, CtEntry>(old, name) else { continue };
        let mut rows = 0;
        for (key, entry) in theirs.iter().flatten() {
            let entry = CtEntry { epoch: stale, flags: entry.flags & !CtEntry::OVERFLOWED, ..entry };
            rows += usize::from(ours.insert(key, entry, BPF_NOEXIST).is_ok());
        }
        copied = Some(copied.unwrap_or(0) + rows);
    }
    Ok(copied)
}

/// What sockets have asked for, so that they go on hearing from the address they know.
fn copy_sockets(dataplane: &Dataplane, old: &Pins) -> Result<(), Error> {
    let tables = (
        table::<SocketKey, ServiceKey>(old, names::SERVICE_SOCKETS),
        table::<SocketKey, ServiceKey>(&dataplane.pins, names::SERVICE_SOCKETS),
    );
    if let (Some(theirs), Some(mut ours)) = tables {
        for (key, row) in theirs.iter().flatten() {
            ours.insert(key, row, 0).map_err(Error::map("write", names::SERVICE_SOCKETS))?;
        }
    }
    Ok(())
}

const BPF_NOEXIST: u64 = 1;

/// A pinned table with rows like ours; `None` if there is none.
fn table<K: aya::Pod, V: aya::Pod>(pins: &Pins, name: &str) -> Option<HashMap<MapData, K, V>> {
    if !pins.layout().is_some_and(|layout| names::LAYOUTS_ALIKE.contains(&layout)) {
        return None;
    }
    let open = |path: &Path| MapData::from_pin(path).ok();
    let data = open(&pins.map(name))?;
    let is_lru = matches!(data.info().ok()?.map_type(), Ok(aya::maps::MapType::LruHash));
    let map = if is_lru { Map::LruHashMap(data) } else { Map::HashMap(data) };
    HashMap::try_from(map).ok()
}
