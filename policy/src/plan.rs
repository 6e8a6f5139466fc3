//! The ordered writes from one content of the maps to another.
//!
//! **What holds.** For one event and one direction, after any prefix of the plan every flow is answered as before or as
//! after. An answer hangs on two things that the kernel reads one after the other: the rule set of the endpoint and the
//! class of its peer. One event can change both at once (a policy brings a new selector: its endpoints get a new rule
//! set, and every address that the selector tells apart gets a new class), and no single write does that. So:
//!
//! 1. Rows that nothing can reach are removed (left by a plan that was cut short), and new rows are written.
//! 2. Endpoints that are no more are removed.
//! 3. Addresses move. Where an endpoint will switch rule sets and answers the old and the new class differently, the
//!    address moves to a *transition class* of the two, for which the rule sets now in use have the old class's rows and
//!    those yet to come the new one's: every answer is as before. All other addresses move to where they stay; an answer
//!    that this changes goes from before to after.
//! 4. Endpoints switch, each by one write, from before to after.
//! 5. Addresses leave the transition classes. A rule set that was in use from the start answers as before up to here and
//!    as after from here on; to the others it makes no difference. Then new endpoints come in.
//! 6. Services move to their new backends, which have been there since 1, and the epoch goes on: live connections are
//!    judged once more, by tables that are final.
//! 7. What nothing can reach any more is removed.
//!
//! It rests on rows never changing their meaning: rule sets and classes are numbers of their content, and what a rule set
//! answers to a class follows from the two. Where several events meet in one plan (the agent drains its queue), a flow
//! between two things that changed may be answered by the old half of one and the new half of the other.

use std::collections::{BTreeMap, BTreeSet};

use common::id::{ClassId, RuleSetId};
use common::net::{Addr, Be16};
use common::rules::{RuleKey, RuleRow};

use crate::id::content_id;
use crate::tables::{Cidr, MapOp, RulePrefix, Tables};

/// The writes that turn `actual` into `desired`; see the module for what holds in between.
pub fn plan(actual: &Tables, desired: &Tables) -> Vec<MapOp> {
    let mut plan = Plan { now: actual.clone(), desired, ops: Vec::new() };
    plan.clear_unreachable();
    let moves = Moves::new(&plan.now, desired);
    let transitions = plan.transitions(&moves);

    plan.write_rules(&transitions);
    plan.write_backends();
    let removed = plan.remove_endpoints();
    plan.move_addresses(&moves, &transitions);
    let switched = plan.switch_endpoints();
    plan.settle_addresses();
    plan.add_endpoints();
    plan.write_services();
    if removed || switched || !moves.pairs.is_empty() {
        plan.ops.push(MapOp::AdvanceEpoch);
    }
    plan.remove_the_rest();
    plan.ops
}

/// A class for the time between: of old and new class.
type Transitions = BTreeMap<(ClassId, ClassId), ClassId>;

/// The plan so far, and what the maps hold after it.
struct Plan<'a> {
    now: Tables,
    desired: &'a Tables,
    ops: Vec<MapOp>,
}

/// The addresses and blocks of which the class changes.
struct Moves {
    peers: BTreeMap<Addr, (ClassId, ClassId)>,
    cidrs: BTreeMap<Cidr, (ClassId, ClassId)>,
    /// The pairs of old and new class that occur and differ.
    pairs: BTreeSet<(ClassId, ClassId)>,
}

impl Moves {
    fn new(actual: &Tables, desired: &Tables) -> Self {
        let peers: BTreeMap<_, _> = actual
            .peers
            .keys()
            .chain(desired.peers.keys())
            .filter(|addr| actual.peers.get(addr) != desired.peers.get(addr))
            .map(|addr| (*addr, (actual.class(*addr), desired.class(*addr))))
            .collect();
        // A row may stay as it is while what lies around it moves; then it is no move of its own.
        let cidrs: BTreeMap<_, _> = actual
            .cidrs
            .keys()
            .chain(desired.cidrs.keys())
            .filter(|cidr| actual.cidrs.get(cidr) != desired.cidrs.get(cidr))
            .map(|cidr| (*cidr, (actual.class_of_block(*cidr), desired.class_of_block(*cidr))))
            .collect();
        let pairs = peers.values().chain(cidrs.values()).copied().filter(|(old, new)| old != new).collect();
        Self { peers, cidrs, pairs }
    }
}

impl Plan<'_> {
    fn push(&mut self, op: MapOp) {
        self.now.apply(&op);
        self.ops.push(op);
    }

    /// What a plan that was cut short wrote for rule sets and classes that came into no use.
    fn clear_unreachable(&mut self) {
        let (sets, classes) = (used_sets(&self.now), used_classes(&self.now));
        let stale = self.now.rules.iter().filter(|(prefix, row)| {
            let reachable = sets.contains(&prefix.key.rule_set) && classes.contains(&prefix.key.class);
            !reachable && self.desired.rules.get(prefix) != Some(row)
        });
        for prefix in stale.map(|(prefix, _)| *prefix).collect::<Vec<_>>() {
            self.push(MapOp::RemoveRule(prefix));
        }
    }

    /// The transition class of each pair of classes that needs one.
    fn transitions(&self, moves: &Moves) -> Transitions {
        let mut leaving: BTreeSet<RuleSetId> = BTreeSet::new();
        for (addr, row) in &self.now.endpoints {
            if let Some(next) = self.desired.endpoints.get(addr) {
                leaving.extend((row.ingress != next.ingress).then_some(row.ingress));
                leaving.extend((row.egress != next.egress).then_some(row.egress));
            }
        }
        let leaving: Vec<_> = leaving.into_iter().filter(|set| !set.is_open()).collect();
        let needs = |(old, new): &(ClassId, ClassId)| {
            leaving.iter().any(|set| {
                let new_rows = rows(self.desired, *set, *new).chain(rows(&self.now, *set, *new));
                rows(&self.now, *set, *old).collect::<BTreeMap<_, _>>() != new_rows.collect()
            })
        };
        let pairs = moves.pairs.iter().copied().filter(needs);
        pairs
            .map(|(old, new)| {
                ((old, new), ClassId::new(content_id("transition", &format!("{old:?} {new:?}"))))
            })
            .collect()
    }

    fn write_rules(&mut self, transitions: &Transitions) {
        let (old_sets, new_sets) = (used_sets(&self.now), used_sets(self.desired));
        let mut wanted: BTreeMap<RulePrefix, RuleRow> = self.desired.rules.clone();
        for ((old, new), transition) in transitions {
            let before =
                old_sets.iter().flat_map(|set| rows(&self.now, *set, *old).map(move |row| (*set, row)));
            let after = new_sets.difference(&old_sets);
            let after = after.flat_map(|set| rows(self.desired, *set, *new).map(move |row| (*set, row)));
            for (rule_set, ((protocol, port, bits), row)) in before.chain(after) {
                let key = RuleKey { rule_set, class: *transition, protocol, zero: 0, port };
                wanted.insert(RulePrefix { key, bits }, row);
            }
        }
        wanted.retain(|prefix, row| self.now.rules.get(prefix) != Some(row));
        for (prefix, row) in wanted {
            self.push(MapOp::PutRule(prefix, row));
        }
    }

    fn write_backends(&mut self) {
        for (key, row) in &self.desired.backends {
            if self.now.backends.get(key) != Some(row) {
                self.push(MapOp::PutBackend(*key, *row));
            }
        }
    }

    /// True if there were any: live connections know the interface of their ends, and must look again.
    fn remove_endpoints(&mut self) -> bool {
        let gone = self.now.endpoints.keys().filter(|addr| !self.desired.endpoints.contains_key(addr));
        let gone: Vec<Addr> = gone.copied().collect();
        for addr in &gone {
            self.push(MapOp::RemoveEndpoint(*addr));
        }
        !gone.is_empty()
    }

    /// Gives every address that moves the class that it has until the endpoints have switched.
    fn move_addresses(&mut self, moves: &Moves, transitions: &Transitions) {
        let until_then = |old: ClassId, new: ClassId| transitions.get(&(old, new)).copied().unwrap_or(new);
        let is_final = |old: ClassId, new: ClassId| until_then(old, new) == new;
        // Addresses before the blocks around them, inner blocks before outer ones: nobody moves by another's write.
        let (leave, stay): (Vec<_>, Vec<_>) = moves
            .peers
            .iter()
            .partition(|(addr, (old, new))| !self.desired.peers.contains_key(addr) && is_final(*old, *new));
        for (addr, (old, new)) in stay {
            self.put_peer(*addr, until_then(*old, *new));
        }
        let mut cidrs: Vec<_> = moves.cidrs.iter().collect();
        cidrs.sort_by_key(|(cidr, _)| std::cmp::Reverse(cidr.bits));
        for (cidr, (old, new)) in cidrs {
            self.put_cidr(*cidr, until_then(*old, *new));
        }
        for (addr, (_, new)) in leave {
            if self.now.class_of_block(Cidr { addr: *addr, bits: 128 }) == *new {
                self.push(MapOp::RemovePeer(*addr));
            } else {
                self.put_peer(*addr, *new);
            }
        }
    }

    /// Whether an endpoint is judged otherwise from now on.
    fn switch_endpoints(&mut self) -> bool {
        let mut switched = false;
        for (addr, row) in &self.desired.endpoints {
            if self.now.endpoints.get(addr).is_some_and(|before| before != row) {
                switched = true;
                self.push(MapOp::PutEndpoint(*addr, *row));
            }
        }
        switched
    }

    fn add_endpoints(&mut self) {
        for (addr, row) in &self.desired.endpoints {
            if !self.now.endpoints.contains_key(addr) {
                self.push(MapOp::PutEndpoint(*addr, *row));
            }
        }
    }

    /// Brings every address to its final class: first those that stay, then those that fall back to what is around them.
    fn settle_addresses(&mut self) {
        for (cidr, class) in &self.desired.cidrs {
            self.put_cidr(*cidr, *class);
        }
        // Outer blocks before inner ones, so that what an inner one falls back to is final.
        let gone = self.now.cidrs.keys().filter(|cidr| !self.desired.cidrs.contains_key(cidr));
        let mut gone: Vec<Cidr> = gone.copied().collect();
        gone.sort_by_key(|cidr| cidr.bits);
        for cidr in gone {
            self.push(MapOp::RemoveCidr(cidr));
        }
        for (addr, class) in &self.desired.peers {
            self.put_peer(*addr, *class);
        }
        let gone = self.now.peers.keys().filter(|addr| !self.desired.peers.contains_key(addr));
        for addr in gone.copied().collect::<Vec<_>>() {
            self.push(MapOp::RemovePeer(addr));
        }
    }

    fn put_peer(&mut self, addr: Addr, class: ClassId) {
        if self.now.peers.get(&addr) != Some(&class) {
            self.push(MapOp::PutPeer(addr, class));
        }
    }

    fn put_cidr(&mut self, cidr: Cidr, class: ClassId) {
        if self.now.cidrs.get(&cidr) != Some(&class) {
            self.push(MapOp::PutCidr(cidr, class));
        }
    }

    fn write_services(&mut self) {
        for (key, row) in &self.desired.services {
            if self.now.services.get(key) != Some(row) {
                self.push(MapOp::PutService(*key, *row));
            }
        }
        let gone = self.now.services.keys().filter(|key| !self.desired.services.contains_key(key));
        for key in gone.copied().collect::<Vec<_>>() {
            self.push(MapOp::RemoveService(key));
        }
    }

    fn remove_the_rest(&mut self) {
        let gone = self.now.rules.keys().filter(|prefix| !self.desired.rules.contains_key(prefix));
        for prefix in gone.copied().collect::<Vec<_>>() {
            self.push(MapOp::RemoveRule(prefix));
        }
        let gone = self.now.backends.keys().filter(|key| !self.desired.backends.contains_key(key));
        for key in gone.copied().collect::<Vec<_>>() {
            self.push(MapOp::RemoveBackend(key));
        }
    }
}

fn used_sets(tables: &Tables) -> BTreeSet<RuleSetId> {
    tables.endpoints.values().flat_map(|row| [row.ingress, row.egress]).filter(|set| !set.is_open()).collect()
}

fn used_classes(tables: &Tables) -> BTreeSet<ClassId> {
    tables.peers.values().chain(tables.cidrs.values()).copied().chain([ClassId::ANY]).collect()
}

/// The rows of one rule set for one class: protocol, port and bits, and the value.
fn rows(
    tables: &Tables,
    rule_set: RuleSetId,
    class: ClassId,
) -> impl Iterator<Item = ((u8, Be16, u32), RuleRow)> + '_ {
    let edge = |protocol, port, bits| {
        let key = RuleKey { rule_set, class, protocol, zero: 0, port: Be16::new(port) };
        RulePrefix { key, bits }
    };
    let all = edge(u8::MIN, u16::MIN, 0)..=edge(u8::MAX, u16::MAX, RuleKey::BITS);
    tables.rules.range(all).map(|(prefix, row)| ((prefix.key.protocol, prefix.key.port, prefix.bits), *row))
}
