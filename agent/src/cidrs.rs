//! Whether the blocks of addresses that pods get go together with each other and with the network that the nodes are on.
//! Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use policy::NodeFacts;

/// A network that a device of this node is on.
pub(crate) struct OnLink {
    pub(crate) device: String,
    pub(crate) network: IpNet,
}

/// Why this node's pods cannot be given addresses of its blocks; nothing, if they can.
pub(crate) fn unusable(own: &NodeFacts, on_link: &[OnLink]) -> Option<String> {
    let name = &own.name;
    if own.pod_cidrs.is_empty() {
        return Some(format!(
            "Node {name}: spec.podCIDRs: empty, so no pod gets an address here: let kube-controller-manager give one out \
             (--allocate-node-cidrs=true --cluster-cidr=…), or write one into spec.podCIDR and spec.podCIDRs"
        ));
    }
    own.pod_cidrs.iter().find_map(|cidr| {
        let link = on_link.iter().find(|link| overlap(cidr, &link.network))?;
        Some(format!(
            "Node {name}: spec.podCIDRs: {cidr} overlaps {} of device {}, the nodes' own network, so no pod gets an address \
             here: give the cluster another pod CIDR, or the nodes another network",
            link.network.trunc(),
            link.device
        ))
    })
}

/// The other nodes with those of their blocks that can be routed to, and why the others cannot.
pub(crate) fn routable(
    own: Option<&NodeFacts>,
    others: &[NodeFacts],
    on_link: &[OnLink],
) -> (Vec<NodeFacts>, Vec<String>) {
    let mut complaints = Vec::new();
    let mut routable = others.to_vec();
    for node in &mut routable {
        let name = node.name.clone();
        node.pod_cidrs.retain(|cidr| {
            let ours = own.iter().flat_map(|own| &own.pod_cidrs).find(|ours| overlap(cidr, ours));
            let link = on_link.iter().find(|link| overlap(cidr, &link.network));
            let why = match (ours, link) {
                (Some(ours), _) => format!("{ours} of this node"),
                (None, Some(link)) => {
                    format!("{} of device {}, the nodes' own network", link.network.trunc(), link.device)
                }
                (None, None) => return true,
            };
            complaints.push(format!(
                "Node {name}: spec.podCIDRs: {cidr} overlaps {why}: no route is made to it; every node needs a block of its \
                 own, and none may be the nodes' network"
            ));
            false
        });
    }
    (routable, complaints)
}

/// Pods whose addresses are of no block of this node, as after its blocks were changed.
pub(crate) fn strangers<'a>(
    own: &NodeFacts,
    pods: impl Iterator<Item = (&'a str, &'a [IpAddr])>,
) -> Option<String> {
    let has_family = |ip: &IpAddr| own.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == ip.is_ipv4());
    let is_strange = |ip: &&IpAddr| has_family(ip) && !own.pod_cidrs.iter().any(|cidr| cidr.contains(*ip));
    let mut strangers: Vec<String> = pods
        .filter_map(|(name, ips)| ips.iter().find(is_strange).map(|ip| format!("{name} ({ip})")))
        .collect();
    strangers.sort();
    let cidrs: Vec<String> = own.pod_cidrs.iter().map(ToString::to_string).collect();
    (!strangers.is_empty()).then(|| {
        format!(
            "Node {}: spec.podCIDRs: {}, but these pods have addresses from before it was changed, to which other nodes have \
             no route any more: {}; delete them, and they come back with new ones",
            own.name,
            cidrs.join(", "),
            strangers.join(", ")
        )
    })
}

/// Blocks of which every address is a pod's.
pub(crate) fn exhausted<'a>(
    own: &NodeFacts,
    ips: impl Iterator<Item = &'a IpAddr> + Clone,
) -> Option<String> {
    let is_full = |cidr: &&IpNet| {
        let host_bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        // Not the network's own address and, in IPv4, not the broadcast address; blocks of one or two have neither.
        let special = match (host_bits, cidr) {
            (0 | 1, _) => 0,
            (_, IpNet::V4(_)) => 2,
            (_, IpNet::V6(_)) => 1,
        };
        let room = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |all| all - special);
        ips.clone().filter(|ip| cidr.contains(*ip)).count() as u128 >= room
    };
    let full: Vec<String> = own.pod_cidrs.iter().filter(is_full).map(ToString::to_string).collect();
    (!full.is_empty()).then(|| {
        format!(
            "Node {}: spec.podCIDRs: all addresses of {} are taken, so no more pods can start here: move pods to other nodes, \
             lower the kubelet's maxPods, or give nodes larger blocks (--node-cidr-mask-size)",
            own.name,
            full.join(", ")
        )
    })
}

/// A link-local address is on every link.
fn overlap(cidr: &IpNet, other: &IpNet) -> bool {
    let is_link_local = match other {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    };
    !is_link_local && (cidr.contains(&other.network()) || other.contains(&cidr.network()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidrs: &[&str]) -> NodeFacts {
        let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        NodeFacts { name: name.into(), ips: Vec::new(), pod_cidrs }
    }

    fn eth0(network: &str) -> OnLink {
        OnLink { device: "eth0".into(), network: network.parse().unwrap() }
    }

    #[test]
    fn a_node_without_a_pod_cidr_is_told_where_to_get_one() {
        let why = unusable(&node("node-0", &[]), &[]).unwrap();
        assert!(why.starts_with("Node node-0: spec.podCIDRs: empty"), "{why}");
        assert!(why.contains("--allocate-node-cidrs=true"), "{why}");
    }

    #[test]
    fn a_pod_cidr_that_overlaps_the_underlay_is_named_with_the_device() {
        let own = node("node-0", &["10.244.0.0/24", "fd00:244::/64"]);
        assert_eq!(unusable(&own, &[eth0("172.30.0.10/24"), eth0("fe80::1/64")]), None);
        for network in ["10.244.0.9/24", "10.0.0.1/8", "10.244.0.77/32"] {
            let why = unusable(&own, &[eth0(network)]).unwrap();
            assert!(why.contains("10.244.0.0/24 overlaps") && why.contains("of device eth0"), "{why}");
        }
        assert!(unusable(&own, &[eth0("fd00:244::1/48")]).unwrap().contains("fd00:244::/64 overlaps"));
    }

    #[test]
    fn another_nodes_block_is_left_out_alone_where_it_overlaps_ours_or_the_underlay() {
        let own = node("node-0", &["10.244.0.0/24"]);
        let others = [
            node("node-1", &["10.244.0.0/16", "fd00:1::/64"]),
            node("node-2", &["172.30.0.0/25"]),
            node("node-3", &["10.244.3.0/24"]),
        ];
        let (routable, complaints) = routable(Some(&own), &others, &[eth0("172.30.0.10/24")]);
        let left: Vec<_> =
            routable.iter().flat_map(|node| &node.pod_cidrs).map(ToString::to_string).collect();
        assert_eq!(left, ["fd00:1::/64", "10.244.3.0/24"]);
        assert!(
            complaints[0].starts_with("Node node-1: spec.podCIDRs: 10.244.0.0/16 overlaps 10.244.0.0/24")
        );
        assert!(complaints[1].starts_with("Node node-2: ") && complaints.len() == 2, "{complaints:?}");
    }

    #[test]
    fn a_block_without_a_free_address_is_named() {
        let own = node("node-0", &["10.244.0.0/30", "fd00::/64"]);
        let ips: Vec<IpAddr> =
            ["10.244.0.1", "10.244.0.2", "fd00::1"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(exhausted(&own, ips[1..].iter()), None);
        let why = exhausted(&own, ips.iter()).unwrap();
        assert!(why.contains("all addresses of 10.244.0.0/30 are taken"), "{why}");
    }

    #[test]
    fn pods_from_before_a_change_of_blocks_are_named() {
        let own = node("node-0", &["10.245.0.0/24"]);
        let ips = |text: &str| text.split(',').map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let (old, new, other) = (ips("10.244.0.2,fd00::2"), ips("10.245.0.3"), ips("fd00::3"));
        let pods = [("shop/old", &old[..]), ("shop/new", &new[..]), ("shop/v6", &other[..])];
        let why = strangers(&own, pods.into_iter()).unwrap();
        assert!(why.contains("any more: shop/old (10.244.0.2); delete them"), "{why}");
        assert_eq!(strangers(&own, pods[1..].iter().copied()), None);
    }
}
