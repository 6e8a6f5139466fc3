//! Neighbour discovery and multicast listener reports of a pod (semantics.md, NetworkPolicy 10).

use common::net::Addr;
use common::verdict::{DropReason, PassReason};

use crate::packet::Packet;

const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const MLDV2_REPORT: u8 = 143;

/// The verdict on an ICMPv6 packet of these kinds from a pod; `None` for every other one. They end at the gateway: the stack
/// never forwards them.
#[inline(always)]
pub(crate) fn from_pod(packet: &Packet) -> Option<Result<PassReason, DropReason>> {
    let bounded = match packet.icmp_type {
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT | ROUTER_SOLICITATION => packet.hop_limit == 255,
        MLD_QUERY | MLD_REPORT | MLD_DONE | MLDV2_REPORT => packet.hop_limit == 1,
        ROUTER_ADVERTISEMENT | REDIRECT => false,
        _ => return None,
    };
    Some(if bounded && (packet.source == Addr::UNSPECIFIED || is_link_local(&packet.source)) {
        Ok(PassReason::Discovery)
    } else {
        Err(DropReason::ForbiddenDiscovery)
    })
}

/// fe80::/10
#[inline(always)]
fn is_link_local(addr: &Addr) -> bool {
    u32::from_be(addr.0[0]) >> 22 == 0xfe80 >> 6
}
