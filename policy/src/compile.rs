//! From the world to the tables.
//!
//! In this order: which policies isolate which endpoint of this node, the rule sets that follow, the selectors that
//! those use, the class of each address under those selectors, and the rows for each rule set and class.

use std::collections::{BTreeMap, BTreeSet};

use common::endpoint::EndpointRow;
use common::id::{ClassId, RuleSetId};
use common::net::Addr;
use common::verdict::Direction;

use crate::class::{AnchorIndex, Classes, Matcher, Terms};
use crate::facts::{NamedPort, PodFacts};
use crate::model::Policy;
use crate::names::{Names, RuleSetName};
use crate::ruleset::RuleSet;
use crate::services;
use crate::tables::{Cidr, Tables};
use crate::warning::Warning;
use crate::world::{Attached, World};

/// What the maps of one node must hold, what their numbers mean, and what could not be honoured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    pub tables: Tables,
    pub names: Names,
    /// In order, each once.
    pub warnings: Vec<Warning>,
}

/// Compiles every policy that touches a pod on the world's node.
///
/// An endpoint whose pod the API has never shown is closed in both directions: its labels are not known, so it cannot be
/// known which policies isolate it.
pub fn compile(world: &World) -> Compiled {
    let mut warnings: BTreeSet<Warning> = world.warnings().cloned().collect();
    warnings.extend(undeclared_namespaces(world));

    let mut rule_sets = RuleSets::new(world);
    let mut tables = Tables::default();
    for attached in world.attached() {
        let row = rule_sets.endpoint(attached);
        for ip in &attached.attachment.ips {
            if world.holder(*ip).is_some_and(|holder| std::ptr::eq(holder, attached)) {
                tables.endpoints.insert(Addr::from(*ip), row);
            }
        }
        warnings.extend(unknown_pod(attached));
    }
    let classes = classify(world, &rule_sets.terms, &mut tables);
    let mut names = Names::default();
    for (id, rule_set) in &rule_sets.sets {
        let rows = rule_set.rows(*id, &classes);
        let (direction, policies) = (rule_set.direction, rule_set.policies.clone());
        names.rule_sets.insert(*id, RuleSetName { direction, policies, rows: rows.len() });
        names.rules.extend(rule_set.rule_names().map(|(id, name)| (id, name.clone())));
        tables.rules.extend(rows);
    }
    services::compile(world, &mut tables, &mut warnings);
    Compiled { tables, names, warnings: warnings.into_iter().collect() }
}

/// The rule sets of the endpoints seen so far.
struct RuleSets<'a> {
    /// By namespace: its policies in order of name, found by the labels of the pods that they select.
    policies: BTreeMap<&'a str, (Vec<&'a Policy>, AnchorIndex<'a>)>,
    terms: Terms,
    sets: BTreeMap<RuleSetId, RuleSet>,
    /// Replicas need no second compilation.
    known: BTreeMap<Decisive<'a>, RuleSetId>,
}

/// What decides a rule set: namespace, direction, the policies that isolate (by place in the namespace), and for
/// ingress the pod's named ports.
type Decisive<'a> = (&'a str, Direction, Vec<usize>, Vec<NamedPort>);

impl<'a> RuleSets<'a> {
    fn new(world: &'a World) -> Self {
        let mut policies: BTreeMap<&str, (Vec<&Policy>, AnchorIndex<'_>)> = BTreeMap::new();
        for policy in world.policies.values() {
            let (list, index) = policies.entry(&policy.namespace).or_default();
            index.insert(list.len(), &policy.pods);
            list.push(policy);
        }
        Self { policies, terms: Terms::default(), sets: BTreeMap::new(), known: BTreeMap::new() }
    }

    fn endpoint(&mut self, attached: &'a Attached) -> EndpointRow {
        let (mut flags, mut sets) = (0, [RuleSetId::OPEN; 2]);
        let directions =
            [(Direction::Ingress, EndpointRow::KEEP_INGRESS), (Direction::Egress, EndpointRow::KEEP_EGRESS)];
        for ((direction, keep), set) in directions.into_iter().zip(&mut sets) {
            if attached.is_unknown_pod() {
                let closed = RuleSet::closed(direction);
                *set = closed.id(&self.terms);
                self.sets.insert(*set, closed);
            } else if let Some(pod) = attached.pod.as_deref().filter(|pod| !pod.host_network) {
                let (id, keeps) = self.of_pod(pod, direction);
                *set = id;
                flags |= if keeps { keep } else { 0 };
            }
        }
        EndpointRow { ifindex: attached.attachment.ifindex, flags, ingress: sets[0], egress: sets[1] }
    }

    /// The rule set of a pod, and whether every policy that isolates it keeps established connections.
    fn of_pod(&mut self, pod: &'a PodFacts, direction: Direction) -> (RuleSetId, bool) {
        let Some((list, index)) = self.policies.get(pod.namespace.as_str()) else {
            return (RuleSetId::OPEN, false);
        };
        let mut isolating = index.matching(&pod.labels);
        isolating.retain(|number| list[*number].rules(direction).is_some());
        if isolating.is_empty() {
            return (RuleSetId::OPEN, false);
        }
        let policies: Vec<&Policy> = isolating.iter().map(|number| list[*number]).collect();
        let keeps = policies.iter().all(|policy| policy.keep);
        let ports = if direction == Direction::Ingress { pod.ports.to_vec() } else { Vec::new() };
        let key = (pod.namespace.as_str(), direction, isolating, ports);
        if let Some(id) = self.known.get(&key) {
            return (*id, keeps);
        }
        let rule_set = RuleSet::new(direction, &policies, pod, &mut self.terms);
        let id = rule_set.id(&self.terms);
        self.sets.insert(id, rule_set);
        self.known.insert(key, id);
        (id, keeps)
    }
}

/// Writes the class of every address that any term tells from the rest.
fn classify(world: &World, terms: &Terms, tables: &mut Tables) -> Classes {
    let mut classes = Classes::default();
    let mut matcher = Matcher::new(terms, world);
    // Outer blocks come first, so what is written is all that a block's row could repeat.
    let mut of_blocks: Vec<(Cidr, ClassId)> = Vec::new();
    for (cidr, blocks) in matcher.blocks().iter() {
        of_blocks.push((cidr, classes.intern(terms, matcher.of_blocks(blocks))));
    }
    for (cidr, class) in of_blocks {
        if tables.class_of_block(cidr) != class {
            tables.cidrs.insert(cidr, class);
        }
    }
    for ip in world.addresses() {
        let Some(pod) = world.owner(ip).filter(|pod| !pod.host_network) else { continue };
        let addr = Addr::from(ip);
        let class = classes.intern(terms, matcher.of_pod(pod, addr));
        let blocks = matcher.of_blocks(matcher.blocks().lookup(addr));
        if classes.intern(terms, blocks) != class {
            tables.peers.insert(addr, class);
        }
    }
    classes
}

/// What is said of an attachment whose pod the API has never shown.
pub(crate) fn unknown_pod(attached: &Attached) -> Option<Warning> {
    let pod = attached.attachment.pod.as_ref().filter(|_| attached.pod.is_none())?;
    Some(Warning {
        object: format!("Pod {}/{}", pod.namespace, pod.name),
        field: String::new(),
        message: format!(
            "attached here as {} but not known to the API: everything to and from it is denied until it is",
            attached.attachment.container_id
        ),
    })
}

/// Namespaces that objects live in and nobody declared.
fn undeclared_namespaces(world: &World) -> impl Iterator<Item = Warning> {
    let pods = world.pods().map(|pod| (pod.namespace.as_str(), "Pod", pod.name.as_str()));
    let policies = world
        .policies
        .values()
        .map(|policy| (policy.namespace.as_str(), "NetworkPolicy", policy.name.as_str()));
    let mut first: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for (namespace, kind, name) in pods.chain(policies) {
        first.entry(namespace).or_insert((kind, name));
    }
    first
        .into_iter()
        .filter_map(|(namespace, (kind, name))| undeclared_namespace(world, namespace, kind, name))
}

/// What is said of a namespace in which this object lives and which nobody declared. Those that every cluster has need no
/// declaration.
pub(crate) fn undeclared_namespace(
    world: &World,
    namespace: &str,
    kind: &str,
    name: &str,
) -> Option<Warning> {
    const EVERYWHERE: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
    let declared = world.namespaces.contains_key(namespace) || EVERYWHERE.contains(&namespace);
    (!declared).then(|| Warning {
        object: format!("{kind} {namespace}/{name}"),
        field: "metadata.namespace".to_owned(),
        message: format!(
            "namespace {namespace} is not declared: it is taken to have no label but kubernetes.io/metadata.name"
        ),
    })
}
