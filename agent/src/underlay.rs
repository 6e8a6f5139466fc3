//! The devices towards the other nodes, and the kernel settings that forwarding needs.

use std::net::IpAddr;

use crate::cidrs::OnLink;
use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use netlink::{Handle, Route};
use tracing::{debug, info};

/// Routes by this protocol come from a router advertisement.
const BY_ADVERTISEMENT: u8 = 9;

/// A device towards the other nodes.
#[derive(Clone, Debug)]
pub(crate) struct Underlay {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    pub(crate) mtu: u32,
    addresses: Vec<IpNet>,
    /// The default route came by a router advertisement.
    advertised: bool,
}

impl Underlay {
    /// The networks that it is on.
    pub(crate) fn on_link(&self) -> impl Iterator<Item = OnLink> {
        self.addresses.iter().map(|network| OnLink { device: self.name.clone(), network: *network })
    }

    pub(crate) fn is_on_link(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|address| address.contains(&ip))
    }

    /// It is the device's own address.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|address| address.addr() == ip)
    }

    #[cfg(test)]
    pub(crate) fn of(name: &str, ifindex: u32, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Self { name: name.to_owned(), ifindex, mtu: 1500, addresses, advertised: false }
    }
}

/// The devices named, or where none is, those of the default routes.
pub(crate) async fn find(handle: &Handle, names: &[String]) -> Result<Vec<Underlay>> {
    let routes = handle.routes().await.context("find the underlay's devices")?;
    let links = handle.links().await.context("find the underlay's devices")?;
    let is_default = |route: &&Route| route.destination.prefix_len() == 0;
    let chosen: Vec<_> = if names.is_empty() {
        links
            .into_iter()
            .filter(|link| routes.iter().filter(is_default).any(|route| route.oif == link.index))
            .collect()
    } else {
        for name in names {
            if !links.iter().any(|link| link.name == *name) {
                bail!("--device {name}: no such device on this node");
            }
        }
        links.into_iter().filter(|link| names.contains(&link.name)).collect()
    };
    if chosen.is_empty() {
        bail!("no default route tells which device leads to the other nodes; name it with --device");
    }
    let mut underlays = Vec::new();
    for link in chosen {
        let advertised = routes.iter().filter(is_default).any(|route| {
            route.oif == link.index
                && route.protocol == BY_ADVERTISEMENT
                && route.destination.addr().is_ipv6()
        });
        underlays.push(Underlay {
            addresses: handle.addresses(link.index).await?,
            name: link.name,
            ifindex: link.index,
            mtu: link.mtu,
            advertised,
        });
    }
    Ok(underlays)
}

/// Lets this node forward, and accept what comes back by another way than it went. What had to be changed for it.
pub(crate) fn prepare(underlays: &[Underlay]) -> Result<Vec<String>> {
    let mut changed = Vec::new();
    let mut set = |setting: &str, value| {
        changed.extend(set(setting, value)?);
        anyhow::Ok(())
    };
    set("ipv4/ip_forward", "1")?;
    // The kernel takes the larger of `all` and the device's own, and loose is the largest.
    set("ipv4/conf/all/rp_filter", "2")?;
    for underlay in underlays {
        set(&format!("ipv4/conf/{}/rp_filter", underlay.name), "2")?;
    }
    if netlink::read_sysctl("ipv6/conf/all/disable_ipv6").is_err() {
        debug!("this kernel has no IPv6");
        return Ok(changed);
    }
    // Before forwarding: that would turn advertisements off, and the default route would run out.
    for underlay in underlays.iter().filter(|underlay| underlay.advertised) {
        set(&format!("ipv6/conf/{}/accept_ra", underlay.name), "2")?;
    }
    set("ipv6/conf/all/forwarding", "1")?;
    Ok(changed)
}

/// Writes only what is not so already: in some containers these settings are right and read-only.
fn set(setting: &str, value: &str) -> Result<Option<String>> {
    if netlink::read_sysctl(setting).is_ok_and(|present| present == value) {
        return Ok(None);
    }
    netlink::sysctl(setting, value)?;
    info!(setting, value, "kernel setting changed");
    Ok(Some(format!("/proc/sys/net/{setting}: set to {value}")))
}
