//! Which policies isolate which endpoint of this node, and the rule sets that follow.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use common::endpoint::EndpointRow;
use common::id::{RuleId, RuleSetId};
use common::verdict::Direction;

use super::Retired;
use crate::class::{Match, Terms};
use crate::dirty::Dirty;
use crate::facts::{NamedPort, PodFacts};
use crate::model::Policy;
use crate::names::{Names, RuleSetName};
use crate::ruleset::RuleSet;
use crate::world::{Attached, Interface, Name, World, of_namespace};

#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// Each with a number of its own, which another version of it does not have.
    policies: BTreeMap<Name, (u64, Arc<Policy>)>,
    /// How many versions of policies there have been.
    versions: u64,
    attached: BTreeMap<Interface, Endpoint>,
    /// Replicas need no second compilation.
    known: HashMap<Arc<Decisive>, Known>,
    pub(super) sets: BTreeMap<RuleSetId, UsedSet>,
    /// The rule sets that ask for a term.
    asking: HashMap<u32, Vec<RuleSetId>>,
    /// How many rule sets name a rule.
    rules: HashMap<RuleId, usize>,
}

#[derive(Debug)]
struct Endpoint {
    row: EndpointRow,
    because: Vec<Arc<Decisive>>,
}

/// What decides a rule set.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Decisive {
    UnknownPod(Direction),
    /// The versions of the policies that isolate and, for ingress, the pod's named ports.
    Policies(Direction, Vec<u64>, Vec<NamedPort>),
}

#[derive(Debug)]
struct Known {
    id: RuleSetId,
    keeps: bool,
    users: usize,
}

#[derive(Debug)]
pub(super) struct UsedSet {
    pub(super) rule_set: RuleSet,
    /// How many decisive facts come to it.
    users: usize,
    /// How many rows it has.
    pub(super) rows: usize,
    /// Its name, of which the number of rows is a part, is news.
    pub(super) renamed: bool,
}

/// What an update did to the rule sets.
#[derive(Debug, Default)]
pub(super) struct SetNews {
    pub(super) born: Vec<RuleSetId>,
    pub(super) died: Vec<(RuleSetId, RuleSet)>,
    pub(super) terms: TermNews,
    /// The addresses of endpoints whose row changed.
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// Terms that came into use, and those that went out of it.
#[derive(Debug, Default)]
pub(super) struct TermNews {
    pub(super) added: Vec<u32>,
    pub(super) removed: Vec<u32>,
}

impl Endpoints {
    /// With `whole`, everything is dirty.
    pub(super) fn update(&mut self, world: &World, dirty: &Dirty, whole: bool, terms: &mut Terms) -> SetNews {
        let mut interfaces = dirty.interfaces.clone();
        for name in &dirty.policies {
            let (old, new) = self.replace(world, name);
            if whole {
                continue;
            }
            let selects = |attached: &Attached| {
                let pod = attached.pod.as_deref().filter(|pod| pod.namespace == name.0);
                pod.is_some_and(|pod| [&old, &new].into_iter().flatten().any(|p| p.pods.matches(&pod.labels)))
            };
            let selected = world.interfaces().filter(|at| world.attached_at(at).is_some_and(selects));
            interfaces.extend(selected.cloned());
        }

        let mut news = SetNews::default();
        let before: BTreeSet<RuleSetId> = self.sets.keys().copied().collect();
        let mut left = Vec::new();
        for interface in interfaces {
            let old = self.attached.remove(&interface);
            if let Some(attached) = world.attached_at(&interface) {
                let new = self.endpoint(attached, terms);
                if old.as_ref().is_none_or(|old| old.row != new.row) {
                    news.addresses.extend(&attached.attachment.ips);
                }
                self.attached.insert(interface, new);
            }
            // Not before the new one has what it needs: most of it is what the old one had.
            left.extend(old.into_iter().flat_map(|old| old.because));
        }
        left.iter().for_each(|because| self.leave(because));
        self.settle(&before, terms, &mut news);
        news
    }

    /// The rule sets that ask for one of these terms.
    pub(super) fn asking(&self, matches: &[Match]) -> BTreeSet<RuleSetId> {
        matches.iter().filter_map(|m| self.asking.get(&m.term)).flatten().copied().collect()
    }

    pub(super) fn row(&self, attached: &Attached) -> Option<EndpointRow> {
        let interface = (attached.attachment.container_id.clone(), attached.attachment.ifname.clone());
        self.attached.get(&interface).map(|endpoint| endpoint.row)
    }

    /// Puts names on what was born and retires those of what died.
    pub(super) fn name(&mut self, news: &SetNews, names: &mut Names, retiring: &mut Retired) {
        for id in &news.born {
            let Some(set) = self.sets.get(id) else { continue };
            retiring.rule_sets.remove(id);
            for (rule, name) in set.rule_set.rule_names() {
                retiring.rules.remove(&rule);
                *self.rules.entry(rule).or_default() += 1;
                names.rules.entry(rule).or_insert_with(|| name.clone());
            }
        }
        for (id, rule_set) in &news.died {
            retiring.rule_sets.insert(*id);
            for (rule, _) in rule_set.rule_names() {
                let users = self.rules.entry(rule).or_default();
                *users = users.saturating_sub(1);
                if *users == 0 {
                    self.rules.remove(&rule);
                    retiring.rules.insert(rule);
                }
            }
        }
        for (id, set) in &mut self.sets {
            if std::mem::take(&mut set.renamed) {
                let RuleSet { direction, policies, .. } = &set.rule_set;
                let name = RuleSetName { direction: *direction, policies: policies.clone(), rows: set.rows };
                names.rule_sets.insert(*id, name);
            }
        }
    }

    pub(super) fn retire_all(&self, retiring: &mut Retired) {
        retiring.rule_sets.extend(self.sets.keys());
        retiring.rules.extend(self.rules.keys());
    }

    /// Takes in what a policy is now. What it was, and what it is.
    fn replace(&mut self, world: &World, name: &Name) -> (Option<Arc<Policy>>, Option<Arc<Policy>>) {
        let new = world.policies.get(name).cloned();
        let old = match &new {
            Some(policy) => {
                self.versions += 1;
                self.policies.insert(name.clone(), (self.versions, Arc::clone(policy)))
            }
            None => self.policies.remove(name),
        };
        (old.map(|(_, policy)| policy), new)
    }

    fn endpoint(&mut self, attached: &Attached, terms: &mut Terms) -> Endpoint {
        let (mut flags, mut sets, mut because) = (0, [RuleSetId::OPEN; 2], Vec::new());
        let directions =
            [(Direction::Ingress, EndpointRow::KEEP_INGRESS), (Direction::Egress, EndpointRow::KEEP_EGRESS)];
        for ((direction, keep), set) in directions.into_iter().zip(&mut sets) {
            let known =
                if attached.is_unknown_pod() {
                    Some(self.enter(Decisive::UnknownPod(direction), terms, |_| {
                        (RuleSet::closed(direction), false)
                    }))
                } else {
                    let pod = attached.pod.as_deref().filter(|pod| !pod.host_network);
                    pod.and_then(|pod| self.of_pod(pod, direction, terms))
                };
            if let Some((decisive, id, keeps)) = known {
                *set = id;
                flags |= if keeps { keep } else { 0 };
                because.push(decisive);
            }
        }
        let row =
            EndpointRow { ifindex: attached.attachment.ifindex, flags, ingress: sets[0], egress: sets[1] };
        Endpoint { row, because }
    }

    fn of_pod(
        &mut self,
        pod: &PodFacts,
        direction: Direction,
        terms: &mut Terms,
    ) -> Option<(Arc<Decisive>, RuleSetId, bool)> {
        let isolating = of_namespace(&self.policies, &pod.namespace).map(|(_, policy)| policy);
        let isolating = isolating
            .filter(|(_, policy)| policy.rules(direction).is_some() && policy.pods.matches(&pod.labels));
        let isolating: Vec<(u64, Arc<Policy>)> = isolating.cloned().collect();
        if isolating.is_empty() {
            return None;
        }
        let versions = isolating.iter().map(|(version, _)| *version).collect();
        let ports = if direction == Direction::Ingress { pod.ports.to_vec() } else { Vec::new() };
        let decisive = Decisive::Policies(direction, versions, ports);
        Some(self.enter(decisive, terms, |terms| {
            let policies: Vec<&Policy> = isolating.iter().map(|(_, policy)| &**policy).collect();
            let keeps = policies.iter().all(|policy| policy.keep);
            (RuleSet::new(direction, &policies, pod, terms), keeps)
        }))
    }

    /// One more user of the rule set that follows from `decisive`.
    fn enter(
        &mut self,
        decisive: Decisive,
        terms: &mut Terms,
        make: impl FnOnce(&mut Terms) -> (RuleSet, bool),
    ) -> (Arc<Decisive>, RuleSetId, bool) {
        if let Some((decisive, _)) = self.known.get_key_value(&decisive) {
            let decisive = Arc::clone(decisive);
            if let Some(known) = self.known.get_mut(&decisive) {
                known.users += 1;
                return (decisive, known.id, known.keeps);
            }
        }
        let (rule_set, keeps) = make(terms);
        let id = rule_set.id(terms);
        let set =
            self.sets.entry(id).or_insert_with(|| UsedSet { rule_set, users: 0, rows: 0, renamed: false });
        set.users += 1;
        let decisive = Arc::new(decisive);
        self.known.insert(Arc::clone(&decisive), Known { id, keeps, users: 1 });
        (decisive, id, keeps)
    }

    /// One less. A rule set that nobody uses any more stays until `settle`.
    fn leave(&mut self, decisive: &Arc<Decisive>) {
        let Some(known) = self.known.get_mut(decisive) else { return };
        known.users -= 1;
        if known.users == 0 {
            if let Some(set) = self.sets.get_mut(&known.id) {
                set.users -= 1;
            }
            self.known.remove(decisive);
        }
    }

    /// Counts the users of terms, and finds what is new and what nobody uses any more.
    fn settle(&mut self, before: &BTreeSet<RuleSetId>, terms: &mut Terms, news: &mut SetNews) {
        news.born = self.sets.keys().filter(|id| !before.contains(id)).copied().collect();
        let mut touched: BTreeMap<u32, u32> = BTreeMap::new();
        for id in &news.born {
            for term in self.sets.get(id).iter().flat_map(|set| set.rule_set.terms()) {
                self.asking.entry(term).or_default().push(*id);
                if let Some(users) = terms.users(term) {
                    touched.entry(term).or_insert(*users);
                    *users += 1;
                }
            }
        }
        let unused: Vec<RuleSetId> =
            self.sets.iter().filter(|(_, set)| set.users == 0).map(|(id, _)| *id).collect();
        for id in unused {
            let Some(set) = self.sets.remove(&id) else { continue };
            for term in set.rule_set.terms() {
                if let Some(users) = terms.users(term) {
                    touched.entry(term).or_insert(*users);
                    *users -= 1;
                }
            }
            news.died.push((id, set.rule_set));
        }
        let died: BTreeSet<RuleSetId> = news.died.iter().map(|(id, _)| *id).collect();
        let left: BTreeSet<u32> = news.died.iter().flat_map(|(_, rule_set)| rule_set.terms()).collect();
        for term in left {
            if let Entry::Occupied(mut asking) = self.asking.entry(term) {
                asking.get_mut().retain(|id| !died.contains(id));
                if asking.get().is_empty() {
                    asking.remove();
                }
            }
        }
        for (term, before) in touched {
            match (before, terms.users(term).map_or(0, |users| *users)) {
                (0, 1..) => news.terms.added.push(term),
                (_, 0) => news.terms.removed.push(term),
                _ => {}
            }
        }
    }
}
