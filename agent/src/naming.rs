//! Puts names back on the numbers of flow events.
//!
//! Events come after the fact: the pod may be gone, the rule set replaced. So names live on for a while after what they
//! name. Each name is made once and shared by every flow that bears it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::id::{RuleId, RuleSetId};
use common::net::Addr;
use policy::{Kind, Names, ObjectKey, Retired, RuleName, RuleSetName, World};

use crate::source::Change;

/// How long a pod that is gone keeps its name here.
const REMEMBERED: Duration = Duration::from_secs(30);
/// How many generations of rules and rule sets that are no more keep their names.
const GENERATIONS: usize = 4;
/// Strangers' addresses are remembered too (as nameless), and a scan has many: about 4 MiB.
const CACHED_ADDRESSES: usize = 1 << 16;

#[derive(Default)]
pub(crate) struct Naming {
    /// Of what is in use.
    names: Names,
    /// Of what was, the latest first.
    retired: VecDeque<Names>,
    rules: HashMap<RuleId, Arc<RuleName>>,
    rule_sets: HashMap<RuleSetId, Arc<RuleSetName>>,
    addresses: HashMap<Addr, Option<Arc<str>>>,
    departed: HashMap<IpAddr, (Arc<str>, Instant)>,
}

impl Naming {
    /// Takes in names that are new, or have changed.
    pub(crate) fn learn(&mut self, names: Names) {
        for id in names.rule_sets.keys() {
            self.rule_sets.remove(id);
        }
        self.names.rules.extend(names.rules);
        self.names.rule_sets.extend(names.rule_sets);
    }

    /// Puts the names of what is no more among those that are forgotten in time.
    pub(crate) fn retire(&mut self, retired: &Retired) {
        let rules = retired.rules.iter().filter_map(|id| self.names.rules.remove_entry(id)).collect();
        let sets = retired.rule_sets.iter().filter_map(|id| self.names.rule_sets.remove_entry(id));
        let names = Names { rules, rule_sets: sets.collect() };
        if names != Names::default() {
            self.retired.push_front(names);
            self.retired.truncate(GENERATIONS);
            self.rules.clear();
            self.rule_sets.clear();
        }
    }

    pub(crate) fn rule_sets(&self) -> &BTreeMap<RuleSetId, RuleSetName> {
        &self.names.rule_sets
    }

    /// The world has changed: what was looked up in it may be old.
    pub(crate) fn world_changed(&mut self) {
        self.addresses.clear();
    }

    /// Takes a change into the world, and notes which addresses a pod leaves with it.
    pub(crate) fn follow(&mut self, world: &mut World, change: Change) {
        let key = match &change {
            Change::Apply(object, _) => object.key(),
            Change::Delete(key) => key.clone(),
        };
        let before = pod_addresses(world, &key).to_vec();
        match change {
            Change::Apply(object, warnings) => world.apply(object, &warnings),
            Change::Delete(key) => world.delete(&key),
        }
        if !before.is_empty() {
            let after = pod_addresses(world, &key);
            let pod = format!("{}/{}", key.namespace.as_deref().unwrap_or_default(), key.name);
            before.iter().filter(|ip| !after.contains(ip)).for_each(|ip| self.departed(*ip, &pod));
        }
    }

    /// A pod is gone from this address.
    pub(crate) fn departed(&mut self, ip: IpAddr, name: &str) {
        let now = Instant::now();
        // Not each time: ten thousand pods may leave at once.
        if self.departed.len() == self.departed.capacity() {
            self.departed.retain(|_, (_, since)| now.duration_since(*since) < REMEMBERED);
        }
        self.departed.insert(ip, (name.into(), now));
    }

    pub(crate) fn address(&mut self, world: &World, addr: Addr) -> Option<Arc<str>> {
        if let Some(name) = self.addresses.get(&addr) {
            return name.clone();
        }
        let ip = addr.to_ip();
        if let Some(name) = world.pod_name_of(ip) {
            return self.cache(addr, Some(name.into()));
        }
        match self.departed.get(&ip) {
            // Not cached, so that it is forgotten in time.
            Some((name, since)) if since.elapsed() < REMEMBERED => Some(Arc::clone(name)),
            _ => self.cache(addr, None),
        }
    }

    fn cache(&mut self, addr: Addr, name: Option<Arc<str>>) -> Option<Arc<str>> {
        if self.addresses.len() >= CACHED_ADDRESSES {
            self.addresses.clear();
        }
        self.addresses.insert(addr, name.clone());
        name
    }

    pub(crate) fn rule(&mut self, id: RuleId) -> Option<Arc<RuleName>> {
        find(&mut self.rules, &self.names, &self.retired, |names| &names.rules, id)
    }

    pub(crate) fn rule_set(&mut self, id: RuleSetId) -> Option<Arc<RuleSetName>> {
        find(&mut self.rule_sets, &self.names, &self.retired, |names| &names.rule_sets, id)
    }
}

fn find<Id: Copy + Ord + std::hash::Hash, Name: Clone>(
    made: &mut HashMap<Id, Arc<Name>>,
    names: &Names,
    retired: &VecDeque<Names>,
    part: impl Fn(&Names) -> &BTreeMap<Id, Name>,
    id: Id,
) -> Option<Arc<Name>> {
    if let Some(name) = made.get(&id) {
        return Some(Arc::clone(name));
    }
    let mut known = std::iter::once(names).chain(retired);
    let name = Arc::new(known.find_map(|names| part(names).get(&id))?.clone());
    made.insert(id, Arc::clone(&name));
    Some(name)
}

fn pod_addresses<'a>(world: &'a World, key: &ObjectKey) -> &'a [IpAddr] {
    match (key.kind, &key.namespace) {
        (Kind::Pod, Some(namespace)) => world.addresses_of_pod(namespace, &key.name),
        _ => &[],
    }
}
