//! Counters by reason, and how full the maps are.

use common::maps as names;
use common::verdict::{DropReason, PassReason, counter};
use policy::tables::Tables;

use crate::error::Error;
use crate::maps::Maps;

/// One reason, or one of the events of [`counter`], summed over the CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterValue {
    pub name: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFill {
    pub name: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

pub(crate) fn read(maps: &Maps) -> Result<Vec<CounterValue>, Error> {
    let drops = DropReason::ALL.iter().map(|reason| (*reason as u32, reason.as_str()));
    let passes = PassReason::ALL.iter().map(|reason| (*reason as u32, reason.as_str()));
    let events = [
        (counter::POLICY_LOOKUPS, "policy_lookups"),
        (counter::FLOW_EVENTS, "flow_events"),
        (counter::FLOW_EVENTS_LOST, "flow_events_lost"),
        (counter::CT_EXPIRED, "ct_expired"),
    ];
    let mut values = Vec::new();
    for (slot, name) in drops.chain(passes).chain(events) {
        let cells = maps.counters.get(&slot, 0).map_err(Error::map("read", names::COUNTERS))?;
        let packets = cells.iter().map(|cell| cell.packets).sum();
        let bytes = cells.iter().map(|cell| cell.bytes).sum();
        if packets > 0 {
            values.push(CounterValue { name, packets, bytes });
        }
    }
    Ok(values)
}

pub(crate) fn fill(maps: &Maps, tables: &Tables, connections: u64) -> Vec<MapFill> {
    [
        (names::ENDPOINTS, tables.endpoints.len()),
        (names::PEERS, tables.peers.len()),
        (names::CIDRS, tables.cidrs.len()),
        (names::RULES, tables.rules.len()),
        (names::SERVICES, tables.services.len()),
        (names::BACKENDS, tables.backends.len()),
        (names::CT, connections as usize),
    ]
    .into_iter()
    .map(|(name, entries)| MapFill { name, entries: entries as u64, capacity: maps.capacity(name) as u64 })
    .collect()
}
