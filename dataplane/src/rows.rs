//! How long the rows of each pinned map are. The number of a layout says that old pins can be read; this sees to it: the
//! kernel copies as many bytes as *its* map has, whatever room the reader made for them, and a program is verified against
//! the map that it is given.

use std::path::Path;

use aya::maps::MapInfo;
use common::config::{Config, Load};
use common::conntrack::{ClosedRow, CtEntry, CtKey};
use common::endpoint::EndpointRow;
use common::fragment::{FragmentKey, FragmentRow};
use common::id::ClassId;
use common::maps as names;
use common::net::Addr;
use common::overlay::{NodeRow, TunnelRow};
use common::rules::{RuleKey, RuleRow};
use common::service::{BackendKey, BackendRow, ServiceKey, ServiceRow, SocketKey};
use common::verdict::counter::Cell;

use crate::error::Error;
use crate::pin::Pins;

/// Bytes of key and value.
pub(crate) type Sizes = (u32, u32);

const fn sizes<K, V>() -> Sizes {
    (size_of::<K>() as u32, size_of::<V>() as u32)
}

/// In front of each key of a table of prefixes stands its length.
const fn prefixes<K, V>() -> Sizes {
    (size_of::<u32>() as u32 + sizes::<K, V>().0, sizes::<K, V>().1)
}

/// What programs of this build and their agent share by pins.
const ROWS: [(&str, Sizes); 18] = [
    (names::CONFIG, sizes::<u32, Config>()),
    (names::LOAD, sizes::<u32, Load>()),
    (names::ENDPOINTS, sizes::<Addr, EndpointRow>()),
    (names::PEERS, sizes::<Addr, ClassId>()),
    (names::CIDRS, prefixes::<Addr, ClassId>()),
    (names::NATIVE, prefixes::<Addr, u32>()),
    (names::LIMITED, sizes::<u32, u32>()),
    (names::RULES, prefixes::<RuleKey, RuleRow>()),
    (names::SERVICES, sizes::<ServiceKey, ServiceRow>()),
    (names::BACKENDS, sizes::<BackendKey, BackendRow>()),
    (names::TUNNELS, prefixes::<Addr, TunnelRow>()),
    (names::NODES, sizes::<u32, NodeRow>()),
    (names::CT, sizes::<CtKey, CtEntry>()),
    (names::CT_HALF, sizes::<CtKey, CtEntry>()),
    (names::CT_CLOSED, sizes::<u32, ClosedRow>()),
    (names::FRAGMENTS, sizes::<FragmentKey, FragmentRow>()),
    (names::SERVICE_SOCKETS, sizes::<SocketKey, ServiceKey>()),
    (names::COUNTERS, sizes::<u32, Cell>()),
];

/// Refuses pinned maps whose rows are not as long as ours. One that is not there will be made.
pub(crate) fn check(pins: &Pins) -> Result<(), Error> {
    for (map, wanted) in ROWS {
        let path = pins.map(map);
        if !path.exists() {
            continue;
        }
        let found = of(&path).map_err(Error::map("ask about", map))?;
        if found != wanted {
            return Err(Error::Rows { path, map, found, wanted });
        }
    }
    Ok(())
}

/// Whether each of these pins is there and has rows as long as ours.
pub(crate) fn are_ours(pins: &Pins, maps: &[&'static str]) -> bool {
    maps.iter().all(|map| {
        let wanted = ROWS.iter().find(|(name, _)| name == map).map(|(_, sizes)| *sizes);
        of(&pins.map(map)).ok() == wanted
    })
}

fn of(pin: &Path) -> Result<Sizes, aya::maps::MapError> {
    let info = MapInfo::from_pin(pin)?;
    Ok((info.key_size(), info.value_size()))
}
