//! What passes between a pod and its gateway below IP, or beside it: neighbour discovery, multicast listeners, ARP.

use std::net::Ipv6Addr;

use common::id::RuleSetId;
use common::verdict::Direction::{Egress, Ingress};
use common::verdict::DropReason::{ForbiddenDiscovery, NotIp};
use common::verdict::PassReason::{Discovery as Neighbourly, Foreign, Open};
use tests::frame::{Discovery, ETHERTYPE_ARP, Packet, ethernet};
use tests::node::{A, B, Node, dropped, onward, redirected};

const CLOSED: RuleSetId = RuleSetId::new(0x10);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
const GATEWAY: Ipv6Addr = netlink::GATEWAY_V6;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

#[test]
fn neighbour_discovery_passes_within_its_bounds_whatever_the_policy() {
    use Discovery::{
        MldDone, MldQuery, MldReport, Mldv2Report, NeighbourAdvertisement, NeighbourSolicitation,
        RouterSolicitation,
    };
    let mut node = Node::new();
    node.isolate(A, Egress, CLOSED);
    node.isolate(A, Ingress, CLOSED);
    let kinds = [
        NeighbourSolicitation,
        NeighbourAdvertisement,
        RouterSolicitation,
        MldReport,
        MldDone,
        Mldv2Report,
        MldQuery,
    ];
    for kind in kinds {
        for source in [LINK_LOCAL, Ipv6Addr::UNSPECIFIED] {
            let packet = kind.packet(source, GATEWAY);
            assert_eq!(node.from_pod(A, &packet.frame()), onward(Neighbourly), "{kind:?} from {source}");
            // From beyond the link, or from an address that others could be reached by.
            let routed = packet.hop_limit(64).frame();
            assert_eq!(node.from_pod(A, &routed), dropped(ForbiddenDiscovery), "{kind:?} from {source}");
        }
        for source in [A.v6, B.v6] {
            let packet = kind.packet(source, GATEWAY).frame();
            assert_eq!(node.from_pod(A, &packet), dropped(ForbiddenDiscovery), "{kind:?} from {source}");
        }
    }
}

#[test]
fn router_advertisements_and_redirects_from_a_pod_are_dropped() {
    let mut node = Node::new();
    for kind in [Discovery::RouterAdvertisement, Discovery::Redirect] {
        for source in [LINK_LOCAL, Ipv6Addr::UNSPECIFIED, A.v6] {
            for destination in [GATEWAY, ALL_NODES, B.v6] {
                let frame = kind.packet(source, destination).frame();
                assert_eq!(node.from_pod(A, &frame), dropped(ForbiddenDiscovery), "{kind:?} from {source}");
            }
        }
    }
    assert_eq!(node.last_event().reason, ForbiddenDiscovery as u8);
}

#[test]
fn neighbour_discovery_is_no_part_of_a_connection() {
    let mut node = Node::new();
    // An ICMPv6 message with nothing to tell it apart by.
    let other = Packet::new(A.v6.into(), B.v6.into(), 58, vec![200; 16]).frame();
    assert_eq!(node.from_pod(A, &other), redirected(Open));
    for kind in [Discovery::RouterAdvertisement, Discovery::Redirect, Discovery::NeighbourAdvertisement] {
        let frame = kind.packet(A.v6, B.v6).frame();
        assert_eq!(node.from_pod(A, &frame), dropped(ForbiddenDiscovery), "{kind:?}");
    }
}

#[test]
fn arp_passes_and_what_is_neither_ip_nor_arp_does_not_leave_a_pod() {
    let mut node = Node::new();
    node.isolate(A, Egress, CLOSED);
    let arp = ethernet(ETHERTYPE_ARP, &[0; 28]);
    assert_eq!(node.from_pod(A, &arp), onward(Neighbourly));
    assert_eq!(node.from_node(A, &arp), onward(Neighbourly));
    assert_eq!(node.from_net(&arp), onward(Foreign));
    for ethertype in [0x8847, 0x88cc, 0x88a8, 0x0026, 0x8137] {
        let frame = ethernet(ethertype, &[0; 46]);
        assert_eq!(node.from_pod(A, &frame), dropped(NotIp), "{ethertype:#x}");
        assert_eq!(node.from_net(&frame), onward(Foreign), "{ethertype:#x}");
    }
}
