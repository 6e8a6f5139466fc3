//! Why a connection passes or does not, for people: both directions, the rule or the policies that decide, and for a
//! denial the rule that came nearest to allowing it.
//!
//! Where [`crate::oracle`] answers for the endpoints of one node, this answers for every pod that the world knows, on
//! whatever node; where both answer, they agree, but for the one thing that is decided before any policy: a pod's own
//! node always reaches it.

use std::net::IpAddr;

use api::{End, Explanation, PolicyPlace, Reason, RulePlace, Side, VerdictKind, protocol_name};
use common::net::protocol;
use common::verdict::Direction;

use crate::facts::PodFacts;
use crate::lookup::Flow;
use crate::model::{Peers, Policy, Ports, Rule};
use crate::object::{Kind, ObjectKey};
use crate::places::Places;
use crate::world::World;

mod ask;
mod ends;
pub(crate) mod gap;
pub(crate) mod nearest;
mod words;

pub use ask::{Unclear, ask};
pub(crate) use words::{requirement, selector};

/// What the policies of both ends say of a new connection, whichever nodes they are on.
///
/// `places` tells where policies are written; an empty one is fine.
pub fn explain(world: &World, flow: &Flow, places: &Places) -> Explanation {
    let side = |direction| Question::new(world, flow, direction).side(places);
    let (egress, ingress) = (side(Direction::Egress), side(Direction::Ingress));
    let allowed = [&egress, &ingress].iter().all(|side| side.verdict == VerdictKind::Allowed);
    let end = |ip: IpAddr| End { ip, name: world.pod_name_of(ip) };
    Explanation {
        from: end(flow.source),
        to: end(flow.destination),
        protocol: protocol_name(flow.protocol),
        port: if protocol::has_ports(flow.protocol) { flow.destination_port } else { 0 },
        verdict: if allowed { VerdictKind::Allowed } else { VerdictKind::Denied },
        egress,
        ingress,
        notes: notes(world, flow),
    }
}

/// What is asked of one end.
pub(crate) struct Question<'a> {
    pub world: &'a World,
    pub flow: &'a Flow,
    pub direction: Direction,
    /// Whose policies are asked.
    pub endpoint: IpAddr,
    pub peer: IpAddr,
    /// The pod that selectors of peers are held against.
    pub peer_pod: Option<&'a PodFacts>,
}

impl<'a> Question<'a> {
    pub(crate) fn new(world: &'a World, flow: &'a Flow, direction: Direction) -> Self {
        let (endpoint, peer) = match direction {
            Direction::Egress => (flow.source, flow.destination),
            Direction::Ingress => (flow.destination, flow.source),
        };
        let peer_pod = world.owner(peer).map(|pod| &**pod).filter(|pod| !pod.host_network);
        Self { world, flow, direction, endpoint, peer, peer_pod }
    }

    fn side(&self, places: &Places) -> Side {
        let open = |reason| Side {
            verdict: VerdictKind::Allowed,
            reason,
            policies: Vec::new(),
            rule: None,
            nearest: None,
        };
        if self.endpoint == self.peer {
            return open(Reason::Itself);
        }
        if let Some(attached) = self.world.holder(self.endpoint) {
            if attached.attachment.pod.is_none() {
                return open(Reason::NotAPod);
            } else if attached.pod.is_none() {
                return Side { verdict: VerdictKind::Denied, ..open(Reason::UnknownPod) };
            }
        }
        let Some(pod) = self.world.owner(self.endpoint).map(|pod| &**pod) else {
            return open(Reason::NotAPod);
        };
        if pod.host_network {
            return open(Reason::HostNetwork);
        }
        if self.direction == Direction::Ingress && self.is_own_node() {
            return open(Reason::OwnNode);
        }
        self.of_policies(pod, places).unwrap_or_else(|| open(Reason::NotIsolated))
    }

    /// `None`: nothing isolates the pod.
    fn of_policies(&self, pod: &PodFacts, places: &Places) -> Option<Side> {
        let isolating: Vec<&Policy> = self
            .policies(pod)
            .filter(|policy| policy.rules(self.direction).is_some() && policy.pods.matches(&pod.labels))
            .collect();
        if isolating.is_empty() {
            return None;
        }
        let policies = isolating
            .iter()
            .map(|policy| PolicyPlace { name: policy.full_name(), at: places.of(&title(policy), "") });
        let mut side = Side {
            verdict: VerdictKind::Allowed,
            reason: Reason::Rule,
            policies: policies.collect(),
            rule: None,
            nearest: None,
        };
        let destination = self.destination(pod);
        let rules = isolating.iter().flat_map(|policy| rules(policy, self.direction));
        side.rule = rules
            .filter(|(.., rule)| self.allows(rule, destination))
            .map(|(policy, index, _)| self.rule_place(policy, index, places))
            .next();
        if side.rule.is_none() {
            side.verdict = VerdictKind::Denied;
            side.reason = Reason::DefaultDeny;
            side.nearest = nearest::nearest(self, pod, places);
        }
        Some(side)
    }

    /// The policies of the pod's namespace, in order of name.
    fn policies(&self, pod: &PodFacts) -> impl Iterator<Item = &'a Policy> {
        let namespace = pod.namespace.clone();
        let from = (namespace.clone(), String::new());
        let all = self.world.policies.range(from..).map(|(_, policy)| &**policy);
        all.take_while(move |policy| policy.namespace == namespace)
    }

    /// The pod on which named ports are looked up.
    fn destination<'b>(&'b self, pod: &'b PodFacts) -> Option<&'b PodFacts> {
        if self.direction == Direction::Ingress { Some(pod) } else { self.peer_pod }
    }

    fn allows(&self, rule: &Rule, destination: Option<&PodFacts>) -> bool {
        let peers = match &rule.peers {
            Peers::Everyone => true,
            Peers::Of(peers) => peers.iter().any(|peer| gap::of_peer(self, peer).is_empty()),
        };
        let ports = match &rule.ports {
            Ports::All => true,
            Ports::Of(ports) => {
                ports.iter().any(|port| gap::of_port(self.flow, port, destination).is_empty())
            }
        };
        peers && ports
    }

    fn rule_place(&self, policy: &Policy, index: usize, places: &Places) -> RulePlace {
        let path = format!("spec.{}[{index}]", self.direction.as_str());
        RulePlace { policy: policy.full_name(), at: places.of(&title(policy), &path), path }
    }

    /// Whether the peer is the node that the endpoint lives on: where the world's own runtime has attached it, else
    /// whose pod ranges its address is in.
    fn is_own_node(&self) -> bool {
        let is_attached = self.world.holder(self.endpoint).is_some();
        self.world.nodes().filter(|node| node.ips.contains(&self.peer)).any(|node| match is_attached {
            true => node.name == self.world.node_name(),
            false => node.pod_cidrs.iter().any(|cidr| cidr.contains(&self.endpoint)),
        })
    }
}

/// The rules of a policy in one direction, with their places in the list.
fn rules(policy: &Policy, direction: Direction) -> impl Iterator<Item = (&Policy, usize, &Rule)> {
    let rules = policy.rules(direction).into_iter().flatten().enumerate();
    rules.map(move |(index, rule)| (policy, index, rule))
}

/// As warnings and [`Places`] name it.
fn title(policy: &Policy) -> String {
    let (namespace, name) = (Some(policy.namespace.clone()), policy.name.clone());
    ObjectKey { kind: Kind::NetworkPolicy, namespace, name }.to_string()
}

/// A virtual address is nobody's: what is asked about it is not what happens.
fn notes(world: &World, flow: &Flow) -> Vec<String> {
    let is_virtual = |ip: &IpAddr| world.services.values().any(|service| service.ips.contains(ip));
    let services = world.services.iter().filter(|(_, service)| service.ips.contains(&flow.destination));
    let mut notes: Vec<String> = services
        .map(|((namespace, name), _)| {
            format!(
                "{} is a virtual address of Service {namespace}/{name}: policies are asked about the pod behind it, so \
                 ask about that pod and its port",
                flow.destination
            )
        })
        .collect();
    if is_virtual(&flow.source) {
        notes.push(format!("{} is a virtual address, from which no connection comes", flow.source));
    }
    notes
}
