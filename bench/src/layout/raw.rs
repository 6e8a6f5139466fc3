//! The baseline: client and server joined by nothing but a veth pair.

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::IpNet;
use netlink::{Handle, VethSpec};

use super::node::{MTU, mac, namespace};
use super::{Cluster, Pod};

pub(super) async fn build() -> Result<Cluster> {
    let (client, server) = (namespace().await?, namespace().await?);
    let (netlink, far) = (Handle::in_netns(&client)?, Handle::in_netns(&server)?);
    let spec = VethSpec {
        name: "eth0",
        mac: mac(1),
        mtu: MTU,
        peer_name: "eth0",
        peer_mac: mac(2),
        peer_mtu: MTU,
        peer_netns: &server,
    };
    let (ours, theirs) = netlink.create_veth(&spec).await?;
    let [client_ip, server_ip] = [1, 2].map(|last| Ipv4Addr::new(10, 244, 0, last));
    for (netlink, link, ip) in [(&netlink, ours, client_ip), (&far, theirs, server_ip)] {
        netlink.add_address(link, IpNet::new(ip.into(), 24)?).await?;
        netlink.set_up(link).await?;
    }
    Ok(Cluster {
        client: Pod::start(&client, client_ip.into())?,
        near: Pod::start(&server, server_ip.into())?,
        far: None,
        network: None,
        _keep: Vec::new(),
    })
}
