//! VXLAN devices that leave it to whoever sends through them which node and network a packet is for ("external").

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use crate::Mac;
use crate::error::Result;
use crate::handle::{Handle, about};

/// An external VXLAN device. It learns nothing and asks for no neighbour: every destination has its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanSpec<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub mtu: u32,
    /// UDP.
    pub port: u16,
}

impl Handle {
    /// Makes the device, down. Its packets may come without a UDP checksum, over IPv6 too. Returns its index.
    pub async fn create_vxlan(&self, spec: &VxlanSpec<'_>) -> Result<u32> {
        let about = about!("create vxlan device", "{} at port {}", spec.name, spec.port);
        let mut message = LinkMessageBuilder::<LinkVxlan>::new(spec.name)
            .collect_metadata(true)
            .learning(false)
            .port(spec.port)
            .udp_zero_csum6_tx(true)
            .udp_zero_csum6_rx(true)
            .address(spec.mac.to_vec())
            .mtu(spec.mtu)
            .build();
        message.header.flags |= LinkFlags::Noarp;
        message.header.change_mask |= LinkFlags::Noarp;
        self.change(about, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await?;
        match self.link_by_name(spec.name).await? {
            Some(link) => Ok(link.index),
            None => Err(about.answer("created, but it is gone".into())),
        }
    }

    /// The port of an external VXLAN device; `None` if the link is none.
    pub async fn vxlan_port(&self, ifindex: u32) -> Result<Option<u16>> {
        let mut message = LinkUnspec::new_with_index(ifindex).build();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let about = about!("look up vxlan device", "{ifindex}");
        let answers = self.ask(about, RouteNetlinkMessage::GetLink(message)).await?;
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => external_port(message),
            _ => None,
        }))
    }
}

fn external_port(message: LinkMessage) -> Option<u16> {
    let mut infos = message.attributes.into_iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let data = infos.next()?.into_iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    })?;
    let is_external = data.iter().any(|info| matches!(info, InfoVxlan::CollectMetadata(true)));
    let port = data.iter().find_map(|info| match info {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    });
    port.filter(|_| is_external)
}
