//! From the pins of another layout to ours, without an instant in which a packet is judged by nothing.
//!
//! Our maps are made beside the old ones and filled while the old programs go on judging by theirs. Then each old link gets
//! our program (`bpf_link_update`) and a pin of ours. Where both layouts have the same rows for connections, the tables of
//! connections are not copied but shared: while some hooks have the old programs and some have ours, each finds what the
//! other began. Each connection is judged once more by the policy of now. Counters do not come along.

use std::path::PathBuf;

use aya::maps::{Array, HashMap, Map, MapData};
use common::config::Load;
use common::conntrack::{CtEntry, CtKey};
use common::maps as names;

use crate::Dataplane;
use crate::attach;
use crate::error::Error;
use crate::load::TC_PROGRAMS;
use crate::pin::Pins;
use crate::rows;
use crate::sweep;

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

/// What the old programs go on writing, and ours go on reading.
const SHARED: [&str; 4] = [names::CT, names::CT_HALF, names::FRAGMENTS, names::SERVICE_SOCKETS];

/// Gives the tables of connections a pin of ours each, where there is none; the loader then takes them for our own. True if
/// they are the other layout's.
pub(crate) fn share(old: &Pins, ours: &Pins) -> Result<bool, Error> {
    if !is_alike(old) {
        return Ok(false);
    }
    for name in SHARED {
        let path = ours.map(name);
        if !path.exists() {
            let data = MapData::from_pin(old.map(name)).map_err(Error::map("open", name))?;
            data.pin(&path).map_err(|source| Error::Pin { path, source: Box::new(source) })?;
        }
    }
    Ok(true)
}

/// Rows that mean the same by their number, and by their length too: a build of somebody's own may have borrowed the number.
fn is_alike(old: &Pins) -> bool {
    let by_number = old.layout().is_some_and(|layout| names::LAYOUTS_ALIKE.contains(&layout));
    by_number && rows::are_ours(old, &SHARED)
}

/// Another epoch than any shared connection was judged in.
pub(crate) fn epoch_after(old: &Pins) -> Result<u32, Error> {
    let config = || MapData::from_pin(old.map(names::CONFIG)).map_err(Error::map("open", names::CONFIG));
    // Every layout's row begins with the epoch.
    let epoch = match first_word::<16>(config()?)? {
        Some(epoch) => epoch,
        None => first_word::<32>(config()?)?.unwrap_or_default(),
    };
    Ok(epoch.wrapping_add(1))
}

/// Of the only row of a table whose rows are `N` bytes long.
fn first_word<const N: usize>(data: MapData) -> Result<Option<u32>, Error> {
    let Ok(table) = Array::<_, [u8; N]>::try_from(Map::Array(data)) else { return Ok(None) };
    let row = table.get(&0, 0).map_err(Error::map("read", names::CONFIG))?;
    Ok(row.first_chunk().map(|word| u32::from_ne_bytes(*word)))
}

fn switch(dataplane: &mut Dataplane, previous: &Previous) -> Result<TakenOver, Error> {
    let shares = is_alike(&previous.pins);
    if shares {
        look_among_the_half_open(&dataplane.pins)?;
    }
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
    let connections = if shares { Some(gather(dataplane)?) } else { None };
    Ok(TakenOver { links, connections })
}

/// Our programs look into `CT_HALF` only where a flood has lately been; layout 1 kept all connections without a reply there.
fn look_among_the_half_open(ours: &Pins) -> Result<(), Error> {
    let data = MapData::from_pin(ours.map(names::LOAD)).map_err(Error::map("open", names::LOAD))?;
    let mut load = Array::<_, Load>::try_from(Map::Array(data)).map_err(Error::map("open", names::LOAD))?;
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_err(|errno| Error::Clock(errno.into()))?;
    let overflowed_ns = now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned();
    let row = load.get(&0, 0).map_err(Error::map("read", names::LOAD))?;
    load.set(0, Load { overflowed_ns, ..row }, 0).map_err(Error::map("write", names::LOAD))
}

/// Brings what layout 1 kept in `CT_HALF` to where ours are. How many connections there are then.
fn gather(dataplane: &mut Dataplane) -> Result<usize, Error> {
    let mut live = connections(&dataplane.pins, names::CT, Map::HashMap)?;
    let mut half = connections(&dataplane.pins, names::CT_HALF, Map::LruHashMap)?;
    let strays: Vec<_> = half.iter().flatten().filter(|(_, entry)| !entry.is_overflowed()).collect();
    for (key, entry) in strays {
        // One that has had its reply meanwhile is there already, and knows more.
        if live.insert(key, entry, BPF_NOEXIST).is_ok() || live.get(&key, 0).is_ok() {
            // The kernel may have evicted it first.
            half.remove(&key).ok();
        }
    }
    Ok(sweep::walk(dataplane)? as usize)
}

const BPF_NOEXIST: u64 = 1;

fn connections(
    ours: &Pins,
    name: &'static str,
    kind: fn(MapData) -> Map,
) -> Result<HashMap<MapData, CtKey, CtEntry>, Error> {
    let data = MapData::from_pin(ours.map(name)).map_err(Error::map("open", name))?;
    HashMap::try_from(kind(data)).map_err(Error::map("open", name))
}
