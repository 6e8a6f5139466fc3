//! The wires: a bridge in the control plane's network namespace, which is the API server's address, and from each node's
//! `eth0` a cable to it.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink::{Handle, Mac, Route, VethSpec};

use super::layout::{API_SERVER, API_SERVER_V6, UNDERLAY_V4, UNDERLAY_V6};
use super::machine::Machine;

const BRIDGE: &str = "br0";
const DEVICE: &str = "eth0";
const MTU: u32 = 1500;
/// `RTPROT_BOOT`: set by hand.
const PROTOCOL: u8 = 3;
/// Loopback is every namespace's first link.
const LOOPBACK: u32 = 1;

/// A node's addresses; `number` counts from 1.
pub(crate) fn addresses(number: usize) -> [String; 2] {
    let host = 10 + number;
    [format!("{UNDERLAY_V4}.{host}"), format!("{UNDERLAY_V6}:{host}")]
}

/// Lays the bridge.
pub(crate) fn lay(control_plane: &Machine) -> Result<()> {
    run(async {
        let links = Handle::in_netns(&control_plane.netns()?)?;
        links.set_up(LOOPBACK).await?;
        let bridge = links.create_bridge(BRIDGE).await?;
        links.add_address(bridge, network(API_SERVER)?).await?;
        links.add_address(bridge, network(API_SERVER_V6)?).await?;
        links.set_up(bridge).await?;
        Ok(())
    })
    .context("lay the underlay")
}

/// Joins a node to the bridge. Its old cable is gone with its old namespace.
pub(crate) fn join(control_plane: &Machine, node: &Machine, number: usize) -> Result<()> {
    run(async {
        let there = node.netns()?;
        let (ours, theirs) = (Handle::in_netns(&control_plane.netns()?)?, Handle::in_netns(&there)?);
        let bridge = ours.link_by_name(BRIDGE).await?.context("the underlay has no bridge")?;
        if let Some(old) = ours.link_by_name(&node.name).await? {
            ours.delete_link(old.index).await?;
        }
        let port = u8::try_from(number).context("more nodes than the underlay has ports")?;
        let (near, far) = ours
            .create_veth(&VethSpec {
                name: &node.name,
                mac: mac(1, port),
                mtu: MTU,
                peer_name: DEVICE,
                peer_mac: mac(2, port),
                peer_mtu: MTU,
                peer_netns: &there,
            })
            .await?;
        ours.set_master(near, bridge.index).await?;
        ours.set_up(near).await?;
        theirs.set_up(LOOPBACK).await?;
        theirs.set_up(far).await?;
        for (own, gateway) in addresses(number).iter().zip([API_SERVER, API_SERVER_V6]) {
            theirs.add_address(far, network(own)?).await?;
            let gateway: IpAddr = gateway.parse()?;
            let any = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            theirs.add_route(&route(any.parse()?, gateway, far)).await?;
        }
        Ok(())
    })
    .with_context(|| format!("join {} to the underlay", node.name))
}

/// Unplugs a node's cable, or plugs it in again.
pub(crate) fn plug(control_plane: &Machine, node: &str, up: bool) -> Result<()> {
    run(async {
        let links = Handle::in_netns(&control_plane.netns()?)?;
        let port = links.link_by_name(node).await?.context("it has no cable")?;
        if up {
            links.set_up(port.index).await?
        } else {
            links.set_down(port.index).await?
        }
        Ok(())
    })
    .with_context(|| format!("cable of {node}"))
}

/// Sends what is for these pods by the node of this number.
pub(crate) fn route_to_pods(machine: &Machine, cidrs: &[String], number: usize) -> Result<()> {
    run(async {
        let links = Handle::in_netns(&machine.netns()?)?;
        let device = match links.link_by_name(BRIDGE).await? {
            Some(bridge) => bridge,
            None => links.link_by_name(DEVICE).await?.context("no device to the underlay")?,
        };
        for cidr in cidrs {
            let cidr: IpNet = cidr.parse().with_context(|| format!("`{cidr}` is no range"))?;
            let ips = addresses(number).map(|ip| ip.parse::<IpAddr>());
            for ip in ips {
                let ip = ip?;
                if ip.is_ipv4() == cidr.addr().is_ipv4() {
                    links.replace_route(&route(cidr, ip, device.index)).await?;
                }
            }
        }
        Ok(())
    })
    .with_context(|| format!("route {} to pods", machine.name))
}

fn run(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?
        .block_on(work)
}

fn network(address: &str) -> Result<IpNet> {
    let ip: IpAddr = address.parse().with_context(|| format!("`{address}` is no address"))?;
    IpNet::new(ip, if ip.is_ipv4() { 24 } else { 64 }).context("a prefix that is too long")
}

fn route(destination: IpNet, via: IpAddr, oif: u32) -> Route {
    Route {
        destination,
        via: Some(via),
        oif,
        source: None,
        onlink: false,
        protocol: PROTOCOL,
        link_scope: false,
    }
}

/// Locally administered; which end of the cable, and which cable.
fn mac(end: u8, port: u8) -> Mac {
    [0x02, 0x77, 0x63, 0x6c, end, port]
}
