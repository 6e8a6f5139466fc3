//! The specification, naively: a second opinion on what a node answers.
//!
//! Every policy, every rule, every peer and every port is looked at for every flow; there are no classes, no rule sets,
//! no prefixes and no ids. It shares the facts of the [`World`] with the compiler and none of its reasoning.

use std::net::IpAddr;

use common::verdict::Direction;
use ipnet::IpNet;

use crate::facts::PodFacts;
use crate::lookup::Flow;
use crate::model::{Namespaces, Peer, Peers, Policy, Port, Ports};
use crate::names::RuleName;
use crate::selector::{Labels, Selector, Test};
use crate::world::World;

/// The opinion of each end that is an endpoint of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opinions {
    pub egress: Option<Opinion>,
    pub ingress: Option<Opinion>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    pub allowed: bool,
    /// The first rule that allows it, by name of policy and place in it; `None` where nothing isolates or nothing allows.
    pub rule: Option<RuleName>,
    /// Every policy that isolates the endpoint in this direction, `namespace/name`.
    pub policies: Vec<String>,
}

/// What the node of this world must answer to a new connection.
pub fn judge(world: &World, flow: &Flow) -> Opinions {
    Opinions {
        egress: opinion(world, flow, Direction::Egress, flow.source, flow.destination),
        ingress: opinion(world, flow, Direction::Ingress, flow.destination, flow.source),
    }
}

fn opinion(
    world: &World,
    flow: &Flow,
    direction: Direction,
    endpoint: IpAddr,
    peer: IpAddr,
) -> Option<Opinion> {
    let attached = world.holder(endpoint)?;
    let open = Opinion { allowed: true, rule: None, policies: Vec::new() };
    if endpoint == peer || attached.attachment.pod.is_none() {
        return Some(open);
    }
    let Some(pod) = &attached.pod else {
        return Some(Opinion { allowed: false, ..open });
    };
    let mut isolating: Vec<&Policy> = Vec::new();
    for policy in world.policies.values() {
        let selected = policy.namespace == pod.namespace && selects(&policy.pods, &pod.labels);
        if selected && !pod.host_network && policy.rules(direction).is_some() {
            isolating.push(policy);
        }
    }
    isolating.sort_by_key(|policy| (&policy.namespace, &policy.name));
    if isolating.is_empty() {
        return Some(open);
    }
    let peer_pod = world.owner(peer).map(|pod| &**pod).filter(|pod| !pod.host_network);
    let destination = if direction == Direction::Ingress { Some(&**pod) } else { peer_pod };
    let policies = isolating.iter().map(|policy| policy.full_name()).collect();
    for policy in &isolating {
        for (index, rule) in policy.rules(direction).into_iter().flatten().enumerate() {
            let from = match &rule.peers {
                Peers::Everyone => true,
                Peers::Of(peers) => peers.iter().any(|wanted| is_peer(world, wanted, peer, peer_pod)),
            };
            let port = match &rule.ports {
                Ports::All => true,
                Ports::Of(ports) => ports.iter().any(|wanted| is_port(wanted, flow, destination)),
            };
            if from && port {
                let path = format!("spec.{}[{index}]", direction.as_str());
                let rule = Some(RuleName { policy: policy.full_name(), direction, path });
                return Some(Opinion { allowed: true, rule, policies });
            }
        }
    }
    Some(Opinion { allowed: false, rule: None, policies })
}

fn is_peer(world: &World, wanted: &Peer, peer: IpAddr, pod: Option<&PodFacts>) -> bool {
    match wanted {
        Peer::Block(block) => {
            is_inside(block.cidr, peer) && !block.except.iter().any(|net| is_inside(*net, peer))
        }
        Peer::Pods { namespaces, pods } => pod.is_some_and(|pod| {
            let namespace = match namespaces {
                Namespaces::Named(name) => *name == pod.namespace,
                Namespaces::Matching(selector) => selects(selector, &world.namespace_labels(&pod.namespace)),
            };
            namespace && selects(pods, &pod.labels)
        }),
    }
}

fn is_port(wanted: &Port, flow: &Flow, destination: Option<&PodFacts>) -> bool {
    match wanted {
        Port::Range { protocol, first, last } => {
            *protocol == flow.protocol && *first <= flow.destination_port && flow.destination_port <= *last
        }
        Port::Named { protocol, name } => destination.is_some_and(|pod| {
            let serves = pod.ports.iter().find(|port| port.name == *name && port.protocol == *protocol);
            *protocol == flow.protocol && serves.is_some_and(|port| port.number == flow.destination_port)
        }),
    }
}

fn selects(selector: &Selector, labels: &Labels) -> bool {
    for requirement in &selector.requirements {
        let holds = match (&requirement.test, labels.get(&requirement.key)) {
            (Test::In(values), Some(value)) => values.contains(value),
            (Test::In(_), None) => false,
            (Test::NotIn(values), Some(value)) => !values.contains(value),
            (Test::NotIn(_), None) => true,
            (Test::Exists, value) => value.is_some(),
            (Test::DoesNotExist, value) => value.is_none(),
        };
        if !holds {
            return false;
        }
    }
    true
}

/// Bit by bit, and never across families.
fn is_inside(net: IpNet, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let ((net_bits, width), (ip_bits, ip_width)) = (bits(net.addr()), bits(ip));
    let length = u32::from(net.prefix_len());
    let same = |bit: u32| (net_bits >> (width - 1 - bit)) & 1 == (ip_bits >> (width - 1 - bit)) & 1;
    width == ip_width && (0..length).all(same)
}
