//! Packets out of the ordinary: cut short, lying, in pieces, about other packets.

use std::net::IpAddr;

use common::id::{ClassId, RuleId, RuleSetId};
use common::net::protocol::{TCP, UDP};
use common::verdict::Direction::{Egress, Ingress};
use common::verdict::DropReason::{FragmentBeforeFirst, Malformed, PolicyDenied, Spoofed};
use common::verdict::PassReason::{Established, Foreign, Open, Related, Rule};
use tests::frame::{
    AUTHENTICATION, DESTINATION_OPTIONS, ETH_LEN, Flow, HOP_BY_HOP, Packet, ROUTING, echo_request,
    port_unreachable, sctp, tcp, too_big, udp,
};
use tests::node::{A, B, FAMILIES, Node, REMOTE, STRANGER, dropped, onward, redirected};
use tests::rows::allow;

const CLOSED: RuleSetId = RuleSetId::new(0x10);
const WEB: RuleSetId = RuleSetId::new(0x11);
const RULE: RuleId = RuleId::new(0x1);

/// `B` lets everyone in to port 80 of TCP and UDP only.
fn web() -> Node {
    let mut node = Node::new();
    node.apply(allow(WEB, ClassId::ANY, TCP, 80..=80, RULE));
    node.apply(allow(WEB, ClassId::ANY, UDP, 80..=80, RULE));
    node.isolate(B, Ingress, WEB);
    node
}

/// Dropped where it enters or leaves a pod; from the network the stack must take it, for nobody knows whom it is for.
#[track_caller]
fn malformed(node: &mut Node, what: &str, frame: &[u8]) {
    assert_eq!(node.from_pod(A, frame), dropped(Malformed), "{what}");
    assert_eq!(node.forwarded(A, frame), dropped(Malformed), "{what}");
    assert_eq!(node.from_node(A, frame), dropped(Malformed), "{what}");
    assert_eq!(node.from_net(frame), onward(Foreign), "{what}");
}

#[test]
fn a_packet_that_ends_within_a_header_is_malformed() {
    let mut node = Node::new();
    for family in FAMILIES {
        let (a, b) = (A.on(family), B.on(family));
        // The kernel tries out no frame that ends within the IP header.
        let ip_len = if a.is_ipv4() { 20 } else { 40 };
        for (packet, header) in [
            (tcp(a, b, 80).packet(), 14),
            (udp(a, b, 80).packet(), 8),
            (sctp(a, b, 80).packet(), 8),
            (echo_request(a, b, 80), 8),
        ] {
            for length in 0..header {
                let what = format!("{length} bytes of {packet:?}");
                malformed(&mut node, &what, &packet.frame()[..ETH_LEN + ip_len + length]);
                malformed(&mut node, &what, &packet.clone().cut(length).frame());
                let padded = [packet.clone().cut(length).frame(), vec![0; 40]].concat();
                malformed(&mut node, &what, &padded);
            }
        }
    }
}

#[test]
fn a_header_that_contradicts_itself_is_malformed() {
    let mut node = Node::new();
    let bend = |frame: Vec<u8>, at: usize, bytes: &[u8]| {
        let mut bent = frame;
        bent[ETH_LEN + at..ETH_LEN + at + bytes.len()].copy_from_slice(bytes);
        bent
    };
    let v4 = tcp(A.v4.into(), B.v4.into(), 80).syn();
    let v6 = tcp(A.v6.into(), B.v6.into(), 80).syn();
    for (what, frame) in [
        ("IPv4 with a header of four words", bend(v4.clone(), 0, &[0x44])),
        ("IPv4 with a header beyond its end", bend(v4.clone(), 0, &[0x4f])),
        ("IPv4 that says it is IPv6", bend(v4.clone(), 0, &[0x65])),
        ("IPv6 that says it is IPv4", bend(v6.clone(), 0, &[0x40])),
        ("IPv4 longer than its frame", bend(v4.clone(), 2, &41_u16.to_be_bytes())),
        ("IPv4 that ends within its own header", bend(v4.clone(), 2, &19_u16.to_be_bytes())),
        ("IPv4 that ends within the TCP header", bend(v4.clone(), 2, &32_u16.to_be_bytes())),
        ("IPv6 longer than its frame", bend(v6.clone(), 4, &21_u16.to_be_bytes())),
        ("IPv6 that ends within the TCP header", bend(v6.clone(), 4, &12_u16.to_be_bytes())),
    ] {
        malformed(&mut node, what, &frame);
    }
}

#[test]
fn an_ipv6_header_borrows_no_rights_of_an_ipv4_address() {
    let mut node = Node::new();
    // The same sixteen bytes as the pods' IPv4 addresses have in the maps.
    let (a, b) = (A.v4.to_ipv6_mapped().into(), B.v4.to_ipv6_mapped().into());
    for (source, destination) in [(a, b), (a, B.v6.into()), (A.v6.into(), b), (b, a)] {
        for packet in [tcp(source, destination, 80).packet(), udp(source, destination, 80).packet()] {
            malformed(&mut node, &format!("{packet:?}"), &packet.frame());
        }
    }
}

#[test]
fn padding_of_a_short_frame_is_no_lie() {
    let mut node = Node::new();
    let flow = udp(A.v4.into(), B.v4.into(), 80);
    let padded = [flow.frame(), vec![0; 18]].concat();
    assert_eq!(node.from_pod(A, &padded), redirected(Open));
}

/// A first fragment too short for its flags, with other ones in the padding: the reassembled packet would be a SYN.
#[test]
fn flags_are_not_read_beyond_the_end_of_a_tiny_fragment() {
    let mut node = Node::new();
    node.isolate(A, Ingress, CLOSED);
    let flow = tcp(A.v4.into(), B.v4.into(), 80);
    assert_eq!(node.from_pod(A, &flow.syn()), redirected(Open));
    assert_eq!(node.from_pod(B, &flow.back().syn_ack()), redirected(Established));
    let header = flow.back().data()[ETH_LEN + 20..].to_vec();
    let tiny = Packet::new(flow.destination, flow.source, TCP, header[..8].to_vec()).fragment(7, 0, true);
    let tiny = [tiny.frame(), header[8..].to_vec()].concat();
    assert_eq!(node.from_pod(B, &tiny), dropped(Malformed));
}

#[test]
fn ipv4_options_hide_no_ports() {
    let mut node = web();
    for words in [1, 5, 10] {
        for flow in [tcp(A.v4.into(), B.v4.into(), 80), udp(A.v4.into(), B.v4.into(), 80)] {
            let flow = flow.from_port(40000 + u16::from(words));
            assert_eq!(node.from_pod(A, &flow.packet().options(words).frame()), redirected(Rule));
            let denied = Flow { destination_port: 81, ..flow };
            assert_eq!(node.from_pod(A, &denied.packet().options(words).frame()), dropped(PolicyDenied));
        }
    }
}

#[test]
fn ipv6_extension_headers_are_walked_four_deep_and_no_deeper() {
    let mut node = web();
    let kinds = [HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, AUTHENTICATION, DESTINATION_OPTIONS];
    let flow = tcp(A.v6.into(), B.v6.into(), 80);
    let dressed = |flow: Flow, depth: usize| {
        kinds[..depth].iter().fold(flow.packet(), |packet, kind| packet.extension(*kind)).frame()
    };
    for depth in 1..=4 {
        assert_eq!(node.from_pod(A, &dressed(flow, depth)), redirected(Rule), "{depth}");
        let denied = Flow { destination_port: 81, ..flow };
        assert_eq!(node.from_pod(A, &dressed(denied, depth)), dropped(PolicyDenied), "{depth}");
    }
    malformed(&mut node, "five extension headers", &dressed(flow, 5));
    let endless = flow.packet().extension_of(DESTINATION_OPTIONS, 255, 16).frame();
    malformed(&mut node, "an extension header longer than the packet", &endless);
    let cut = flow.packet().extension(DESTINATION_OPTIONS).frame();
    malformed(&mut node, "a packet that ends within an extension header", &cut[..ETH_LEN + 40 + 7]);
}

#[test]
fn later_fragments_follow_their_first() {
    let mut node = web();
    for family in FAMILIES {
        let (a, b) = (A.on(family), B.on(family));
        let flow = udp(a, b, 80);
        let (first, later) = flow.packet().fragments(7);
        assert_eq!(node.from_pod(A, &later), dropped(FragmentBeforeFirst));
        assert_eq!(node.last_event().reason, FragmentBeforeFirst as u8);
        assert_eq!(node.from_pod(A, &first), redirected(Rule));
        assert_eq!(node.from_pod(A, &later), redirected(Established));
        // The next datagram is another one.
        let (_, later) = flow.packet().fragments(8);
        assert_eq!(node.from_pod(A, &later), dropped(FragmentBeforeFirst));
        // What is denied is denied to its last piece.
        let (first, later) = udp(a, b, 81).packet().fragments(9);
        assert_eq!(node.from_pod(A, &first), dropped(PolicyDenied));
        assert_eq!(node.from_pod(A, &later), dropped(PolicyDenied));
        // Nobody else's pieces join.
        let (_, spoofed) = flow.packet().fragments(7);
        assert_eq!(node.from_pod(B, &spoofed), dropped(Spoofed));
    }
}

#[test]
fn fragments_from_the_network_follow_their_first_and_foreign_ones_are_let_be() {
    let mut node = web();
    for family in FAMILIES {
        let remote = REMOTE.on(family);
        let (first, later) = udp(remote, B.on(family), 80).packet().fragments(7);
        assert_eq!(node.from_net(&later), dropped(FragmentBeforeFirst));
        assert_eq!(node.forwarded(B, &later), dropped(FragmentBeforeFirst));
        assert_eq!(node.from_net(&first), redirected(Rule));
        assert_eq!(node.from_net(&later), redirected(Established));
        let (_, later) = udp(remote, STRANGER.on(family), 80).packet().fragments(8);
        assert_eq!(node.from_net(&later), onward(Foreign));
    }
}

#[test]
fn fragments_of_pings_and_behind_options_follow_their_first_too() {
    let mut node = Node::new();
    for family in FAMILIES {
        let (first, later) = echo_request(A.on(family), B.on(family), 1).fragments(7);
        assert_eq!(node.from_pod(A, &first), redirected(Open));
        assert_eq!(node.from_pod(A, &later), redirected(Established));
    }
    let (first, later) = udp(A.v4.into(), B.v4.into(), 80).packet().options(3).fragments(8);
    assert_eq!(node.from_pod(A, &first), redirected(Open));
    assert_eq!(node.from_pod(A, &later), redirected(Established));
    let behind = udp(A.v6.into(), B.v6.into(), 80).packet().extension(DESTINATION_OPTIONS);
    let (first, later) = behind.fragments(9);
    assert_eq!(node.from_pod(A, &first), redirected(Open));
    assert_eq!(node.from_pod(A, &later), redirected(Established));
    // A packet that is its own only fragment is whole.
    let atomic = udp(A.v6.into(), B.v6.into(), 81).packet().fragment(10, 0, false).frame();
    assert_eq!(node.from_pod(A, &atomic), redirected(Open));
}

#[test]
fn a_header_behind_the_fragment_header_is_part_of_what_was_cut() {
    let mut node = Node::new();
    let flow = udp(A.v6.into(), B.v6.into(), 80);
    let udp_bytes = flow.frame()[ETH_LEN + 40..].to_vec();
    let options = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &udp_bytes].concat();
    let (first, later) =
        Packet::new(flow.source, flow.destination, DESTINATION_OPTIONS, options).fragments(7);
    assert_eq!(node.from_pod(A, &first), redirected(Open));
    assert_eq!(node.from_pod(A, &later), redirected(Established));
}

#[test]
fn icmp_errors_about_an_allowed_flow_pass_whatever_the_policy() {
    let mut node = Node::new();
    for family in FAMILIES {
        let (a, remote, router) = (A.on(family), REMOTE.on(family), STRANGER.on(family));
        let flows = [tcp(a, remote, 80).frame(), udp(a, remote, 53).frame(), sctp(a, remote, 9).frame()];
        let ping = echo_request(a, remote, 5).frame();
        for frame in flows.into_iter().chain([ping]) {
            assert_eq!(node.from_pod(A, &frame), redirected(Open));
            node.isolate(A, Ingress, CLOSED);
            assert_eq!(node.from_net(&too_big(router, &frame, a).frame()), redirected(Related));
            assert_eq!(node.forwarded(A, &port_unreachable(remote, &frame, a).frame()), onward(Related));
            node.isolate(A, Ingress, RuleSetId::OPEN);
        }
    }
}

#[test]
fn a_pod_may_answer_an_allowed_flow_with_an_icmp_error() {
    let mut node = web();
    node.isolate(B, Egress, CLOSED);
    for family in FAMILIES {
        let (b, remote) = (B.on(family), REMOTE.on(family));
        let frame = udp(remote, b, 80).frame();
        let answer = port_unreachable(b, &frame, remote).frame();
        assert_eq!(node.from_pod(B, &answer), dropped(PolicyDenied));
        assert_eq!(node.from_net(&frame), redirected(Rule));
        assert_eq!(node.from_pod(B, &answer), redirected(Related));
        // As itself only.
        assert_eq!(node.from_pod(A, &answer), dropped(Spoofed));
    }
}

#[test]
fn icmp_errors_about_an_unknown_flow_are_judged() {
    let mut node = Node::new();
    node.isolate(A, Ingress, CLOSED);
    for family in FAMILIES {
        let (a, b, remote): (IpAddr, _, _) = (A.on(family), B.on(family), REMOTE.on(family));
        let known = udp(a, remote, 53);
        assert_eq!(node.from_pod(A, &known.frame()), redirected(Open));
        let unknown = udp(a, remote, 54).frame();
        assert_eq!(node.from_net(&too_big(remote, &unknown, a).frame()), dropped(PolicyDenied));
        // About a packet that somebody else has sent.
        let other = known.back().frame();
        assert_eq!(node.from_net(&too_big(remote, &other, a).frame()), dropped(PolicyDenied));
        assert_eq!(node.from_net(&too_big(remote, &known.frame(), b).frame()), redirected(Open));
        // Too short to tell.
        let cut = &known.frame()[..ETH_LEN + 16];
        assert_eq!(node.from_net(&too_big(remote, cut, a).frame()), dropped(PolicyDenied));
    }
}
