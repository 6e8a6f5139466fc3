//! Typed handles over `common`'s keys, one write for each [`MapOp`]; `write.rs` puts many into one call.

use std::collections::BTreeMap;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use common::config::Config;
use common::endpoint::EndpointRow;
use common::id::ClassId;
use common::maps as names;
use common::net::Addr;
use common::rules::{RuleKey, RuleRow};
use common::service::{BackendKey, BackendRow, ServiceKey, ServiceRow};
use common::verdict::counter::Cell;
use policy::tables::{Cidr, MapOp, RulePrefix, Tables};

use crate::error::Error;
use crate::pin::Pins;

pub(crate) struct Maps {
    pub(crate) config: Array<MapData, Config>,
    pub(crate) endpoints: HashMap<MapData, Addr, EndpointRow>,
    pub(crate) peers: HashMap<MapData, Addr, ClassId>,
    pub(crate) cidrs: LpmTrie<MapData, Addr, ClassId>,
    /// A set: the values say nothing.
    pub(crate) native: LpmTrie<MapData, Addr, u32>,
    /// The same.
    pub(crate) limited: HashMap<MapData, u32, u32>,
    pub(crate) rules: LpmTrie<MapData, RuleKey, RuleRow>,
    pub(crate) services: HashMap<MapData, ServiceKey, ServiceRow>,
    pub(crate) backends: HashMap<MapData, BackendKey, BackendRow>,
    pub(crate) counters: PerCpuArray<MapData, Cell>,
    /// What `CONFIG` was made to say last.
    told: Option<Config>,
    pub(crate) counted: BTreeMap<&'static str, Counted>,
}

/// A map whose rows are counted.
pub(crate) struct Counted {
    /// Of the same map: what `aya` keeps to itself.
    pub(crate) data: MapData,
    /// Rows that it has room for: the pin's own, which may be older than our constants.
    capacity: usize,
    /// The kernel takes many of its rows in one call.
    pub(crate) has_batches: bool,
}

/// The maps whose rows are planned, and conntrack.
const COUNTED: [&str; 7] =
    [names::ENDPOINTS, names::PEERS, names::CIDRS, names::RULES, names::SERVICES, names::BACKENDS, names::CT];

macro_rules! take {
    ($ebpf:expr, $name:expr) => {
        $ebpf
            .take_map($name)
            .ok_or(Error::Missing { kind: "map", name: $name })?
            .try_into()
            .map_err(Error::map("open", $name))?
    };
}

impl Maps {
    pub(crate) fn take(ebpf: &mut aya::Ebpf, pins: &Pins) -> Result<Self, Error> {
        let mut counted = BTreeMap::new();
        for name in COUNTED {
            let data = MapData::from_pin(pins.map(name)).map_err(Error::map("open", name))?;
            let info = data.info().map_err(Error::map("ask about", name))?;
            counted.insert(name, Counted { data, capacity: info.max_entries() as usize, has_batches: true });
        }
        Ok(Self {
            told: None,
            counted,
            config: take!(ebpf, names::CONFIG),
            endpoints: take!(ebpf, names::ENDPOINTS),
            peers: take!(ebpf, names::PEERS),
            cidrs: take!(ebpf, names::CIDRS),
            native: take!(ebpf, names::NATIVE),
            limited: take!(ebpf, names::LIMITED),
            rules: take!(ebpf, names::RULES),
            services: take!(ebpf, names::SERVICES),
            backends: take!(ebpf, names::BACKENDS),
            counters: take!(ebpf, names::COUNTERS),
        })
    }

    pub(crate) fn capacity(&self, map: &'static str) -> usize {
        self.counted.get(map).map_or(0, |counted| counted.capacity)
    }

    pub(crate) fn read(&self) -> Result<Tables, Error> {
        let mut tables = Tables::default();
        for row in self.endpoints.iter() {
            tables.endpoints.extend([row.map_err(Error::map("read", names::ENDPOINTS))?]);
        }
        for row in self.peers.iter() {
            tables.peers.extend([row.map_err(Error::map("read", names::PEERS))?]);
        }
        for row in self.cidrs.iter() {
            let (key, class) = row.map_err(Error::map("read", names::CIDRS))?;
            tables.cidrs.insert(Cidr { addr: key.data(), bits: key.prefix_len() }, class);
        }
        for row in self.rules.iter() {
            let (key, rule) = row.map_err(Error::map("read", names::RULES))?;
            tables.rules.insert(RulePrefix { key: key.data(), bits: key.prefix_len() }, rule);
        }
        for row in self.services.iter() {
            tables.services.extend([row.map_err(Error::map("read", names::SERVICES))?]);
        }
        for row in self.backends.iter() {
            tables.backends.extend([row.map_err(Error::map("read", names::BACKENDS))?]);
        }
        Ok(tables)
    }

    pub(crate) fn endpoint(&self, addr: Addr) -> Result<Option<EndpointRow>, Error> {
        match self.endpoints.get(&addr, 0) {
            Ok(row) => Ok(Some(row)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(Error::map("read", names::ENDPOINTS)(error)),
        }
    }

    pub(crate) fn write_one(&mut self, op: &MapOp) -> Result<(), Error> {
        match *op {
            MapOp::PutEndpoint(addr, row) => {
                self.endpoints.insert(addr, row, 0).map_err(Error::map("write", names::ENDPOINTS))
            }
            MapOp::RemoveEndpoint(addr) => removed(self.endpoints.remove(&addr), names::ENDPOINTS),
            MapOp::PutPeer(addr, class) => {
                self.peers.insert(addr, class, 0).map_err(Error::map("write", names::PEERS))
            }
            MapOp::RemovePeer(addr) => removed(self.peers.remove(&addr), names::PEERS),
            MapOp::PutCidr(cidr, class) => {
                self.cidrs.insert(&cidr_key(cidr), class, 0).map_err(Error::map("write", names::CIDRS))
            }
            MapOp::RemoveCidr(cidr) => removed(self.cidrs.remove(&cidr_key(cidr)), names::CIDRS),
            MapOp::PutRule(prefix, row) => {
                self.rules.insert(&rule_key(prefix), row, 0).map_err(Error::map("write", names::RULES))
            }
            MapOp::RemoveRule(prefix) => removed(self.rules.remove(&rule_key(prefix)), names::RULES),
            MapOp::PutService(key, row) => {
                self.services.insert(key, row, 0).map_err(Error::map("write", names::SERVICES))
            }
            MapOp::RemoveService(key) => removed(self.services.remove(&key), names::SERVICES),
            MapOp::PutBackend(key, row) => {
                self.backends.insert(key, row, 0).map_err(Error::map("write", names::BACKENDS))
            }
            MapOp::RemoveBackend(key) => removed(self.backends.remove(&key), names::BACKENDS),
            MapOp::AdvanceEpoch => self.update_config(|config| config.epoch = config.epoch.wrapping_add(1)),
        }
    }

    pub(crate) fn config(&self) -> Result<Config, Error> {
        self.config.get(&0, 0).map_err(Error::map("read", names::CONFIG))
    }

    pub(crate) fn set_epoch(&mut self, epoch: u32) -> Result<(), Error> {
        self.update_config(|config| config.epoch = epoch)
    }

    pub(crate) fn count_generation(&mut self) -> Result<(), Error> {
        self.update_config(|config| config.generation += 1)
    }

    pub(crate) fn set_flag(&mut self, flag: u32, is_set: bool) -> Result<(), Error> {
        self.update_config(|config| {
            config.flags = if is_set { config.flags | flag } else { config.flags & !flag }
        })
    }

    fn update_config(&mut self, change: impl FnOnce(&mut Config)) -> Result<(), Error> {
        let mut config = self.config()?;
        change(&mut config);
        self.put_config(config)
    }

    fn put_config(&mut self, config: Config) -> Result<(), Error> {
        self.config.set(0, config, 0).map_err(Error::map("write", names::CONFIG))?;
        self.told = Some(config);
        Ok(())
    }

    /// What `CONFIG` says now is what it must say.
    pub(crate) fn note_config(&mut self) -> Result<(), Error> {
        self.told = Some(self.config()?);
        Ok(())
    }

    /// Whether somebody else had changed `CONFIG`. Live connections are then judged once more: which of them were judged
    /// meanwhile cannot be told.
    pub(crate) fn restore_config(&mut self) -> Result<bool, Error> {
        let Some(mut told) = self.told else { return Ok(false) };
        let found = self.config()?;
        if found == told {
            return Ok(false);
        }
        told.epoch = told.epoch.max(found.epoch).wrapping_add(1);
        self.put_config(told)?;
        Ok(true)
    }

    /// Refuses a plan that would not fit at any point of its way.
    pub(crate) fn check_fit(&self, tables: &Tables, plan: &[MapOp]) -> Result<(), Error> {
        if self.fits_without_removals(tables, plan) {
            return Ok(());
        }
        let mut endpoints = Fit::new(names::ENDPOINTS, tables.endpoints.len());
        let mut peers = Fit::new(names::PEERS, tables.peers.len());
        let mut cidrs = Fit::new(names::CIDRS, tables.cidrs.len());
        let mut rules = Fit::new(names::RULES, tables.rules.len());
        let mut services = Fit::new(names::SERVICES, tables.services.len());
        let mut backends = Fit::new(names::BACKENDS, tables.backends.len());
        for op in plan {
            match op {
                MapOp::PutEndpoint(key, _) => endpoints.put(*key, tables.endpoints.contains_key(key)),
                MapOp::RemoveEndpoint(key) => endpoints.remove(*key, tables.endpoints.contains_key(key)),
                MapOp::PutPeer(key, _) => peers.put(*key, tables.peers.contains_key(key)),
                MapOp::RemovePeer(key) => peers.remove(*key, tables.peers.contains_key(key)),
                MapOp::PutCidr(key, _) => cidrs.put(*key, tables.cidrs.contains_key(key)),
                MapOp::RemoveCidr(key) => cidrs.remove(*key, tables.cidrs.contains_key(key)),
                MapOp::PutRule(key, _) => rules.put(*key, tables.rules.contains_key(key)),
                MapOp::RemoveRule(key) => rules.remove(*key, tables.rules.contains_key(key)),
                MapOp::PutService(key, _) => services.put(*key, tables.services.contains_key(key)),
                MapOp::RemoveService(key) => services.remove(*key, tables.services.contains_key(key)),
                MapOp::PutBackend(key, _) => backends.put(*key, tables.backends.contains_key(key)),
                MapOp::RemoveBackend(key) => backends.remove(*key, tables.backends.contains_key(key)),
                MapOp::AdvanceEpoch => {}
            }
        }
        endpoints.check(self.capacity(names::ENDPOINTS))?;
        peers.check(self.capacity(names::PEERS))?;
        cidrs.check(self.capacity(names::CIDRS))?;
        rules.check(self.capacity(names::RULES))?;
        services.check(self.capacity(names::SERVICES))?;
        backends.check(self.capacity(names::BACKENDS))
    }

    /// Whether there is room even if every row put in were a new one and none were removed: nearly always, and found out
    /// without looking at a row.
    fn fits_without_removals(&self, tables: &Tables, plan: &[MapOp]) -> bool {
        let rows = [
            (names::ENDPOINTS, tables.endpoints.len()),
            (names::PEERS, tables.peers.len()),
            (names::CIDRS, tables.cidrs.len()),
            (names::RULES, tables.rules.len()),
            (names::SERVICES, tables.services.len()),
            (names::BACKENDS, tables.backends.len()),
        ];
        let mut puts: BTreeMap<&str, usize> = BTreeMap::new();
        for op in plan.iter().filter(|op| puts_a_row(op)) {
            *puts.entry(map_of(op)).or_default() += 1;
        }
        rows.into_iter().all(|(map, rows)| rows + puts.get(map).unwrap_or(&0) <= self.capacity(map))
    }
}

fn puts_a_row(op: &MapOp) -> bool {
    match op {
        MapOp::PutEndpoint(..) | MapOp::PutPeer(..) | MapOp::PutCidr(..) => true,
        MapOp::PutRule(..) | MapOp::PutService(..) | MapOp::PutBackend(..) => true,
        MapOp::RemoveEndpoint(_) | MapOp::RemovePeer(_) | MapOp::RemoveCidr(_) => false,
        MapOp::RemoveRule(_) | MapOp::RemoveService(_) | MapOp::RemoveBackend(_) => false,
        MapOp::AdvanceEpoch => false,
    }
}

/// The map that a write goes to.
pub(crate) fn map_of(op: &MapOp) -> &'static str {
    match op {
        MapOp::PutEndpoint(..) | MapOp::RemoveEndpoint(_) => names::ENDPOINTS,
        MapOp::PutPeer(..) | MapOp::RemovePeer(_) => names::PEERS,
        MapOp::PutCidr(..) | MapOp::RemoveCidr(_) => names::CIDRS,
        MapOp::PutRule(..) | MapOp::RemoveRule(_) => names::RULES,
        MapOp::PutService(..) | MapOp::RemoveService(_) => names::SERVICES,
        MapOp::PutBackend(..) | MapOp::RemoveBackend(_) => names::BACKENDS,
        MapOp::AdvanceEpoch => names::CONFIG,
    }
}

/// The highest number of rows that a map reaches on the way through a plan.
struct Fit<K> {
    map: &'static str,
    rows: usize,
    highest: usize,
    /// Whether a row that the plan has touched so far is there.
    touched: BTreeMap<K, bool>,
}

impl<K: Ord> Fit<K> {
    fn new(map: &'static str, rows: usize) -> Self {
        Self { map, rows, highest: rows, touched: BTreeMap::new() }
    }

    /// `was_there` before the plan.
    fn put(&mut self, key: K, was_there: bool) {
        if !self.touched.insert(key, true).unwrap_or(was_there) {
            self.rows += 1;
            self.highest = self.highest.max(self.rows);
        }
    }

    fn remove(&mut self, key: K, was_there: bool) {
        if self.touched.insert(key, false).unwrap_or(was_there) {
            self.rows -= 1;
        }
    }

    fn check(&self, capacity: usize) -> Result<(), Error> {
        if self.highest > capacity {
            return Err(Error::Full { map: self.map, wanted: self.highest, capacity });
        }
        Ok(())
    }
}

/// A row that is already gone is as good as removed.
pub(crate) fn removed(result: Result<(), MapError>, map: &'static str) -> Result<(), Error> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(Error::map("remove from", map)),
    }
}

pub(crate) fn cidr_key(cidr: Cidr) -> Key<Addr> {
    Key::new(cidr.bits, cidr.addr)
}

pub(crate) fn rule_key(prefix: RulePrefix) -> Key<RuleKey> {
    Key::new(prefix.bits, prefix.key)
}
