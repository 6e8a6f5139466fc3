//! Tables with changes laid over them, so that a change of one row costs one row and not a copy of all.

use std::collections::btree_map::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::ops::RangeInclusive;

use common::endpoint::EndpointRow;
use common::id::{ClassId, RuleSetId};
use common::net::{Addr, Be16};
use common::rules::{RuleKey, RuleRow};
use common::service::{BackendKey, BackendRow, ServiceKey, ServiceRow};

use crate::tables::{Cidr, MapOp, RulePrefix, Tables};

/// What keys are to hold; `None`: no row.
pub(crate) type Change<K, V> = BTreeMap<K, Option<V>>;

/// Changes to the tables of a node. Merging two is inserting the later over the earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub endpoints: Change<Addr, EndpointRow>,
    pub peers: Change<Addr, ClassId>,
    pub cidrs: Change<Cidr, ClassId>,
    pub rules: Change<RulePrefix, RuleRow>,
    pub services: Change<ServiceKey, ServiceRow>,
    pub backends: Change<BackendKey, BackendRow>,
}

impl Changes {
    /// What turns one into the other.
    pub(crate) fn between(actual: &Tables, desired: &Tables) -> Self {
        fn all<K: Copy + Ord, V: Copy>(desired: &BTreeMap<K, V>) -> Change<K, V> {
            desired.iter().map(|(key, value)| (*key, Some(*value))).collect()
        }
        let mut changes = Self {
            endpoints: all(&desired.endpoints),
            peers: all(&desired.peers),
            cidrs: all(&desired.cidrs),
            rules: all(&desired.rules),
            services: all(&desired.services),
            backends: all(&desired.backends),
        };
        changes.complete(actual);
        changes.prune(actual);
        changes
    }

    /// These being all the rows that there are to be: every other one goes.
    pub(crate) fn complete(&mut self, actual: &Tables) {
        fn complete<K: Copy + Ord, V>(change: &mut Change<K, V>, actual: &BTreeMap<K, V>) {
            for key in actual.keys() {
                change.entry(*key).or_insert(None);
            }
        }
        complete(&mut self.endpoints, &actual.endpoints);
        complete(&mut self.peers, &actual.peers);
        complete(&mut self.cidrs, &actual.cidrs);
        complete(&mut self.rules, &actual.rules);
        complete(&mut self.services, &actual.services);
        complete(&mut self.backends, &actual.backends);
    }

    /// Drops what is so already.
    pub(crate) fn prune(&mut self, actual: &Tables) {
        fn prune<K: Ord, V: PartialEq>(change: &mut Change<K, V>, actual: &BTreeMap<K, V>) {
            change.retain(|key, value| actual.get(key) != value.as_ref());
        }
        prune(&mut self.endpoints, &actual.endpoints);
        prune(&mut self.peers, &actual.peers);
        prune(&mut self.cidrs, &actual.cidrs);
        prune(&mut self.rules, &actual.rules);
        prune(&mut self.services, &actual.services);
        prune(&mut self.backends, &actual.backends);
    }

    /// Takes in one write.
    pub(crate) fn apply(&mut self, op: &MapOp) {
        match *op {
            MapOp::PutEndpoint(addr, row) => drop(self.endpoints.insert(addr, Some(row))),
            MapOp::RemoveEndpoint(addr) => drop(self.endpoints.insert(addr, None)),
            MapOp::PutPeer(addr, class) => drop(self.peers.insert(addr, Some(class))),
            MapOp::RemovePeer(addr) => drop(self.peers.insert(addr, None)),
            MapOp::PutCidr(cidr, class) => drop(self.cidrs.insert(cidr, Some(class))),
            MapOp::RemoveCidr(cidr) => drop(self.cidrs.insert(cidr, None)),
            MapOp::PutRule(prefix, row) => drop(self.rules.insert(prefix, Some(row))),
            MapOp::RemoveRule(prefix) => drop(self.rules.insert(prefix, None)),
            MapOp::PutService(key, row) => drop(self.services.insert(key, Some(row))),
            MapOp::RemoveService(key) => drop(self.services.insert(key, None)),
            MapOp::PutBackend(key, row) => drop(self.backends.insert(key, Some(row))),
            MapOp::RemoveBackend(key) => drop(self.backends.insert(key, None)),
            MapOp::AdvanceEpoch => {}
        }
    }
}

/// Tables as they are with changes.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub tables: &'a Tables,
    pub changes: &'a Changes,
}

/// What a key holds under a change.
pub(crate) fn row<'a, K: Ord, V>(
    base: &'a BTreeMap<K, V>,
    change: &'a Change<K, V>,
    key: &K,
) -> Option<&'a V> {
    match change.get(key) {
        Some(value) => value.as_ref(),
        None => base.get(key),
    }
}

impl<'a> View<'a> {
    pub(crate) fn endpoint(&self, addr: &Addr) -> Option<&'a EndpointRow> {
        row(&self.tables.endpoints, &self.changes.endpoints, addr)
    }

    pub(crate) fn peer(&self, addr: &Addr) -> Option<ClassId> {
        row(&self.tables.peers, &self.changes.peers, addr).copied()
    }

    pub(crate) fn cidr(&self, cidr: &Cidr) -> Option<ClassId> {
        row(&self.tables.cidrs, &self.changes.cidrs, cidr).copied()
    }

    pub(crate) fn rule(&self, prefix: &RulePrefix) -> Option<&'a RuleRow> {
        row(&self.tables.rules, &self.changes.rules, prefix)
    }

    /// The class of an address; `lengths` are those that blocks have, the longest first.
    pub(crate) fn class(&self, addr: Addr, lengths: &[u32]) -> ClassId {
        self.peer(&addr).unwrap_or_else(|| self.class_of_block(Cidr { addr, bits: 128 }, lengths))
    }

    /// The class that the innermost row around a block gives it.
    pub(crate) fn class_of_block(&self, block: Cidr, lengths: &[u32]) -> ClassId {
        let around = lengths.iter().filter(|bits| **bits <= block.bits);
        around
            .map(|bits| Cidr::around(block.addr, *bits))
            .find_map(|cidr| self.cidr(&cidr))
            .unwrap_or(ClassId::NONE)
    }

    /// The rule sets that any endpoint refers to.
    pub(crate) fn used_sets(&self) -> BTreeSet<RuleSetId> {
        let unchanged =
            self.tables.endpoints.iter().filter(|(addr, _)| !self.changes.endpoints.contains_key(addr));
        let rows = unchanged.map(|(_, row)| row).chain(self.changes.endpoints.values().flatten());
        rows.flat_map(|row| [row.ingress, row.egress]).filter(|set| !set.is_open()).collect()
    }

    /// The rows of one rule set for one class: protocol, port and bits, and the value.
    pub(crate) fn rows(
        &self,
        rule_set: RuleSetId,
        class: ClassId,
    ) -> impl Iterator<Item = ((u8, Be16, u32), RuleRow)> + use<'a> {
        self.prefixes(edge(rule_set, class, 0)..=edge(rule_set, class, u8::MAX))
            .map(|(prefix, row)| ((prefix.key.protocol, prefix.key.port, prefix.bits), row))
    }

    /// All rows of one rule set.
    pub(crate) fn rows_of_set(
        &self,
        rule_set: RuleSetId,
    ) -> impl Iterator<Item = (RulePrefix, RuleRow)> + use<'a> {
        self.prefixes(edge(rule_set, ClassId::NONE, 0)..=edge(rule_set, ClassId::ANY, u8::MAX))
    }

    /// All rows of one rule set for one class.
    pub(crate) fn rows_of_class(
        &self,
        rule_set: RuleSetId,
        class: ClassId,
    ) -> impl Iterator<Item = (RulePrefix, RuleRow)> + use<'a> {
        self.prefixes(edge(rule_set, class, 0)..=edge(rule_set, class, u8::MAX))
    }

    /// The rows of any of these rule sets for any of these classes, in order.
    pub(crate) fn rows_among(
        &self,
        rule_sets: &BTreeSet<RuleSetId>,
        classes: &BTreeSet<ClassId>,
    ) -> Vec<(RulePrefix, RuleRow)> {
        /// Rows that one passes by while one looks a pair up.
        const LOOKUP: usize = 64;
        if rule_sets.len() * classes.len() * LOOKUP < self.tables.rules.len() {
            let pairs = rule_sets.iter().flat_map(|set| classes.iter().map(move |class| (*set, *class)));
            return pairs.flat_map(|(set, class)| self.rows_of_class(set, class)).collect();
        }
        let (Some(first), Some(last)) = (rule_sets.first(), rule_sets.last()) else { return Vec::new() };
        let all = self.prefixes(edge(*first, ClassId::NONE, 0)..=edge(*last, ClassId::ANY, u8::MAX));
        let asked = |key: &RuleKey| classes.contains(&key.class) && rule_sets.contains(&key.rule_set);
        all.filter(|(prefix, _)| asked(&prefix.key)).collect()
    }

    fn prefixes(&self, range: RangeInclusive<RulePrefix>) -> Merged<'a> {
        Merged {
            base: self.tables.rules.range(range.clone()).peekable(),
            over: self.changes.rules.range(range).peekable(),
        }
    }
}

/// The lowest and the highest row that a rule set can have for a class.
fn edge(rule_set: RuleSetId, class: ClassId, protocol: u8) -> RulePrefix {
    let (port, bits) = if protocol == 0 { (0, 0) } else { (u16::MAX, RuleKey::BITS) };
    RulePrefix { key: RuleKey { rule_set, class, protocol, zero: 0, port: Be16::new(port) }, bits }
}

/// Rows in order, changed ones as they will be.
struct Merged<'a> {
    base: Peekable<Range<'a, RulePrefix, RuleRow>>,
    over: Peekable<Range<'a, RulePrefix, Option<RuleRow>>>,
}

impl Iterator for Merged<'_> {
    type Item = (RulePrefix, RuleRow);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let changed = match (self.base.peek(), self.over.peek()) {
                (Some((below, _)), Some((above, _))) => above <= below,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if !changed {
                return self.base.next().map(|(prefix, row)| (*prefix, *row));
            }
            let (prefix, row) = self.over.next()?;
            self.base.next_if(|(below, _)| *below == prefix);
            if let Some(row) = row {
                return Some((*prefix, *row));
            }
        }
    }
}
