//! Links: veth pairs, bridges, up and down.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::Mac;
use crate::error::Result;
use crate::handle::{Handle, about, look_until};
use crate::netns::Netns;

/// A veth pair whose other end is born in another namespace.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub mtu: u32,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    pub peer_mtu: u32,
    pub peer_netns: &'a Netns,
}

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Absent where the link has none of six bytes (tunnels).
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub up: bool,
    /// It has a carrier and the kernel has finished with the event: what it sends is not dropped.
    pub can_send: bool,
    /// The bridge or bond it belongs to.
    pub master: Option<u32>,
    /// For a veth the other end's index, in that end's namespace.
    pub peer: Option<u32>,
    /// `veth`, `bridge`, …; empty for physical links and `lo`.
    pub kind: String,
}

impl Handle {
    /// Makes a veth pair, both ends down, in one message: names, addresses and MTUs are final from the first moment, so
    /// that nothing (udev) sees a default it wants to rewrite. Returns this end's and the other end's index.
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<(u32, u32)> {
        let about = about!(
            "create veth",
            "{} with {} in {}",
            spec.name,
            spec.peer_name,
            spec.peer_netns.path().display()
        );
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(spec.peer_name)
            .address(spec.peer_mac.to_vec())
            .mtu(spec.peer_mtu)
            .setns_by_fd(spec.peer_netns.as_fd().as_raw_fd())
            .build();
        let message = LinkVeth::new(spec.name, spec.peer_name)
            .address(spec.mac.to_vec())
            .mtu(spec.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.change(about, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await?;
        match self.link_by_name(spec.name).await? {
            Some(Link { index, peer: Some(peer), .. }) => Ok((index, peer)),
            other => Err(about.answer(format!("created, but it then reads {other:?}"))),
        }
    }

    /// Makes a bridge, down. Returns its index.
    pub async fn create_bridge(&self, name: &str) -> Result<u32> {
        let about = about!("create bridge", "{name}");
        let message = LinkMessageBuilder::<LinkBridge>::new(name).build();
        self.change(about, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await?;
        match self.link_by_name(name).await? {
            Some(link) => Ok(link.index),
            None => Err(about.answer("created, but it is gone".into())),
        }
    }

    /// Makes the link a port of `bridge`.
    pub async fn set_master(&self, ifindex: u32, bridge: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).controller(bridge).build();
        let about = about!("set the bridge of link", "{ifindex} to {bridge}");
        self.change(about, RouteNetlinkMessage::SetLink(message), 0).await
    }

    pub async fn set_up(&self, ifindex: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).up().build();
        self.change(about!("set up link", "{ifindex}"), RouteNetlinkMessage::SetLink(message), 0).await
    }

    pub async fn set_down(&self, ifindex: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).down().build();
        self.change(about!("set down link", "{ifindex}"), RouteNetlinkMessage::SetLink(message), 0).await
    }

    pub async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).mtu(mtu).build();
        let about = about!("set the MTU of link", "{ifindex} to {mtu}");
        self.change(about, RouteNetlinkMessage::SetLink(message), 0).await
    }

    /// Deletes a link; of a veth pair both ends go.
    pub async fn delete_link(&self, ifindex: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).build();
        self.change(about!("delete link", "{ifindex}"), RouteNetlinkMessage::DelLink(message), 0).await
    }

    /// Waits until the link can send, at most for `limit`. Returns whether it can.
    ///
    /// A link that was set up before its other end drops what it sends until the kernel has worked off that event (more
    /// than half of the packets sent at once are lost). Since Linux 6.8 asking for the link makes the kernel do so before
    /// it answers; only older ones need another look.
    pub async fn wait_until_can_send(&self, name: &str, limit: Duration) -> Result<bool> {
        look_until(limit, async || Ok(self.link_by_name(name).await?.is_some_and(|link| link.can_send))).await
    }

    /// The link with this name, if there is one.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkUnspec::new_with_name(name).build();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let asked = self.ask(about!("look up link", "{name}"), RouteNetlinkMessage::GetLink(message)).await;
        match asked {
            Ok(answers) => Ok(links(answers).next()),
            Err(error) if error.is_not_there() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = self.dump(about!("list", "links"), RouteNetlinkMessage::GetLink(message)).await?;
        Ok(links(answers).collect())
    }
}

fn links(answers: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = Link> {
    answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from(message)),
        _ => None,
    })
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            can_send: false,
            master: None,
            peer: None,
            kind: String::new(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::OperState(state) => link.can_send = state == State::Up,
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos
                        .into_iter()
                        .find_map(|info| match info {
                            LinkInfo::Kind(kind) => Some(kind.to_string()),
                            _ => None,
                        })
                        .unwrap_or_default();
                }
                _ => {}
            }
        }
        link
    }
}
