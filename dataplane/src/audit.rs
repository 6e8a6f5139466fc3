//! Whether the maps hold what they were given: somebody may have edited a row by hand.
//!
//! Nobody but the agent writes these maps, so [`Tables`] says what must be in them. The kernel tells nobody of a write; the
//! rows are read, a slice at a time, as many as fit into the time given. The endpoints come first, every time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{MapData, MapError};
use aya::sys::SyscallError;
use common::endpoint::EndpointRow;
use common::id::ClassId;
use common::maps as names;
use common::net::Addr;
use common::rules::{RuleKey, RuleRow};
use common::service::{BackendKey, BackendRow, ServiceKey, ServiceRow};
use policy::Tables;
use policy::tables::{Cidr, MapOp, RulePrefix};

use crate::error::Error;
use crate::look::{self, Place};
use crate::pin::Pins;

/// In this order; the endpoints are looked at every time, the others in turn.
const MAPS: [&str; 6] =
    [names::ENDPOINTS, names::PEERS, names::CIDRS, names::RULES, names::SERVICES, names::BACKENDS];
/// More than a bucket of a hash map ever has, and some tens of microseconds' worth.
const SLICE: usize = 512;
/// Rows that are missing can only be told where a whole pass saw no write of ours; after so many passes that did, the map
/// is read in one go.
const DISTURBED_PASSES: u32 = 4;

/// How far the reading has come.
pub(crate) struct Audit {
    maps: Vec<MapData>,
    native: MapData,
    pass: Pass,
}

/// Through one map.
#[derive(Default)]
struct Pass {
    /// Into [`MAPS`].
    map: usize,
    place: Option<Place>,
    /// Rows so far that are in the tables too.
    seen: usize,
    /// Rows were written since this pass began.
    disturbed: bool,
    /// Passes on end of which that is true.
    disturbed_passes: u32,
}

/// One map, what must be in it, and how a row of it is put right.
struct Check<'a, K, V, R> {
    map: &'a MapData,
    table: &'a BTreeMap<R, V>,
    row: fn(K) -> R,
    put: fn(R, V) -> MapOp,
    remove: fn(R) -> MapOp,
}

impl Audit {
    pub(crate) fn new(pins: &Pins) -> Result<Self, Error> {
        let open = |name: &&'static str| MapData::from_pin(pins.map(name)).map_err(Error::map("open", name));
        let maps = MAPS.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { maps, native: open(&names::NATIVE)?, pass: Pass { map: 1, ..Pass::default() } })
    }

    /// What is in the set of blocks that are not masqueraded.
    pub(crate) fn native(&self) -> Result<BTreeSet<Cidr>, Error> {
        let mut native = BTreeSet::new();
        let mut place = None;
        loop {
            let rows = look::slice::<Key<Addr>, u32>(self.native.fd().as_fd(), place.as_ref(), SLICE);
            let (rows, next) = rows.map_err(|error| unread(names::NATIVE, error))?;
            native.extend(rows.into_iter().map(|(key, _)| Cidr { addr: key.data(), bits: key.prefix_len() }));
            match next {
                Some(next) => place = Some(next),
                None => return Ok(native),
            }
        }
    }

    /// Rows have been written: what this pass has counted says nothing any more.
    pub(crate) fn disturb(&mut self) {
        self.pass.disturbed = true;
    }

    /// Reads for about as long as `budget`, at least one slice, at most every map once. What puts right what was found.
    pub(crate) fn rows(&mut self, tables: &Tables, budget: Duration) -> Result<Vec<MapOp>, Error> {
        let began = Instant::now();
        let mut mends = Vec::new();
        let mut endpoints = Pass::default();
        while !self.step(tables, &mut endpoints, &mut mends)? {}
        for _ in 1..MAPS.len() {
            let mut pass = std::mem::take(&mut self.pass);
            let done = loop {
                match self.step(tables, &mut pass, &mut mends) {
                    Ok(false) if began.elapsed() < budget => {}
                    done => break done,
                }
            };
            let failed = done.is_err();
            if matches!(done, Ok(true)) || failed {
                let next = if pass.map + 1 < MAPS.len() { pass.map + 1 } else { 1 };
                let disturbed_passes = if pass.disturbed { pass.disturbed_passes + 1 } else { 0 };
                pass = Pass { map: next, disturbed_passes, ..Pass::default() };
            }
            self.pass = pass;
            done?;
            if began.elapsed() >= budget {
                break;
            }
        }
        Ok(mends)
    }

    /// One slice of one map; whether it was the last.
    fn step(&self, tables: &Tables, pass: &mut Pass, mends: &mut Vec<MapOp>) -> Result<bool, Error> {
        let map = &self.maps[pass.map];
        let done = match MAPS[pass.map] {
            names::ENDPOINTS => Check::<Addr, EndpointRow, Addr> {
                map,
                table: &tables.endpoints,
                row: |key| key,
                put: MapOp::PutEndpoint,
                remove: MapOp::RemoveEndpoint,
            }
            .step(pass, mends),
            names::PEERS => Check::<Addr, ClassId, Addr> {
                map,
                table: &tables.peers,
                row: |key| key,
                put: MapOp::PutPeer,
                remove: MapOp::RemovePeer,
            }
            .step(pass, mends),
            names::CIDRS => Check::<Key<Addr>, ClassId, Cidr> {
                map,
                table: &tables.cidrs,
                row: |key| Cidr { addr: key.data(), bits: key.prefix_len() },
                put: MapOp::PutCidr,
                remove: MapOp::RemoveCidr,
            }
            .step(pass, mends),
            names::RULES => Check::<Key<RuleKey>, RuleRow, RulePrefix> {
                map,
                table: &tables.rules,
                row: |key| RulePrefix { key: key.data(), bits: key.prefix_len() },
                put: MapOp::PutRule,
                remove: MapOp::RemoveRule,
            }
            .step(pass, mends),
            names::SERVICES => Check::<ServiceKey, ServiceRow, ServiceKey> {
                map,
                table: &tables.services,
                row: |key| key,
                put: MapOp::PutService,
                remove: MapOp::RemoveService,
            }
            .step(pass, mends),
            _ => Check::<BackendKey, BackendRow, BackendKey> {
                map,
                table: &tables.backends,
                row: |key| key,
                put: MapOp::PutBackend,
                remove: MapOp::RemoveBackend,
            }
            .step(pass, mends),
        };
        done.map_err(|error| unread(MAPS[pass.map], error))
    }
}

fn unread(map: &'static str, io_error: io::Error) -> Error {
    let error = SyscallError { call: "bpf_map_lookup_batch", io_error };
    Error::map("read", map)(MapError::SyscallError(error))
}

impl<K: Pod, V: Pod + PartialEq, R: Copy + Ord> Check<'_, K, V, R> {
    fn step(&self, pass: &mut Pass, mends: &mut Vec<MapOp>) -> io::Result<bool> {
        let (rows, next) = look::slice::<K, V>(self.map.fd().as_fd(), pass.place.as_ref(), SLICE)?;
        for (key, value) in rows {
            let row = (self.row)(key);
            match self.table.get(&row) {
                Some(right) => {
                    pass.seen += 1;
                    if *right != value {
                        mends.push((self.put)(row, *right));
                    }
                }
                None => mends.push((self.remove)(row)),
            }
        }
        pass.place = next;
        if next.is_some() {
            return Ok(false);
        }
        let count = if pass.disturbed { pass.disturbed_passes >= DISTURBED_PASSES } else { true };
        if count && (pass.disturbed || pass.seen < self.table.len()) {
            mends.extend(self.missing()?);
        }
        Ok(true)
    }

    /// Reads the map in one go.
    fn missing(&self) -> io::Result<Vec<MapOp>> {
        let mut there = BTreeSet::new();
        let mut place: Option<Place> = None;
        loop {
            let (rows, next) = look::slice::<K, V>(self.map.fd().as_fd(), place.as_ref(), SLICE)?;
            there.extend(rows.into_iter().map(|(key, _)| (self.row)(key)));
            match next {
                Some(next) => place = Some(next),
                None => break,
            }
        }
        let missing = self.table.iter().filter(|(row, _)| !there.contains(row));
        Ok(missing.map(|(row, value)| (self.put)(*row, *value)).collect())
    }
}
