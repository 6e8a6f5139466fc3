//! Unicast routes of the main table.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::ROUTE_PROTOCOL;
use crate::address::family;
use crate::error::Result;
use crate::handle::{Handle, about};

/// A route with one next hop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    pub destination: IpNet,
    pub via: Option<IpAddr>,
    pub oif: u32,
    /// The source address of packets born here.
    pub source: Option<IpAddr>,
    /// `via` is on the link whatever the addresses say.
    pub onlink: bool,
    /// Who made it: [`crate::ROUTE_PROTOCOL`] for ours.
    pub protocol: u8,
    /// The destination is on the link itself. IPv6 has no scopes: there this is read back as "no gateway".
    pub link_scope: bool,
}

impl Handle {
    /// Adds a route; one to the same destination that is there already is an error.
    pub async fn add_route(&self, route: &Route) -> Result<()> {
        let message = RouteNetlinkMessage::NewRoute(route.message());
        self.change(about!("add route", "{route}"), message, NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Adds a route, or puts it in the place of the one to the same destination.
    pub async fn replace_route(&self, route: &Route) -> Result<()> {
        let message = RouteNetlinkMessage::NewRoute(route.message());
        self.change(about!("replace route", "{route}"), message, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    pub async fn delete_route(&self, route: &Route) -> Result<()> {
        let message = RouteNetlinkMessage::DelRoute(route.message());
        self.change(about!("delete route", "{route}"), message, 0).await
    }

    /// All unicast routes of the main table that leave by one link.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        self.routes_by(0).await
    }

    /// Those of them that are ours.
    pub async fn own_routes(&self) -> Result<Vec<Route>> {
        self.routes_by(ROUTE_PROTOCOL).await
    }

    /// 0: by any protocol.
    async fn routes_by(&self, protocol: u8) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.header.kind = RouteType::Unicast;
            message.header.protocol = RouteProtocol::from(protocol);
            let asked = self.dump(about!("list", "routes"), RouteNetlinkMessage::GetRoute(message)).await;
            match asked {
                // Kernels that know no such filter answer with all.
                Ok(answers) => routes.extend(
                    answers
                        .into_iter()
                        .filter_map(read)
                        .filter(|route| protocol == 0 || route.protocol == protocol),
                ),
                // Nothing was ever put into the table.
                Err(error) if error.is_not_there() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }
}

impl Route {
    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let network = self.destination.network();
        message.header.address_family = family(network);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.protocol = RouteProtocol::from(self.protocol);
        message.header.scope =
            if self.link_scope && network.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        message.header.destination_prefix_length = self.destination.prefix_len();
        if self.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        message.attributes.push(RouteAttribute::Oif(self.oif));
        if self.destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(network.into()));
        }
        message.attributes.extend(self.via.map(|via| RouteAttribute::Gateway(via.into())));
        message.attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        message
    }
}

fn read(answer: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut via, mut oif, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    Some(Route {
        destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
        via,
        oif: oif?,
        source,
        onlink: header.flags.contains(RouteFlags::Onlink),
        protocol: header.protocol.into(),
        link_scope: if destination.is_ipv4() { header.scope == RouteScope::Link } else { via.is_none() },
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " link {}", self.oif)?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        Ok(())
    }
}
