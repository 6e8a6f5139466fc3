//! The maps of the overlay: which node is behind which addresses.
//!
//! Apart from the plan's tables: no policy is in them, and who writes them follows nodes and not pods.

use std::collections::BTreeMap;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, Map, MapData};
use common::maps as names;
use common::net::Addr;
use common::overlay::{NodeRow, TunnelRow};
use policy::tables::Cidr;

use crate::error::Error;
use crate::maps::removed;
use crate::pin::Pins;

/// The two maps, open.
pub struct Overlay {
    tunnels: LpmTrie<MapData, Addr, TunnelRow>,
    nodes: Array<MapData, NodeRow>,
}

/// What they hold. Of `NODES` the rows that are in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    pub tunnels: BTreeMap<Cidr, TunnelRow>,
    pub nodes: BTreeMap<u32, NodeRow>,
}

impl Overlay {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        let open = |name| MapData::from_pin(pins.map(name)).map_err(Error::map("open", name));
        let tunnels = Map::LpmTrie(open(names::TUNNELS)?);
        let nodes = Map::Array(open(names::NODES)?);
        Ok(Self {
            tunnels: tunnels.try_into().map_err(Error::map("open", names::TUNNELS))?,
            nodes: nodes.try_into().map_err(Error::map("open", names::NODES))?,
        })
    }

    /// What the maps hold, read from the kernel.
    pub fn read(&self) -> Result<Nodes, Error> {
        let mut found = Nodes::default();
        for row in self.tunnels.iter() {
            let (key, row) = row.map_err(Error::map("read", names::TUNNELS))?;
            found.tunnels.insert(Cidr { addr: key.data(), bits: key.prefix_len() }, row);
            if row.node != 0 {
                let node = self.nodes.get(&row.node, 0).map_err(Error::map("read", names::NODES))?;
                found.nodes.insert(row.node, node);
            }
        }
        Ok(found)
    }

    /// Makes the maps hold `wanted`, where they hold `present`: nodes before what is behind them, and what is gone before what is new: there is room for both.
    pub fn write(&mut self, present: &Nodes, wanted: &Nodes) -> Result<(), Error> {
        let capacity = names::TUNNELS_CAPACITY as usize;
        if wanted.tunnels.len() > capacity {
            return Err(Error::Full { map: names::TUNNELS, wanted: wanted.tunnels.len(), capacity });
        }
        for (number, row) in &wanted.nodes {
            if present.nodes.get(number) != Some(row) {
                self.nodes.set(*number, row, 0).map_err(Error::map("write", names::NODES))?;
            }
        }
        for cidr in present.tunnels.keys().filter(|cidr| !wanted.tunnels.contains_key(cidr)) {
            removed(self.tunnels.remove(&key(*cidr)), names::TUNNELS)?;
        }
        for (cidr, row) in &wanted.tunnels {
            if present.tunnels.get(cidr) != Some(row) {
                self.tunnels.insert(&key(*cidr), row, 0).map_err(Error::map("write", names::TUNNELS))?;
            }
        }
        Ok(())
    }
}

fn key(cidr: Cidr) -> Key<Addr> {
    Key::new(cidr.bits, cidr.addr)
}
