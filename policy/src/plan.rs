//! The ordered writes from one content of the maps to another.
//!
//! **What holds.** For one event and one direction, after any prefix of the plan every flow is answered as before or as
//! after. An answer hangs on two things that the kernel reads one after the other: the rule set of the endpoint and the
//! class of its peer. One event can change both at once (a policy brings a new selector: its endpoints get a new rule
//! set, and every address that the selector tells apart gets a new class), and no single write does that. So:
//!
//! 1. Rows that nothing can reach are removed (left by a plan that was cut short), and new rows are written.
//! 2. Endpoints that are no more are removed.
//! 3. Addresses move. Where an endpoint will switch rule sets and answers the old and the new class differently, its old rule
//!    set is *lent* rows for the new class, those that it has for the old one: every answer is as before. That needs a class
//!    that nobody has yet, and rule sets that go with the switch. Else the address moves to a *transition class* of the two,
//!    for which the rule sets now in use have the old class's rows and those yet to come the new one's. All other addresses
//!    move to where they stay; an answer that this changes goes from before to after.
//! 4. Endpoints switch, each by one write, from before to after.
//! 5. Addresses leave the transition classes. A rule set that was in use from the start answers as before up to here and
//!    as after from here on; to the others it makes no difference. Then new endpoints come in.
//! 6. Services move to their new backends, which have been there since 1, and the epoch goes on: live connections are
//!    judged once more, by tables that are final.
//! 7. What nothing can reach any more is removed.
//!
//! It rests on rows never changing their meaning: rule sets and classes are numbers of their content, and what a rule set
//! answers to a class follows from the two. (What is lent is seen by none but those who move, and goes with its rule set.) Where several events meet in one plan (the agent drains its queue), a flow
//! between two things that changed may be answered by the old half of one and the new half of the other.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use common::id::{ClassId, RuleSetId};
use common::net::Addr;
use common::rules::{RuleKey, RuleRow};

use crate::changes::{Changes, View};
use crate::id::content_id;
use crate::tables::{Cidr, MapOp, RulePrefix, Tables};

/// The writes that turn `actual` into `desired`; see the module for what holds in between.
pub fn plan(actual: &Tables, desired: &Tables) -> Vec<MapOp> {
    order(actual, &Changes::between(actual, desired), Leftovers::Possible)
}

/// Whether a plan that was cut short may have left rows behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftovers {
    Possible,
    /// Every row of `actual` is one that some compilation wanted.
    None,
}

/// The writes that carry out `changes`, of which each is one: what is so in `actual` already is none.
pub(crate) fn order(actual: &Tables, changes: &Changes, leftovers: Leftovers) -> Vec<MapOp> {
    let mut plan =
        Plan { actual, changes, now: Changes::default(), ops: Vec::new(), lengths: OnceCell::new() };
    if leftovers == Leftovers::Possible {
        plan.clear_unreachable();
    }
    let moves = plan.moves();
    let bridges = plan.bridges(&moves);

    let temporary = plan.write_rules(&bridges);
    plan.write_backends();
    let removed = plan.remove_endpoints();
    plan.move_addresses(&moves, &bridges.transitions);
    let switched = plan.switch_endpoints();
    plan.settle_addresses();
    plan.add_endpoints();
    plan.write_services();
    if removed || switched || !moves.pairs.is_empty() {
        plan.ops.push(MapOp::AdvanceEpoch);
    }
    plan.remove_the_rest(temporary);
    plan.ops
}

/// A class for the time between: of old and new class.
type Transitions = BTreeMap<(ClassId, ClassId), ClassId>;

/// How addresses move while endpoints have their old rule sets.
#[derive(Default)]
struct Bridges {
    transitions: Transitions,
    /// Rows of old rule sets for new classes.
    lent: BTreeMap<RulePrefix, RuleRow>,
}

/// The plan so far, and what the maps hold after it.
struct Plan<'a> {
    actual: &'a Tables,
    changes: &'a Changes,
    /// What the plan has done to `actual` so far.
    now: Changes,
    ops: Vec<MapOp>,
    lengths: OnceCell<Vec<u32>>,
}

/// The addresses and blocks of which the class changes.
struct Moves {
    peers: BTreeMap<Addr, (ClassId, ClassId)>,
    cidrs: BTreeMap<Cidr, (ClassId, ClassId)>,
    /// The pairs of old and new class that occur and differ.
    pairs: BTreeSet<(ClassId, ClassId)>,
}

impl<'a> Plan<'a> {
    fn now(&self) -> View<'_> {
        View { tables: self.actual, changes: &self.now }
    }

    fn desired(&self) -> View<'a> {
        View { tables: self.actual, changes: self.changes }
    }

    /// The lengths that blocks have, or are to have, the longest first.
    fn lengths(&self) -> &[u32] {
        self.lengths.get_or_init(|| {
            let cidrs = self.actual.cidrs.keys().chain(self.changes.cidrs.keys());
            let lengths: BTreeSet<u32> = cidrs.map(|cidr| cidr.bits).collect();
            lengths.into_iter().rev().collect()
        })
    }

    fn push(&mut self, op: MapOp) {
        self.now.apply(&op);
        self.ops.push(op);
    }

    fn moves(&self) -> Moves {
        let (now, desired) = (self.now(), self.desired());
        let lengths =
            if self.changes.peers.is_empty() && self.changes.cidrs.is_empty() { &[] } else { self.lengths() };
        let classes = |addr: &Addr| (now.class(*addr, lengths), desired.class(*addr, lengths));
        let peers: BTreeMap<_, _> = self.changes.peers.keys().map(|addr| (*addr, classes(addr))).collect();
        // A row may stay as it is while what lies around it moves; then it is no move of its own.
        let classes =
            |cidr: &Cidr| (now.class_of_block(*cidr, lengths), desired.class_of_block(*cidr, lengths));
        let cidrs: BTreeMap<_, _> = self.changes.cidrs.keys().map(|cidr| (*cidr, classes(cidr))).collect();
        let pairs = peers.values().chain(cidrs.values()).copied().filter(|(old, new)| old != new).collect();
        Moves { peers, cidrs, pairs }
    }

    /// What a plan that was cut short wrote for rule sets and classes that came into no use.
    fn clear_unreachable(&mut self) {
        let sets = self.now().used_sets();
        let peers = self.actual.peers.values().chain(self.actual.cidrs.values());
        let classes: BTreeSet<ClassId> = peers.copied().chain([ClassId::ANY]).collect();
        let stale = self.changes.rules.keys().filter(|prefix| {
            let reachable = sets.contains(&prefix.key.rule_set) && classes.contains(&prefix.key.class);
            !reachable && self.actual.rules.contains_key(*prefix)
        });
        for prefix in stale.copied().collect::<Vec<_>>() {
            self.push(MapOp::RemoveRule(prefix));
        }
    }

    /// What each pair of classes needs so that endpoints that will switch answer the new class as they did the old one.
    fn bridges(&self, moves: &Moves) -> Bridges {
        let (now, desired) = (self.now(), self.desired());
        let mut leaving: BTreeSet<RuleSetId> = BTreeSet::new();
        for (addr, next) in &self.changes.endpoints {
            if let (Some(row), Some(next)) = (now.endpoint(addr), next) {
                leaving.extend((row.ingress != next.ingress).then_some(row.ingress));
                leaving.extend((row.egress != next.egress).then_some(row.egress));
            }
        }
        let leaving: Vec<_> = leaving.into_iter().filter(|set| !set.is_open()).collect();
        let needs = |(old, new): &(ClassId, ClassId)| {
            leaving.iter().any(|set| {
                let old_rows: Vec<_> = now.rows(*set, *old).collect();
                let new_rows: BTreeMap<_, _> = desired.rows(*set, *new).chain(now.rows(*set, *new)).collect();
                !old_rows.into_iter().eq(new_rows)
            })
        };
        let mut needing: BTreeMap<ClassId, Vec<ClassId>> = BTreeMap::new();
        for (old, new) in moves.pairs.iter().copied().filter(needs) {
            needing.entry(new).or_default().push(old);
        }
        let mut unused: BTreeSet<ClassId> =
            needing.keys().copied().filter(|new| *new != ClassId::NONE).collect();
        if !unused.is_empty() {
            self.actual.peers.values().chain(self.actual.cidrs.values()).for_each(|class| {
                unused.remove(class);
            });
        }
        let staying = if unused.is_empty() { BTreeSet::new() } else { desired.used_sets() };
        let mut bridges = Bridges::default();
        for (new, olds) in needing {
            let all = moves.pairs.iter().filter(|(_, other)| *other == new).map(|(old, _)| *old);
            let lent =
                unused.contains(&new).then(|| self.lend(&leaving, &staying, new, &all.collect::<Vec<_>>()));
            match lent.flatten() {
                Some(rows) => bridges.lent.extend(rows),
                None => bridges.transitions.extend(olds.into_iter().map(|old| {
                    ((old, new), ClassId::new(content_id("transition", &format!("{old:?} {new:?}"))))
                })),
            }
        }
        bridges
    }

    /// The rows for a class that nobody has yet with which rule sets answer those who move there from `olds` as before;
    /// `None` where there are none: they answered them differently, or stay in use and answer the new class otherwise.
    fn lend(
        &self,
        leaving: &[RuleSetId],
        staying: &BTreeSet<RuleSetId>,
        new: ClassId,
        olds: &[ClassId],
    ) -> Option<Vec<(RulePrefix, RuleRow)>> {
        let (now, desired) = (self.now(), self.desired());
        let (first, others) = olds.split_first()?;
        let mut lent = Vec::new();
        for set in leaving {
            let rows: Vec<_> = now.rows(*set, *first).collect();
            let differ = others.iter().any(|old| !now.rows(*set, *old).eq(rows.iter().copied()));
            // One that no endpoint has any more may have rows all the same: of a pod whose address is another's now.
            let stays = staying.contains(set) || desired.rows(*set, new).next().is_some();
            let otherwise = stays && !desired.rows(*set, new).eq(rows.iter().copied());
            // A plan that was cut short may have left more.
            let left = now.rows(*set, new).any(|(place, _)| !rows.iter().any(|(other, _)| *other == place));
            if differ || otherwise || left {
                return None;
            }
            lent.extend(rows.into_iter().filter(|_| !stays).map(|((protocol, port, bits), row)| {
                let key = RuleKey { rule_set: *set, class: new, protocol, zero: 0, port };
                (RulePrefix { key, bits }, row)
            }));
        }
        Some(lent)
    }

    /// The rows of transition classes and those lent, which must go again. New rows are not taken into `now`: nothing asks for
    /// them, and the first plan has very many.
    fn write_rules(&mut self, Bridges { transitions, lent }: &Bridges) -> BTreeSet<RulePrefix> {
        let (now, desired) = (self.now(), self.desired());
        let mut temporary = lent.clone();
        if !transitions.is_empty() {
            let (old_sets, new_sets) = (now.used_sets(), desired.used_sets());
            let new_sets: BTreeSet<RuleSetId> = new_sets.difference(&old_sets).copied().collect();
            let before = now.rows_among(&old_sets, &transitions.keys().map(|(old, _)| *old).collect());
            let after = desired.rows_among(&new_sets, &transitions.keys().map(|(_, new)| *new).collect());
            let (mut from, mut to): (BTreeMap<_, Vec<_>>, BTreeMap<_, Vec<_>>) = Default::default();
            for ((old, new), transition) in transitions {
                from.entry(*old).or_default().push(*transition);
                to.entry(*new).or_default().push(*transition);
            }
            for (rows, by_class) in [(before, from), (after, to)] {
                for (RulePrefix { key, bits }, row) in rows {
                    let classes = by_class.get(&key.class).into_iter().flatten();
                    temporary.extend(
                        classes
                            .map(|class| (RulePrefix { key: RuleKey { class: *class, ..key }, bits }, row)),
                    );
                }
            }
        }
        let wanted = self.changes.rules.iter().filter_map(|(prefix, row)| Some((prefix, row.as_ref()?)));
        // A change is never what is so already; these rows may have been left by a plan that was cut short.
        let missing = wanted.chain(temporary.iter().filter(|(prefix, row)| now.rule(prefix) != Some(row)));
        let ops: Vec<MapOp> = missing.map(|(prefix, row)| MapOp::PutRule(*prefix, *row)).collect();
        self.ops.extend(ops);
        temporary.into_keys().collect()
    }

    fn write_backends(&mut self) {
        for (key, row) in &self.changes.backends {
            if let Some(row) = row {
                self.push(MapOp::PutBackend(*key, *row));
            }
        }
    }

    /// True if there were any: live connections know the interface of their ends, and must look again.
    fn remove_endpoints(&mut self) -> bool {
        let gone = self.changes.endpoints.iter().filter(|(_, row)| row.is_none());
        let gone: Vec<Addr> = gone.map(|(addr, _)| *addr).collect();
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
            .partition(|(addr, (old, new))| self.desired().peer(addr).is_none() && is_final(*old, *new));
        for (addr, (old, new)) in stay {
            self.put_peer(*addr, until_then(*old, *new));
        }
        let mut cidrs: Vec<_> = moves.cidrs.iter().collect();
        cidrs.sort_by_key(|(cidr, _)| std::cmp::Reverse(cidr.bits));
        for (cidr, (old, new)) in cidrs {
            self.put_cidr(*cidr, until_then(*old, *new));
        }
        for (addr, (_, new)) in leave {
            if self.now().class_of_block(Cidr { addr: *addr, bits: 128 }, self.lengths()) == *new {
                self.push(MapOp::RemovePeer(*addr));
            } else {
                self.put_peer(*addr, *new);
            }
        }
    }

    /// Whether an endpoint is judged otherwise from now on.
    fn switch_endpoints(&mut self) -> bool {
        let changed = self.changes.endpoints.iter().filter_map(|(addr, row)| Some((*addr, (*row)?)));
        let switched: Vec<_> = changed.filter(|(addr, _)| self.now().endpoint(addr).is_some()).collect();
        for (addr, row) in &switched {
            self.push(MapOp::PutEndpoint(*addr, *row));
        }
        !switched.is_empty()
    }

    fn add_endpoints(&mut self) {
        for (addr, row) in &self.changes.endpoints {
            if let Some(row) = row
                && self.now().endpoint(addr).is_none()
            {
                self.push(MapOp::PutEndpoint(*addr, *row));
            }
        }
    }

    /// Brings every address to its final class: first those that stay, then those that fall back to what is around them.
    fn settle_addresses(&mut self) {
        for (cidr, class) in &self.changes.cidrs {
            if let Some(class) = class {
                self.put_cidr(*cidr, *class);
            }
        }
        // Outer blocks before inner ones, so that what an inner one falls back to is final.
        let gone = self.changes.cidrs.iter().filter(|(_, class)| class.is_none()).map(|(cidr, _)| *cidr);
        let mut gone: Vec<Cidr> = gone.filter(|cidr| self.now().cidr(cidr).is_some()).collect();
        gone.sort_by_key(|cidr| cidr.bits);
        for cidr in gone {
            self.push(MapOp::RemoveCidr(cidr));
        }
        for (addr, class) in &self.changes.peers {
            match class {
                Some(class) => self.put_peer(*addr, *class),
                None if self.now().peer(addr).is_some() => self.push(MapOp::RemovePeer(*addr)),
                None => {}
            }
        }
    }

    fn put_peer(&mut self, addr: Addr, class: ClassId) {
        if self.now().peer(&addr) != Some(class) {
            self.push(MapOp::PutPeer(addr, class));
        }
    }

    fn put_cidr(&mut self, cidr: Cidr, class: ClassId) {
        if self.now().cidr(&cidr) != Some(class) {
            self.push(MapOp::PutCidr(cidr, class));
        }
    }

    fn write_services(&mut self) {
        for (key, row) in &self.changes.services {
            match row {
                Some(row) => self.push(MapOp::PutService(*key, *row)),
                None => self.push(MapOp::RemoveService(*key)),
            }
        }
    }

    fn remove_the_rest(&mut self, mut rules: BTreeSet<RulePrefix>) {
        let gone = self.changes.rules.iter().filter(|(_, row)| row.is_none()).map(|(prefix, _)| *prefix);
        // Unless `clear_unreachable` has been there.
        rules.extend(gone.filter(|prefix| !self.now.rules.contains_key(prefix)));
        self.ops.extend(rules.into_iter().map(MapOp::RemoveRule));
        for (key, row) in &self.changes.backends {
            if row.is_none() {
                self.push(MapOp::RemoveBackend(*key));
            }
        }
    }
}
