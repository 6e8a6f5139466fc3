//! An endpoint's network: what `ADD` makes and `CHECK` looks for, said once.
//!
//! A pod has its addresses with full prefixes and sends everything to a link-local gateway, whose link-layer address it
//! knows for good; the host's side knows the pod's for good. So there is no ARP, no neighbour discovery and no bridge.
//! The host's side stays down until the agent has the endpoint's policy in force; routes need it up and come last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink::{
    GATEWAY_V4, GATEWAY_V6, HOST_MAC, Handle, HostSide, Mac, Netns, ROUTE_PROTOCOL, Route, VethSpec,
};

use crate::spec::{Failure, code};

#[derive(Clone, Debug)]
pub(crate) struct Wiring {
    pub(crate) host_name: String,
    /// The interface's name in the pod.
    pub(crate) ifname: String,
    /// At most one of each family.
    pub(crate) ips: Vec<IpAddr>,
    /// The pod's side; the host's side is the same everywhere.
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) node_ips: Vec<IpAddr>,
}

/// The loopback link is the first of every namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// How long to wait for the kernel to finish what it does in the background. It is nearly always done when first asked, but
/// its workers take their turn with everybody else's on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(5);

impl Wiring {
    /// Makes the pair, both ends down. Returns the host's and the pod's side.
    pub(crate) async fn make_link(&self, host: &Handle, netns: &Netns) -> Result<(u32, u32), Failure> {
        let spec = VethSpec {
            name: &self.host_name,
            mac: HOST_MAC,
            mtu: self.mtu,
            peer_name: &self.ifname,
            peer_mac: self.mac,
            peer_mtu: self.mtu,
            peer_netns: netns,
        };
        Ok(host.create_veth(&spec).await?)
    }

    /// Everything inside the pod, up to its link being up (and without a carrier while the other end is down).
    pub(crate) async fn wire_pod(&self, inside: &Handle, netns: &Netns, link: u32) -> Result<(), Failure> {
        netns.run(|| self.pod_settings())??;
        inside.set_up(LOOPBACK).await?;
        for address in self.addresses() {
            inside.add_address(link, address).await?;
        }
        inside.set_up(link).await?;
        for ip in &self.ips {
            inside.add_neighbour(link, gateway(*ip), HOST_MAC).await?;
        }
        for route in self.pod_routes(link) {
            inside.add_route(&route).await?;
        }
        Ok(())
    }

    /// The host's side, which stays down.
    pub(crate) async fn wire_host(&self, host: &Handle, link: u32) -> Result<(), Failure> {
        for (setting, value) in self.host_side(link).settings() {
            netlink::sysctl(&setting, value)?;
        }
        for ip in &self.ips {
            host.add_neighbour(link, *ip, self.mac).await?;
        }
        Ok(())
    }

    /// The last step: from here on packets flow.
    pub(crate) async fn open(&self, host: &Handle, inside: &Handle, link: u32) -> Result<(), Failure> {
        host.set_up(link).await?;
        for route in self.host_side(link).routes() {
            // One left behind by a plugin that was killed leads nowhere: the ledger says the address is ours.
            host.replace_route(&route).await?;
        }
        self.wait_until_ready(inside).await
    }

    /// The kernel finishes both later: until then it drops what comes for the pod. Who hears that `ADD` is done may send at
    /// once, so one that cannot keep the promise fails, and the runtime tries again.
    async fn wait_until_ready(&self, inside: &Handle) -> Result<(), Failure> {
        let started = Instant::now();
        let left = || READY_LIMIT.saturating_sub(started.elapsed());
        let not_ready = |what: String| {
            let message =
                format!("{what} after {} s: the kernel is too busy, try again", READY_LIMIT.as_secs());
            Failure::new(code::TRY_AGAIN_LATER, message)
        };
        if !inside.wait_until_can_send(&self.ifname, left()).await? {
            return Err(not_ready(format!("{} cannot send yet", self.ifname)));
        }
        for ip in &self.ips {
            if !inside.wait_until_local(*ip, left()).await? {
                return Err(not_ready(format!("{ip} is not local to {} yet", self.ifname)));
            }
        }
        Ok(())
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpNet> {
        self.ips.iter().map(|ip| full(*ip))
    }

    pub(crate) fn pod_routes(&self, link: u32) -> Vec<Route> {
        let route = |destination, via: Option<IpAddr>| Route {
            destination,
            via,
            oif: link,
            source: None,
            onlink: false,
            protocol: ROUTE_PROTOCOL,
            link_scope: via.is_none(),
        };
        let routes = |ip: &IpAddr| match ip {
            IpAddr::V4(_) => vec![
                route(full(GATEWAY_V4.into()), None),
                route(everywhere(Ipv4Addr::UNSPECIFIED.into()), Some(GATEWAY_V4.into())),
            ],
            // Link-local addresses are on the link without being told.
            IpAddr::V6(_) => vec![route(everywhere(Ipv6Addr::UNSPECIFIED.into()), Some(GATEWAY_V6.into()))],
        };
        self.ips.iter().flat_map(routes).collect()
    }

    pub(crate) fn host_side(&self, link: u32) -> HostSide<'_> {
        HostSide {
            name: &self.host_name,
            ifindex: link,
            ips: &self.ips,
            mac: Some(self.mac),
            node_ips: &self.node_ips,
        }
    }

    /// In the pod's namespace. Addresses are ours to give and unique by construction, so neither router advertisements
    /// nor duplicate detection have a say.
    fn pod_settings(&self) -> Result<(), netlink::Error> {
        let link = &self.ifname;
        let wants_v6 = self.ips.iter().any(IpAddr::is_ipv6);
        if !wants_v6 && !has_ipv6(link) {
            return Ok(());
        }
        netlink::sysctl(&format!("ipv6/conf/{link}/accept_dad"), "0")?;
        netlink::sysctl(&format!("ipv6/conf/{link}/accept_ra"), "0")?;
        if wants_v6 {
            // Runtimes switch IPv6 off in namespaces they think have none.
            netlink::sysctl(&format!("ipv6/conf/{link}/disable_ipv6"), "0")?;
        }
        Ok(())
    }
}

/// The gateway of the family of `ip`.
pub(crate) fn gateway(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

fn full(ip: IpAddr) -> IpNet {
    ip.into()
}

fn everywhere(unspecified: IpAddr) -> IpNet {
    // Zero is a prefix length of both families.
    IpNet::new_assert(unspecified, 0)
}

/// Whether the kernel (of the calling thread's namespace) speaks IPv6 on the link at all.
fn has_ipv6(link: &str) -> bool {
    netlink::read_sysctl(&format!("ipv6/conf/{link}/disable_ipv6")).is_ok()
}
