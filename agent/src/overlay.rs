//! The overlay of this node: its device, and which ends its tunnels have.
//!
//! What is decided here follows from Node objects alone, so that every agent comes to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use common::maps::NODES_CAPACITY;
use common::net::Addr;
use common::overlay::{DEVICE_MAC, NodeRow, TunnelRow};
use dataplane::Nodes;
use ipnet::IpNet;
use netlink::{Handle, VxlanSpec};
use nix::net::if_::if_nametoindex;
use policy::tables::Cidr;
use tracing::info;

/// Ours on every node. Who makes one of that name loses it.
pub(crate) const DEVICE: &str = "weir-vxlan";

/// Makes the device, or finds the one that an earlier agent made: packets go on through it. Returns its index.
pub(crate) async fn device(handle: &Handle, port: u16) -> Result<u32> {
    if let Some(link) = handle.link_by_name(DEVICE).await? {
        if handle.vxlan_port(link.index).await? == Some(port) && link.mac == Some(DEVICE_MAC) {
            return Ok(link.index);
        }
        info!(device = DEVICE, "of another kind or port, made anew");
        handle.delete_link(link.index).await?;
    }
    // Its addresses and its own MTU follow from Node objects; this is the least that IPv6 needs.
    let spec = VxlanSpec { name: DEVICE, mac: DEVICE_MAC, mtu: 1280, port };
    let taken = || format!("another device or program may have UDP port {port}: choose --vxlan-port");
    let ifindex = handle.create_vxlan(&spec).await.with_context(taken)?;
    netlink::sysctl(&format!("ipv4/conf/{DEVICE}/rp_filter"), "2")?;
    if netlink::read_sysctl(&format!("ipv6/conf/{DEVICE}/disable_ipv6")).is_ok() {
        netlink::sysctl(&format!("ipv6/conf/{DEVICE}/accept_ra"), "0")?;
        // It has no neighbours to be found by a link-local address.
        netlink::sysctl(&format!("ipv6/conf/{DEVICE}/addr_gen_mode"), "1")?;
    }
    handle.set_up(ifindex).await.with_context(taken)?;
    info!(device = DEVICE, ifindex, port, "overlay device made");
    Ok(ifindex)
}

/// Whether the device that was made is there no more.
pub(crate) fn is_gone(device: Option<u32>) -> bool {
    device.is_some_and(|device| if_nametoindex(DEVICE) != Ok(device))
}

/// Where there is to be no overlay. Its routes go with it.
pub(crate) async fn remove_device(handle: &Handle) -> Result<()> {
    if let Some(link) = handle.link_by_name(DEVICE).await? {
        handle.delete_link(link.index).await?;
        info!(device = DEVICE, "overlay device removed");
    }
    Ok(())
}

/// The two ends of the tunnel between two nodes, ours first: of IPv4 if both have it. The first address of a family is the
/// one that counts.
pub(crate) fn ends(own: &[IpAddr], other: &[IpAddr]) -> Option<(IpAddr, IpAddr)> {
    let first = |ips: &[IpAddr], v4: bool| ips.iter().copied().find(|ip| ip.is_ipv4() == v4);
    [true, false].into_iter().find_map(|v4| Some((first(own, v4)?, first(other, v4)?)))
}

/// What the longest outer headers in use take.
pub(crate) fn overhead<'a>(own: &[IpAddr], others: impl Iterator<Item = &'a [IpAddr]>) -> u32 {
    let alone = own.first().map(|ip| ip.is_ipv4()).unwrap_or(true) || own.iter().any(IpAddr::is_ipv4);
    let families = others.filter_map(|other| ends(own, other)).map(|(local, _)| local.is_ipv4());
    families.chain([alone]).map(common::overlay::overhead).max().unwrap_or_default()
}

/// The address by which a node answers probes that pods' addresses pass: its pod CIDR's own, which no pod gets. `None` where
/// the block is so small that pods get all of it.
pub(crate) fn router_address(pods: &IpNet) -> Option<IpAddr> {
    (pods.max_prefix_len() - pods.prefix_len() >= 2).then(|| pods.network())
}

/// Another node, as the overlay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) ends: (IpAddr, IpAddr),
    pub(crate) ips: Vec<IpAddr>,
    /// Its pods, and whether they are reached through the overlay.
    pub(crate) pods: Vec<(IpNet, bool)>,
}

/// What the maps are to hold. A node that is in them keeps its number: packets on their way have it.
pub(crate) fn rows(present: &Nodes, own: &[IpAddr], peers: &[Peer], underlay_mtu: u32) -> Nodes {
    let mut wanted = Nodes::default();
    let known: BTreeMap<Addr, u32> =
        present.nodes.iter().map(|(number, row)| (row.remote, *number)).collect();
    let mut taken: BTreeSet<u32> = known.values().copied().collect();
    // Not a number that was just given back: for a moment packets may still be sent by it.
    let mut next = taken.last().copied().unwrap_or_default();
    for peer in peers {
        let (local, remote) = peer.ends;
        let number = known.get(&remote.into()).copied().unwrap_or_else(|| {
            for _ in 0..NODES_CAPACITY {
                next = next % (NODES_CAPACITY - 1) + 1;
                if taken.insert(next) {
                    break;
                }
            }
            next
        });
        let mtu = underlay_mtu - common::overlay::overhead(local.is_ipv4());
        wanted.nodes.insert(number, NodeRow { local: local.into(), remote: remote.into(), mtu });
        for (pods, behind) in &peer.pods {
            wanted.tunnels.insert(key(pods), TunnelRow { node: number, flags: behind_flag(*behind) });
        }
        for (index, ip) in peer.ips.iter().enumerate() {
            // By another address than the first of its family the node may not know itself (a cloud's outer address).
            let is_first = peer.ips.iter().position(|other| other.is_ipv4() == ip.is_ipv4()) == Some(index);
            let is_behind = is_first
                && peer.pods.iter().any(|(pods, behind)| *behind && pods.addr().is_ipv4() == ip.is_ipv4());
            let flags = TunnelRow::NODE | behind_flag(is_behind);
            wanted.tunnels.insert(key(&(*ip).into()), TunnelRow { node: number, flags });
        }
    }
    for ip in own {
        wanted.tunnels.insert(key(&(*ip).into()), TunnelRow { node: 0, flags: TunnelRow::NODE });
    }
    wanted
}

fn behind_flag(behind: bool) -> u32 {
    if behind { TunnelRow::BEHIND } else { 0 }
}

fn key(block: &IpNet) -> Cidr {
    let before = if block.addr().is_ipv4() { 96 } else { 0 };
    Cidr { addr: block.network().into(), bits: before + u32::from(block.prefix_len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn peer(own: &[IpAddr], addresses: &[&str], pods: &[(&str, bool)]) -> Peer {
        let addresses = ips(addresses);
        Peer {
            ends: ends(own, &addresses).unwrap(),
            ips: addresses,
            pods: pods.iter().map(|(text, behind)| (text.parse().unwrap(), *behind)).collect(),
        }
    }

    fn flags(nodes: &Nodes, block: &str) -> (u32, u32) {
        let row = nodes.tunnels[&key(&block.parse().unwrap())];
        (row.node, row.flags)
    }

    #[test]
    fn both_ends_of_a_tunnel_are_of_one_family_and_of_ipv4_where_that_can_be() {
        let both = ips(&["fd00::1", "172.30.0.10"]);
        let (v4, v6) = (ips(&["172.30.0.11"]), ips(&["fd00::2"]));
        assert_eq!(ends(&both, &v4), Some((both[1], v4[0])));
        assert_eq!(ends(&both, &v6), Some((both[0], v6[0])));
        assert_eq!(ends(&v4, &v6), None);
        let nobody = std::iter::empty;
        assert_eq!([overhead(&both, nobody()), overhead(&v6, nobody())], [50, 70]);
        assert_eq!(overhead(&both, [&v4[..], &v6].into_iter()), 70);
    }

    #[test]
    fn a_row_for_each_block_of_pods_and_each_address_of_a_node() {
        let own = ips(&["172.30.0.10", "fd00::10"]);
        let peers = [
            peer(&own, &["172.30.0.11", "203.0.113.1"], &[("10.244.1.0/24", true), ("fd00:1::/64", false)]),
            peer(&own, &["fd00::12"], &[("fd00:2::/64", true)]),
        ];
        let rows = rows(&Nodes::default(), &own, &peers, 1500);
        assert_eq!(flags(&rows, "10.244.1.0/24"), (1, TunnelRow::BEHIND));
        assert_eq!(flags(&rows, "fd00:1::/64"), (1, 0));
        assert_eq!(flags(&rows, "172.30.0.11/32"), (1, TunnelRow::BEHIND | TunnelRow::NODE));
        assert_eq!(flags(&rows, "203.0.113.1/32"), (1, TunnelRow::NODE), "who knows whose it is");
        assert_eq!(flags(&rows, "fd00::12/128"), (2, TunnelRow::BEHIND | TunnelRow::NODE));
        assert_eq!(flags(&rows, "172.30.0.10/32"), (0, TunnelRow::NODE));
        assert_eq!([rows.nodes[&1].mtu, rows.nodes[&2].mtu], [1450, 1430]);
    }

    #[test]
    fn a_node_keeps_its_number_and_a_new_one_gets_none_that_was_just_given_back() {
        let own = ips(&["172.30.0.10"]);
        let all: Vec<_> = ["172.30.0.11", "172.30.0.12", "172.30.0.13"]
            .into_iter()
            .map(|ip| peer(&own, &[ip], &[]))
            .collect();
        let first = rows(&Nodes::default(), &own, &all[..2], 1500);
        let then = rows(&first, &own, &all[1..], 1500);
        let numbers = |rows: &Nodes| -> BTreeMap<Addr, u32> {
            rows.nodes.iter().map(|(number, row)| (row.remote, *number)).collect()
        };
        let expected: BTreeMap<Addr, u32> =
            BTreeMap::from([(all[1].ends.1.into(), 2), (all[2].ends.1.into(), 3)]);
        assert_eq!(numbers(&then), expected);
    }

    #[test]
    fn the_address_of_a_block_answers_probes_where_no_pod_gets_it() {
        for (block, expected) in [
            ("10.244.1.0/24", Some("10.244.1.0")),
            ("10.244.1.0/31", None),
            ("fd00:1::/64", Some("fd00:1::")),
            ("fd00:1::1/128", None),
        ] {
            let found = router_address(&block.parse().unwrap());
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{block}");
        }
    }
}
