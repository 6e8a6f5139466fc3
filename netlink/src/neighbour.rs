//! Neighbours: which link-layer address an IP address has.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteType;

use crate::Mac;
use crate::address::family;
use crate::error::Result;
use crate::handle::{Handle, about};

/// One neighbour whose link-layer address is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    pub ip: IpAddr,
    pub mac: Mac,
    pub permanent: bool,
}

impl Handle {
    /// Makes `ip` a permanent neighbour, in the place of what was known of it.
    pub async fn add_neighbour(&self, ifindex: u32, ip: IpAddr, mac: Mac) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(NeighbourAttribute::Destination(match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let about = about!("add neighbour", "{ip} on link {ifindex}");
        self.change(about, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// The link's neighbours with a known link-layer address.
    pub async fn neighbours(&self, ifindex: u32) -> Result<Vec<Neighbour>> {
        let mut message = NeighbourMessage::default();
        message.attributes.push(NeighbourAttribute::IfIndex(ifindex));
        let about = about!("list the neighbours of link", "{ifindex}");
        let answers = self.dump(about, RouteNetlinkMessage::GetNeighbour(message)).await?;
        Ok(answers.into_iter().filter_map(|answer| read(answer, ifindex)).collect())
    }
}

fn read(answer: RouteNetlinkMessage, ifindex: u32) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else { return None };
    if message.header.ifindex != ifindex {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(v4.into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(v6.into()),
            NeighbourAttribute::LinkLayerAddress(address) => mac = address.try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour { ip: ip?, mac: mac?, permanent: message.header.state == NeighbourState::Permanent })
}
