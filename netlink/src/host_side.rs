//! What the node's side of an endpoint's pair of links has: said once, for the plugin that makes it and for the agent that
//! keeps it so.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::error::Result;
use crate::handle::Handle;
use crate::route::Route;
use crate::sysctl::{read_sysctl, sysctl};
use crate::{Mac, ROUTE_PROTOCOL};

/// The node's side of one endpoint's pair of links.
#[derive(Clone, Copy, Debug)]
pub struct HostSide<'a> {
    pub name: &'a str,
    pub ifindex: u32,
    /// The pod's addresses.
    pub ips: &'a [IpAddr],
    /// The pod's own link-layer address; without it nothing is said of neighbours.
    pub mac: Option<Mac>,
    /// What the node sends from.
    pub node_ips: &'a [IpAddr],
}

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Down,
    Setting { setting: String, value: &'static str, found: String },
    Neighbour(IpAddr),
    Route(Route),
}

impl HostSide<'_> {
    /// Loose: the pod's source addresses are checked by our own program, and replies may leave another way.
    const V4_SETTINGS: [(&'static str, &'static str); 3] =
        [("rp_filter", "2"), ("forwarding", "1"), ("proxy_arp", "0")];
    const V6_SETTINGS: [(&'static str, &'static str); 2] = [("accept_ra", "0"), ("forwarding", "1")];

    /// The link's settings, as [`sysctl`] takes them, in the calling thread's namespace.
    pub fn settings(&self) -> Vec<(String, &'static str)> {
        let wants_v6 = self.ips.iter().any(IpAddr::is_ipv6);
        let has_v6 = wants_v6 || read_sysctl(&format!("ipv6/conf/{}/disable_ipv6", self.name)).is_ok();
        let v4 =
            Self::V4_SETTINGS.iter().map(|(key, value)| (format!("ipv4/conf/{}/{key}", self.name), *value));
        let v6 =
            Self::V6_SETTINGS.iter().map(|(key, value)| (format!("ipv6/conf/{}/{key}", self.name), *value));
        v4.chain(v6.filter(|_| has_v6)).collect()
    }

    /// One to each address of the pod.
    pub fn routes(&self) -> impl Iterator<Item = Route> {
        self.ips.iter().map(|ip| Route {
            destination: (*ip).into(),
            via: None,
            oif: self.ifindex,
            source: self.node_ips.iter().copied().find(|node| node.is_ipv4() == ip.is_ipv4()),
            onlink: false,
            protocol: ROUTE_PROTOCOL,
            link_scope: true,
        })
    }

    /// What of this is not so, given the routes of the namespace that are ours. Nothing where the link is gone. Must be called in the
    /// handle's namespace.
    pub async fn faults(&self, handle: &Handle, routes: &BTreeSet<Route>) -> Result<Vec<Fault>> {
        let mut faults = self.setting_faults(|_| true);
        match handle.link_by_name(self.name).await? {
            Some(link) if link.index == self.ifindex => faults.extend((!link.up).then_some(Fault::Down)),
            _ => return Ok(Vec::new()),
        }
        if let Some(mac) = self.mac {
            let known = handle.neighbours(self.ifindex).await?;
            let is_known = |ip: &IpAddr| {
                known.iter().any(|there| there.ip == *ip && there.mac == mac && there.permanent)
            };
            faults.extend(self.ips.iter().filter(|ip| !is_known(ip)).map(|ip| Fault::Neighbour(*ip)));
        }
        faults.extend(self.route_faults(routes));
        Ok(faults)
    }

    /// The routes of this that are not among those of the namespace.
    pub fn route_faults(&self, routes: &BTreeSet<Route>) -> Vec<Fault> {
        self.routes().filter(|route| !routes.contains(route)).map(Fault::Route).collect()
    }

    /// Those settings that are not right and of whose change the kernel tells nobody.
    pub fn silent_faults(&self) -> Vec<Fault> {
        self.setting_faults(|setting| setting.ends_with("/accept_ra"))
    }

    fn setting_faults(&self, looked_at: impl Fn(&str) -> bool) -> Vec<Fault> {
        let settings = self.settings().into_iter().filter(|(setting, _)| looked_at(setting));
        let faults = settings.filter_map(|(setting, value)| {
            // One that cannot be read is gone, with its link.
            let found = read_sysctl(&setting).ok().filter(|found| found != value)?;
            Some(Fault::Setting { setting, value, found })
        });
        faults.collect()
    }

    /// Makes one thing right.
    pub async fn mend(&self, handle: &Handle, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Down => handle.set_up(self.ifindex).await,
            Fault::Setting { setting, value, .. } => sysctl(setting, value),
            Fault::Neighbour(ip) => match self.mac {
                Some(mac) => handle.add_neighbour(self.ifindex, *ip, mac).await,
                None => Ok(()),
            },
            Fault::Route(route) => handle.replace_route(route).await,
        }
    }
}
