//! A veth pair for each pod, and the node's own stack routes between them: no bridge, no policy.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink::{GATEWAY_V4, HOST_MAC, Handle, Route, VethSpec};

use super::node::{MTU, Node, Routes, STATIC, mac, namespace};
use super::{Cluster, Pod};

pub(super) async fn build() -> Result<Cluster> {
    let nodes = Node::pair(Routes::Static).await?;
    let [first, second] = &nodes;
    Ok(Cluster {
        client: pod(first, 2).await?,
        near: pod(first, 3).await?,
        far: Some(pod(second, 2).await?),
        network: None,
        _keep: vec![Box::new(nodes)],
    })
}

/// The `last` is the last byte of its address.
async fn pod(node: &Node, last: u8) -> Result<Pod> {
    let netns = namespace().await?;
    let name = format!("pod{last}");
    let spec = VethSpec {
        name: &name,
        mac: HOST_MAC,
        mtu: MTU,
        peer_name: "eth0",
        peer_mac: mac(last),
        peer_mtu: MTU,
        peer_netns: &netns,
    };
    let (host, peer) = node.netlink.create_veth(&spec).await?;
    let ip: IpAddr =
        node.pod_cidr.hosts().nth(usize::from(last) - 1).context("the pod range is empty")?.into();
    let gateway = IpAddr::from(GATEWAY_V4);
    let inside = Handle::in_netns(&netns)?;
    let route = |destination, via, oif, link_scope| Route {
        destination,
        via,
        oif,
        source: None,
        onlink: false,
        protocol: STATIC,
        link_scope,
    };
    inside.add_address(peer, IpNet::from(ip)).await?;
    inside.set_up(peer).await?;
    inside.add_route(&route(IpNet::from(gateway), None, peer, true)).await?;
    inside.add_route(&route("0.0.0.0/0".parse()?, Some(gateway), peer, false)).await?;
    inside.add_neighbour(peer, gateway, HOST_MAC).await?;
    node.netlink.set_up(host).await?;
    node.netlink.add_route(&route(IpNet::from(ip), None, host, true)).await?;
    node.netlink.add_neighbour(host, ip, mac(last)).await?;
    Pod::start(&netns, ip)
}
