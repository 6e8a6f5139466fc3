//! Addresses of links.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use nix::libc::ENETUNREACH;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::Result;
use crate::handle::{Handle, about, look_until};

impl Handle {
    /// Gives the link an address. IPv6 skips duplicate address detection: our addresses are unique by construction, and
    /// a tentative address cannot be bound for a second.
    pub async fn add_address(&self, ifindex: u32, address: IpNet) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.header.index = ifindex;
        if address.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Address(address.addr()));
        let about = about!("add address", "{address} to link {ifindex}");
        self.change(about, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Waits until packets to `ip` are taken in here, at most for `limit`. Returns whether they are.
    ///
    /// An IPv6 address is in the list as soon as it was added, but the kernel only makes its local route in a worker that
    /// wants the same lock as every link of the machine; until then it drops what comes for the address.
    pub async fn wait_until_local(&self, ip: IpAddr, limit: Duration) -> Result<bool> {
        look_until(limit, async || {
            let mut message = RouteMessage::default();
            message.header.address_family = family(ip);
            message.header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
            message.attributes.push(RouteAttribute::Destination(ip.into()));
            let about = about!("look up the route to", "{ip}");
            match self.ask(about, RouteNetlinkMessage::GetRoute(message)).await {
                Ok(answers) => Ok(answers.iter().any(is_local)),
                // There is no way at all yet.
                Err(error) if error.errno() == Some(ENETUNREACH) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// The link's addresses, link-local ones too.
    pub async fn addresses(&self, ifindex: u32) -> Result<Vec<IpNet>> {
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        let about = about!("list the addresses of link", "{ifindex}");
        let answers = self.dump(about, RouteNetlinkMessage::GetAddress(message)).await?;
        Ok(answers.into_iter().filter_map(|answer| own_address(answer, ifindex)).collect())
    }
}

fn is_local(answer: &RouteNetlinkMessage) -> bool {
    matches!(answer, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local)
}

fn own_address(answer: RouteNetlinkMessage, ifindex: u32) -> Option<IpNet> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    if message.header.index != ifindex {
        return None;
    }
    let mut ip = None;
    for attribute in message.attributes {
        match attribute {
            // On a point-to-point link ADDRESS is the other end's.
            AddressAttribute::Local(local) => ip = Some(local),
            AddressAttribute::Address(address) => ip = ip.or(Some(address)),
            _ => {}
        }
    }
    IpNet::new(ip?, message.header.prefix_len).ok()
}

pub(crate) fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
