//! Who is to knock where: every pair of pods, nodes, outside and Services, as the table wants it. Pure.

use std::net::IpAddr;

use crate::object::addresses;
use crate::plan::{Cast, Listen, Pod, PodIps, Protocol, ServicePort};
use crate::report::{OUTSIDE, node_end};

/// Where every node's own stub listens: the kubelet's port.
pub(crate) const NODE_PORT: Listen = Listen { port: 10_250, protocol: Protocol::Tcp };
/// Where the host beyond the underlay listens; the first is the one that pods knock at.
pub(crate) const OUTSIDE_PORTS: [Listen; 3] = [
    Listen { port: 443, protocol: Protocol::Tcp },
    Listen { port: 80, protocol: Protocol::Tcp },
    Listen { port: 53, protocol: Protocol::Udp },
];

/// One connection to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `namespace/pod`, `node/NAME` or `outside`: the stub that knocks.
    pub(crate) from: String,
    /// The same for who should answer. Absent for a Service: anybody may.
    pub(crate) to: Option<String>,
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    /// No hook sees it: it never leaves its namespace.
    pub(crate) unseen: bool,
}

impl Target {
    /// Whether some node will say what it decided. (A Service may lead back to the pod itself: that is not known.)
    pub(crate) fn is_seen(&self) -> bool {
        self.to.is_some() && !self.unseen
    }
}

/// Every end-to-end probe, in the order of the table.
pub(crate) fn ends(cast: &Cast, ips: &PodIps, outside: &[IpAddr], all: bool) -> Vec<Target> {
    let shown: Vec<&Pod> = cast.shown(all).collect();
    let mut targets = Vec::new();
    for from in &shown {
        for to in &shown {
            let unseen =
                from.key() == to.key() || (from.host_network && to.host_network && from.node == to.node);
            targets.extend(towards(cast, &from.key(), to, ips, unseen));
        }
        for node in own_and_another(cast, from) {
            let name = node_end(&cast.nodes[node].name);
            let unseen = from.host_network && from.node == node;
            targets.extend(knocks(&from.key(), &name, &cast.nodes[node].ips, NODE_PORT, unseen));
        }
        targets.extend(knocks(&from.key(), OUTSIDE, outside, OUTSIDE_PORTS[0], from.host_network));
    }
    for to in &shown {
        for node in own_and_another(cast, to) {
            let name = node_end(&cast.nodes[node].name);
            targets.extend(towards(cast, &name, to, ips, to.host_network));
        }
        targets.extend(towards(cast, OUTSIDE, to, ips, to.host_network));
    }
    targets
}

/// Every Service's every port from every pod, with the Service's index in the cast.
pub(crate) fn services(cast: &Cast, all: bool) -> Vec<(usize, Target)> {
    let mut targets = Vec::new();
    for (index, service) in cast.services.iter().enumerate().filter(|(_, service)| all || !service.system) {
        for ServicePort { port, protocol, .. } in &service.ports {
            for ip in &service.cluster_ips {
                targets.extend(cast.shown(all).map(|from| {
                    let target = Target {
                        from: from.key(),
                        to: None,
                        ip: *ip,
                        port: *port,
                        protocol: *protocol,
                        unseen: false,
                    };
                    (index, target)
                }));
            }
        }
    }
    targets
}

/// A pod's own node, and one that is not (if there is one).
fn own_and_another(cast: &Cast, pod: &Pod) -> impl Iterator<Item = usize> {
    let another = (0..cast.nodes.len()).find(|node| *node != pod.node);
    std::iter::once(pod.node).chain(another)
}

/// All declared ports of `to`, over all its addresses.
fn towards<'a>(
    cast: &'a Cast,
    from: &str,
    to: &'a Pod,
    ips: &'a PodIps,
    unseen: bool,
) -> impl Iterator<Item = Target> + use<'a> {
    let (from, key) = (from.to_owned(), to.key());
    let ports = to.ports.iter().map(|port| Listen { port: port.port, protocol: port.protocol });
    ports
        .flat_map(move |port| knocks(&from, &key, addresses(cast, to, ips), port, unseen).collect::<Vec<_>>())
}

fn knocks<'a>(
    from: &'a str,
    to: &'a str,
    ips: &'a [IpAddr],
    Listen { port, protocol }: Listen,
    unseen: bool,
) -> impl Iterator<Item = Target> + use<'a> {
    ips.iter().map(move |ip| Target {
        from: from.to_owned(),
        to: Some(to.to_owned()),
        ip: *ip,
        port,
        protocol,
        unseen,
    })
}
