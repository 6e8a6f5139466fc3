//! How the pods of another node are reached: decided from Node objects, our devices and what probes found, and nothing else.

use std::net::IpAddr;

use ipnet::IpNet;
use policy::NodeFacts;

use crate::config::Routing;
use crate::overlay;
use crate::underlay::Underlay;

/// One pod CIDR of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) node: String,
    pub(crate) pods: IpNet,
    pub(crate) by: By,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The node is on the link of one of our devices.
    Direct(Hop),
    /// Through the overlay, to this address of the node.
    Overlay(IpAddr),
    /// Not at all, and why.
    Nothing(String),
}

/// An address on the link of one of our devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) via: IpAddr,
    pub(crate) oif: u32,
}

impl Way {
    /// `is_open` says whether a packet with pods' addresses has come back from this block.
    pub(crate) fn to(
        pods: &IpNet,
        node: &NodeFacts,
        own: &[IpAddr],
        routing: Routing,
        underlays: &[Underlay],
        is_open: impl Fn(&IpNet) -> bool,
    ) -> Self {
        let hop = hop(node, pods, underlays);
        let tunnel = overlay::ends(own, &node.ips).map(|(_, remote)| By::Overlay(remote));
        let no_tunnel = || By::Nothing("status.addresses: no family that both nodes have".to_owned());
        let by = match (routing, hop) {
            (Routing::Direct, hop) => hop.map_or_else(By::Nothing, By::Direct),
            (Routing::Auto, Ok(hop)) if is_open(pods) => By::Direct(hop),
            _ => tunnel.unwrap_or_else(no_tunnel),
        };
        Self { node: node.name.clone(), pods: pods.trunc(), by }
    }
}

/// The node's address of the CIDR's family that is on the link of an underlay device.
pub(crate) fn hop(node: &NodeFacts, pods: &IpNet, underlays: &[Underlay]) -> Result<Hop, String> {
    let same_family = node.ips.iter().filter(|ip| ip.is_ipv4() == pods.addr().is_ipv4());
    let mut far = None;
    for ip in same_family {
        match underlays.iter().find(|underlay| underlay.is_on_link(*ip)) {
            Some(underlay) => return Ok(Hop { via: *ip, oif: underlay.ifindex }),
            None => far = Some(ip),
        }
    }
    Err(match far {
        Some(ip) => {
            format!(
                "status.addresses: {ip} is on the link of no underlay device (--routing auto or vxlan goes farther)"
            )
        }
        None => "status.addresses: no InternalIP of this family".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ips: &[&str]) -> NodeFacts {
        NodeFacts {
            name: "there".into(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        }
    }

    fn way(routing: Routing, ips: &[&str], open: bool) -> By {
        let node = node(ips);
        let underlays = [Underlay::of("eth0", 7, &["172.30.0.10/24", "fd00:30::10/64"])];
        let own = ["172.30.0.10".parse().unwrap(), "fd00:30::10".parse().unwrap()];
        Way::to(&node.pod_cidrs[0], &node, &own, routing, &underlays, |_| open).by
    }

    #[test]
    fn direct_is_for_nodes_on_the_link_and_for_addresses_that_are_known_to_pass() {
        let near = "172.30.0.11";
        let direct = By::Direct(Hop { via: near.parse().unwrap(), oif: 7 });
        assert_eq!(way(Routing::Direct, &[near], false), direct);
        assert_eq!(way(Routing::Auto, &[near], true), direct);
        assert_eq!(way(Routing::Auto, &[near], false), By::Overlay(near.parse().unwrap()));
        assert_eq!(way(Routing::Vxlan, &[near], true), By::Overlay(near.parse().unwrap()));
    }

    #[test]
    fn a_node_behind_a_router_is_behind_the_overlay_or_out_of_reach() {
        let far = "172.31.0.11";
        assert_eq!(way(Routing::Auto, &[far], true), By::Overlay(far.parse().unwrap()));
        assert_eq!(way(Routing::Vxlan, &[far], false), By::Overlay(far.parse().unwrap()));
        let By::Nothing(why) = way(Routing::Direct, &[far], false) else { panic!("a way to {far}") };
        assert!(
            why.starts_with("status.addresses: 172.31.0.11 is on the link of no underlay device"),
            "{why}"
        );
    }

    #[test]
    fn the_family_of_pods_need_not_be_that_of_nodes() {
        assert_eq!(way(Routing::Auto, &["fd00:31::11"], false), By::Overlay("fd00:31::11".parse().unwrap()));
        assert!(matches!(way(Routing::Vxlan, &[], false), By::Nothing(_)));
        assert!(matches!(way(Routing::Direct, &["fd00:30::11"], false), By::Nothing(_)));
    }
}
