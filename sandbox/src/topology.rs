//! The ground between the nodes: one namespace that is switch and router, and a host beyond it.
//!
//! Nodes hang on a bridge in `router`; beyond it stands `outside`, which reaches pods through the router, unmasked, so
//! that ipBlocks in policies have something to match. Every setting is made inside these namespaces, none on the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Context;
use ipnet::IpNet;
use netlink::{Handle, Mac, Netns, Route, VethSpec, sysctl};

use crate::plan::{Node, Routing};

/// A node's device on the underlay.
pub(crate) const NODE_DEVICE: &str = "eth0";
const MTU: u32 = 1500;
/// `RTPROT_BOOT`: not ours as an agent would see it, just there.
const PROTOCOL: u8 = 3;

const OUTSIDE: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)), 24),
    (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10)), 64),
];

/// The underlay. Dropped, its namespaces go away, and with them every link.
#[derive(Debug)]
pub(crate) struct Underlay {
    pub(crate) outside: Netns,
    pub(crate) router: Netns,
    router_links: Handle,
    bridge: u32,
}

impl Underlay {
    pub(crate) async fn create(folder: &Path) -> anyhow::Result<Self> {
        let router = namespace(folder, "router", Settings { forwarding: true }).await?;
        let outside = namespace(folder, "outside", Settings { forwarding: false }).await?;
        let links = Handle::in_netns(&router).context("look into the router")?;
        let bridge = links.create_bridge("br0").await.context("build the router")?;
        for network in underlay() {
            links.add_address(bridge, network).await.context("build the router")?;
        }
        links.set_up(bridge).await.context("build the router")?;

        let (near, far) = links
            .create_veth(&VethSpec {
                name: "outside",
                mac: mac(1, 0),
                mtu: MTU,
                peer_name: "eth0",
                peer_mac: mac(2, 0),
                peer_mtu: MTU,
                peer_netns: &outside,
            })
            .await
            .context("join outside to the router")?;
        let far_links = Handle::in_netns(&outside).context("look outside")?;
        links.set_up(near).await.context("join outside to the router")?;
        far_links.set_up(far).await.context("join outside to the router")?;
        for (ip, bits) in OUTSIDE {
            let gateway = first_host(ip, bits);
            links.add_address(near, IpNet::new(gateway, bits)?).await.context("address the router")?;
            far_links.add_address(far, IpNet::new(ip, bits)?).await.context("address outside")?;
            far_links.add_route(&default_route(gateway, far)).await.context("route outside")?;
        }
        Ok(Self { outside, router, router_links: links, bridge })
    }

    pub(crate) fn outside_ips() -> Vec<IpAddr> {
        OUTSIDE.map(|(ip, _)| ip).to_vec()
    }

    /// Joins a node to the bridge, and lets the router send the node's pod ranges its way.
    ///
    /// Where packets go in VXLAN, nothing but the router is on the node's link: its addresses have full prefixes.
    pub(crate) async fn join(
        &self,
        index: usize,
        node: &Node,
        netns: &Netns,
        routing: Routing,
    ) -> anyhow::Result<()> {
        let port = u8::try_from(index).context("more nodes than the underlay has ports")?;
        let (near, far) = self
            .router_links
            .create_veth(&VethSpec {
                name: &node.name,
                mac: mac(3, port),
                mtu: MTU,
                peer_name: NODE_DEVICE,
                peer_mac: mac(4, port),
                peer_mtu: MTU,
                peer_netns: netns,
            })
            .await?;
        self.router_links.set_master(near, self.bridge).await?;
        self.router_links.set_up(near).await?;
        let links = Handle::in_netns(netns)?;
        links.set_up(far).await?;
        for (network, ip) in underlay().into_iter().zip(&node.ips) {
            let is_alone = routing == Routing::Vxlan;
            let own = if is_alone { IpNet::from(*ip) } else { IpNet::new(*ip, network.prefix_len())? };
            links.add_address(far, own).await?;
            links.add_route(&Route { onlink: is_alone, ..default_route(network.addr(), far) }).await?;
            for cidr in node.pod_cidrs.iter().filter(|cidr| cidr.addr().is_ipv4() == ip.is_ipv4()) {
                let route = Route { destination: *cidr, ..default_route(*ip, self.bridge) };
                self.router_links.add_route(&route).await?;
            }
        }
        Ok(())
    }
}

/// The router's own addresses on the underlay.
fn underlay() -> [IpNet; 2] {
    let (v4, v4_bits) = Node::UNDERLAY_V4;
    let (v6, v6_bits) = Node::UNDERLAY_V6;
    [(v4.into(), v4_bits), (v6.into(), v6_bits)]
        .map(|(network, bits)| IpNet::new_assert(first_host(network, bits), bits))
}

/// The first address of the network that `ip` is in: the router's, everywhere.
fn first_host(ip: IpAddr, bits: u8) -> IpAddr {
    match IpNet::new_assert(ip, bits).network() {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() + 1).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() + 1).into(),
    }
}

fn default_route(via: IpAddr, oif: u32) -> Route {
    let any: IpAddr = if via.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Route {
        destination: IpNet::new_assert(any, 0),
        via: Some(via),
        oif,
        source: None,
        onlink: false,
        protocol: PROTOCOL,
        link_scope: false,
    }
}

/// Locally administered; what it is for, and which one.
fn mac(purpose: u8, index: u8) -> Mac {
    [0x02, 0x77, 0x73, 0x62, purpose, index]
}

/// What a new namespace is for.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// It passes packets on that are not its own.
    pub(crate) forwarding: bool,
}

/// A new namespace with loopback up, mounted in `folder`.
pub(crate) async fn namespace(folder: &Path, name: &str, settings: Settings) -> anyhow::Result<Netns> {
    let netns = Netns::create_at(folder.join(name))?;
    netns
        .run(|| {
            // BBR, the default on some machines, paces single streams to a fraction.
            sysctl("ipv4/tcp_congestion_control", "reno")?;
            // No waiting for duplicate addresses: we give each only once.
            for who in ["all", "default"] {
                sysctl(&format!("ipv6/conf/{who}/accept_dad"), "0")?;
                sysctl(&format!("ipv6/conf/{who}/accept_ra"), "0")?;
                sysctl(&format!("ipv4/conf/{who}/rp_filter"), "0")?;
            }
            if settings.forwarding {
                // The router has nodes on one bridge that are to think they are on links of their own.
                sysctl("ipv4/conf/all/send_redirects", "0")?;
                sysctl("ipv4/conf/default/send_redirects", "0")?;
                sysctl("ipv4/ip_forward", "1")?;
                sysctl("ipv6/conf/all/forwarding", "1")?;
            }
            Ok::<_, netlink::Error>(())
        })?
        .with_context(|| format!("set up network namespace {name}"))?;
    // As container runtimes do for every pod; loopback is always the first link.
    Handle::in_netns(&netns)?.set_up(1).await?;
    Ok(netns)
}
