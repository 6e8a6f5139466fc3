//! Namespaces for pods and nodes, the same for every layout.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use netlink::{Handle, Mac, Netns, Route, VethSpec, sysctl};

use super::Pod;
use crate::worker::Worker;

/// A node: its namespace, and a socket that stays inside.
pub(super) struct Node {
    pub(super) netns: Netns,
    pub(super) netlink: Handle,
    /// On the cable.
    pub(super) ip: Ipv4Addr,
    pub(super) pod_cidr: Ipv4Net,
}

impl Node {
    /// Two nodes joined by a cable, each with a route to the other's pods if `routes` says so.
    pub(super) async fn pair(routes: Routes) -> Result<[Self; 2]> {
        let nodes = [Self::new(0).await?, Self::new(1).await?];
        let [first, second] = &nodes;
        let spec = VethSpec {
            name: CABLE,
            mac: mac(0xc0),
            mtu: MTU,
            peer_name: CABLE,
            peer_mac: mac(0xc1),
            peer_mtu: MTU,
            peer_netns: &second.netns,
        };
        let (near, far) = first.netlink.create_veth(&spec).await?;
        for (node, other, link) in [(first, second, near), (second, first, far)] {
            node.netlink.add_address(link, IpNet::new(node.ip.into(), 24)?).await?;
            node.netlink.set_up(link).await?;
            if routes == Routes::Static {
                node.netlink
                    .add_route(&Route {
                        destination: other.pod_cidr.into(),
                        via: Some(other.ip.into()),
                        oif: link,
                        source: None,
                        onlink: false,
                        protocol: STATIC,
                        link_scope: false,
                    })
                    .await?;
            }
        }
        Ok(nodes)
    }

    async fn new(number: u8) -> Result<Self> {
        let netns = namespace().await?;
        netns.run(|| sysctl("ipv4/ip_forward", "1"))??;
        Ok(Self {
            netlink: Handle::in_netns(&netns)?,
            netns,
            ip: Ipv4Addr::new(172, 30, 0, 10 + number),
            pod_cidr: Ipv4Net::new(Ipv4Addr::new(10, 244, number, 0), 24)?,
        })
    }
}

/// Who makes the routes between nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Routes {
    Static,
    /// The layout's own agent.
    Agent,
}

impl Pod {
    /// A worker in a namespace that is wired already.
    pub(super) fn start(netns: &Netns, ip: IpAddr) -> Result<Self> {
        Ok(Self { ip, worker: Worker::start(netns)? })
    }
}

/// A namespace with its loopback up and TCP as every layout has it.
pub(crate) async fn namespace() -> Result<Netns> {
    let netns = Netns::new_anonymous()?;
    netns.run(|| -> std::result::Result<(), netlink::Error> {
        // The default here may be BBR, whose pacing hides what the path can do.
        sysctl("ipv4/tcp_congestion_control", "reno")?;
        // Closed connections are forgotten at once: else each round would begin with those of the rounds before.
        sysctl("ipv4/tcp_max_tw_buckets", "16")
    })??;
    let netlink = Handle::in_netns(&netns)?;
    let lo = netlink.link_by_name("lo").await?.context("a namespace without lo")?;
    netlink.set_up(lo.index).await?;
    Ok(netns)
}

/// A locally administered address.
pub(super) fn mac(last: u8) -> Mac {
    [0x02, 0, 0, 0, 0xbe, last]
}

pub(super) const MTU: u32 = 1500;
/// The device that leads to the other node.
pub(super) const CABLE: &str = "cable";
/// Routes made by hand (`RTPROT_STATIC`).
pub(super) const STATIC: u8 = 4;
