//! The overlay between nodes, byte by byte: what is put around a packet, what is taken off, and who is not believed.

use std::net::IpAddr;

use common::net::protocol::UDP;
use common::overlay::{DEVICE_MAC, NodeRow, SENDER_MAC, TunnelRow};
use common::verdict::DropReason::{Malformed, NotIp, OverlayPort, OverlaySpoofed, Spoofed};
use common::verdict::PassReason::{Established, Foreign, Open};
use dataplane::{Nodes, Options, OverlayOptions};
use ipnet::IpNet;
use policy::tables::Cidr;
use tests::frame::{ETH_LEN, ETHERTYPE_ARP, Packet, echo_request, ethernet, tcp, udp};
use tests::node::{
    A, B, FAMILIES, Family, NODE, Node, OTHER_NODE, Party, REMOTE, STRANGER, dropped, onward, redirected,
};

const PORT: u16 = 4789;
const VNI: u32 = 0x01_0257;
const OVERLAY: OverlayOptions = OverlayOptions { port: PORT, vni: VNI };
const REMOTE_PODS: [&str; 2] = ["10.244.1.0/24", "fd00:244:0:1::/64"];
/// A third node, and its pods.
const THIRD_NODE: Party = Party {
    v4: std::net::Ipv4Addr::new(172, 30, 0, 12),
    v6: std::net::Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0x12),
};
const THIRD_PODS: [&str; 2] = ["10.244.2.0/24", "fd00:244:0:2::/64"];

fn block(text: &str) -> Cidr {
    let block: IpNet = text.parse().unwrap();
    let bits = u32::from(block.prefix_len()) + if block.addr().is_ipv4() { 96 } else { 0 };
    Cidr { addr: block.network().into(), bits }
}

fn alone(ip: IpAddr) -> Cidr {
    Cidr { addr: ip.into(), bits: 128 }
}

/// `OTHER_NODE` and its pods are behind the overlay, whose outer packets are of this family.
fn overlaid(family: Family) -> Node {
    let node = Node::with(Options { overlay: Some(OVERLAY), ..Options::default() });
    let mtu = if family == Family::V4 { 1450 } else { 1430 };
    let mut wanted = Nodes::default();
    for (number, party, pods) in [(1, OTHER_NODE, REMOTE_PODS), (2, THIRD_NODE, THIRD_PODS)] {
        let row = NodeRow { local: NODE.on(family).into(), remote: party.on(family).into(), mtu };
        wanted.nodes.insert(number, row);
        wanted.tunnels.extend(pods.map(|pods| (block(pods), behind(number, 0))));
        wanted.tunnels.extend(FAMILIES.map(|own| (alone(party.on(own)), behind(number, TunnelRow::NODE))));
    }
    wanted
        .tunnels
        .extend(FAMILIES.map(|own| (alone(NODE.on(own)), TunnelRow { node: 0, flags: TunnelRow::NODE })));
    node.dataplane.overlay().unwrap().write(&Nodes::default(), &wanted).unwrap();
    node
}

fn behind(node: u32, flags: u32) -> TunnelRow {
    TunnelRow { node, flags: TunnelRow::BEHIND | flags }
}

/// The frame that carries another one through the overlay.
#[derive(Clone, Copy)]
struct Around<'a> {
    from: IpAddr,
    to: IpAddr,
    source_port: u16,
    port: u16,
    vni: u32,
    frame: &'a [u8],
}

impl Around<'_> {
    fn packet(self) -> Packet {
        let inner_len = self.frame.len() - ETH_LEN;
        let mut payload = [self.source_port.to_be_bytes(), self.port.to_be_bytes()].concat();
        payload.extend(((8 + 8 + ETH_LEN + inner_len) as u16).to_be_bytes());
        payload.extend([0, 0, 8, 0, 0, 0]);
        payload.extend((self.vni << 8).to_be_bytes());
        payload.extend(DEVICE_MAC);
        payload.extend(SENDER_MAC);
        payload.extend(&self.frame[12..]);
        Packet::new(self.from, self.to, UDP, payload)
    }

    fn frame(self) -> Vec<u8> {
        self.packet().frame()
    }
}

/// From `OTHER_NODE`, with this inside.
fn around(family: Family, frame: &[u8]) -> Around<'_> {
    Around {
        from: OTHER_NODE.on(family),
        to: NODE.on(family),
        source_port: 55_555,
        port: PORT,
        vni: VNI,
        frame,
    }
}

/// The source port of an outer packet, where `wrapped` is exactly the frame around `inner`, from this node to the other.
#[track_caller]
fn source_port_around(family: Family, inner: &[u8], wrapped: &[u8]) -> u16 {
    let ip_len = if family == Family::V4 { 20 } else { 40 };
    let at = ETH_LEN + ip_len;
    let source_port = u16::from_be_bytes([wrapped[at], wrapped[at + 1]]);
    let expected =
        Around { from: NODE.on(family), to: OTHER_NODE.on(family), source_port, ..around(family, inner) };
    let mut expected = expected.frame();
    // The link's addresses are the stack's to fill in, when it knows the next hop.
    expected[..12].copy_from_slice(&wrapped[..12]);
    if family == Family::V4 {
        let sum: u32 =
            wrapped[ETH_LEN..at].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum of the outer header");
        // Identification and checksum.
        for bytes in [4..6, 10..12] {
            let bytes = ETH_LEN + bytes.start..ETH_LEN + bytes.end;
            expected[bytes.clone()].copy_from_slice(&wrapped[bytes]);
        }
    } else {
        // The flow label.
        expected[ETH_LEN + 1..ETH_LEN + 4].copy_from_slice(&wrapped[ETH_LEN + 1..ETH_LEN + 4]);
    }
    assert_eq!(wrapped, expected);
    source_port
}

#[test]
fn a_packet_to_a_pod_behind_the_overlay_gets_exactly_the_headers_of_vxlan_around_it() {
    for outer in FAMILIES {
        let mut node = overlaid(outer);
        for inner in FAMILIES {
            let (a, remote) = (A.on(inner), REMOTE.on(inner));
            let mut ports = Vec::new();
            for flow in [tcp(a, remote, 80), udp(a, remote, 53), tcp(a, remote, 81).from_port(40001)] {
                let frame = flow.frame();
                assert_eq!(node.from_pod(A, &frame), redirected(Open), "{flow:?}");
                ports.push(source_port_around(outer, &frame, &node.frame));
            }
            assert!(ports.iter().all(|port| *port >= 0xc000), "{ports:?}");
            assert!(ports[0] != ports[2], "flows are told apart");
            let ping = echo_request(a, remote, 7).frame();
            assert_eq!(node.from_pod(A, &ping), redirected(Open));
            source_port_around(outer, &ping, &node.frame);
            // The other node itself is behind it, too: the network between drops what has a pod's address.
            let to_node = tcp(a, OTHER_NODE.on(inner), 6443).syn();
            assert_eq!(node.from_pod(A, &to_node), redirected(Open));
            source_port_around(outer, &to_node, &node.frame);
            // A pod of this node is not.
            let near = tcp(a, B.on(inner), 80).syn();
            assert_eq!(node.from_pod(A, &near), redirected(Open));
            assert_eq!(node.frame, near);
        }
    }
}

#[test]
fn a_connection_through_the_overlay_is_one_and_each_of_its_packets_is_wrapped_or_bare() {
    for outer in FAMILIES {
        let mut node = overlaid(outer);
        for inner in FAMILIES {
            let flow = tcp(A.on(inner), REMOTE.on(inner), 80);
            assert_eq!(node.from_pod(A, &flow.syn()), redirected(Open));
            let port = source_port_around(outer, &flow.syn(), &node.frame);
            let answer = flow.back().syn_ack();
            assert_eq!(node.from_net(&around(outer, &answer).frame()), redirected(Established));
            assert_eq!(node.frame[12..], answer[12..], "bare, and of its own kind");
            // The shortcut knows the way as well.
            for _ in 0..3 {
                assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
                assert_eq!(source_port_around(outer, &flow.data(), &node.frame), port);
                let answer = flow.back().data();
                assert_eq!(node.from_net(&around(outer, &answer).frame()), redirected(Established));
                assert_eq!(node.frame[12..], answer[12..]);
            }
            // Begun by the other side, or by the other node itself, and by an address of its own.
            for from in [REMOTE, OTHER_NODE] {
                let flow = tcp(from.on(inner), B.on(inner), 80);
                assert_eq!(node.from_net(&around(outer, &flow.syn()).frame()), redirected(Open));
                assert_eq!(node.frame[12..], flow.syn()[12..]);
                assert_eq!(node.from_pod(B, &flow.back().syn_ack()), redirected(Established));
                source_port_around(outer, &flow.back().syn_ack(), &node.frame);
            }
            // To the node itself: the stack takes it, without its outer headers.
            let to_node = tcp(REMOTE.on(inner), NODE.on(inner), 10250).syn();
            assert_eq!(node.from_net(&around(outer, &to_node).frame()), onward(Foreign));
            assert_eq!(node.frame[12..], to_node[12..]);
        }
    }
}

#[test]
fn nobody_speaks_through_the_overlay_for_what_is_not_behind_him() {
    for outer in FAMILIES {
        let mut node = overlaid(outer);
        for inner in FAMILIES {
            let b = B.on(inner);
            for liar in [A, NODE, STRANGER, THIRD_NODE] {
                let frame = tcp(liar.on(inner), b, 80).syn();
                let met = node.from_net(&around(outer, &frame).frame());
                assert_eq!(met, dropped(OverlaySpoofed), "{liar:?}");
                let event = node.last_event();
                assert_eq!(event.reason, OverlaySpoofed as u8);
            }
            let third = THIRD_PODS[inner as usize].parse::<IpNet>().unwrap().hosts().nth(8).unwrap();
            let frame = tcp(third, b, 80).syn();
            assert_eq!(node.from_net(&around(outer, &frame).frame()), dropped(OverlaySpoofed));
            // And nobody who is no node.
            let stranger = Around { from: STRANGER.on(outer), ..around(outer, &frame) };
            assert_eq!(node.from_net(&stranger.frame()), dropped(OverlaySpoofed));
            let own = Around { from: THIRD_NODE.on(outer), ..around(outer, &frame) };
            assert_eq!(node.from_net(&own.frame()), redirected(Open));
            // What the VXLAN device brings without saying from whom.
            assert_eq!(node.at_overlay("from_overlay", &frame), dropped(OverlaySpoofed));
        }
        let arp = ethernet(ETHERTYPE_ARP, &[0; 40]);
        assert_eq!(node.from_net(&around(outer, &arp).frame()), dropped(Malformed));
        assert_eq!(node.at_overlay("from_overlay", &arp), dropped(NotIp));
    }
}

#[test]
fn what_is_not_of_our_overlay_stays_as_it_is() {
    for outer in FAMILIES {
        let mut node = overlaid(outer);
        let frame = tcp(REMOTE.v4.into(), B.v4.into(), 80).syn();
        let ours = around(outer, &frame);
        let without_vni = {
            let mut bytes = ours.frame();
            let at = ETH_LEN + if outer == Family::V4 { 20 } else { 40 } + 8;
            bytes[at] = 0;
            bytes
        };
        for (what, other) in [
            ("another network", Around { vni: VNI + 1, ..ours }.frame()),
            ("another port", Around { port: PORT + 1, ..ours }.frame()),
            ("a header without a network", without_vni),
            ("a piece", ours.packet().fragments(7).0),
        ] {
            let met = node.from_net(&other);
            assert_eq!(met, onward(Foreign), "{what}");
            assert_eq!(node.frame, other, "{what}");
        }
        // A pod may listen at that port, and even speak that language.
        let to_pod = Around { to: B.on(outer), ..ours }.frame();
        assert_eq!(node.from_net(&to_pod), redirected(Open));
        assert_eq!(node.frame, to_pod);
    }
}

#[test]
fn line_15_a_pod_cannot_put_packets_into_the_overlay() {
    for outer in FAMILIES {
        let mut node = overlaid(outer);
        for family in FAMILIES {
            let a = A.on(family);
            for to in [NODE, OTHER_NODE, THIRD_NODE] {
                let frame = udp(a, to.on(family), PORT).frame();
                assert_eq!(node.from_pod(A, &frame), dropped(OverlayPort), "{to:?}");
                let (first, later) = udp(a, to.on(family), PORT).packet().fragments(9);
                assert_eq!(node.from_pod(A, &first), dropped(OverlayPort), "{to:?}");
                // It takes the ports of its first.
                assert_eq!(node.from_pod(A, &later), dropped(OverlayPort), "{to:?}");
                // Another port, or another protocol, is no way in.
                assert!(node.from_pod(A, &udp(a, to.on(family), PORT + 1).frame()).passed());
                assert!(node.from_pod(A, &tcp(a, to.on(family), PORT).frame()).passed());
            }
            // Pods may listen at that port.
            assert_eq!(node.from_pod(A, &udp(a, B.on(family), PORT).frame()), redirected(Open));
            assert_eq!(node.from_pod(A, &udp(a, REMOTE.on(family), PORT).frame()), redirected(Open));
            let lie = udp(B.on(family), REMOTE.on(family), PORT).frame();
            assert_eq!(node.from_pod(A, &lie), dropped(Spoofed));
        }
    }
    let mut plain = Node::new();
    for family in FAMILIES {
        let frame = udp(A.on(family), OTHER_NODE.on(family), PORT).frame();
        assert_eq!(plain.from_pod(A, &frame), redirected(Open), "there is no overlay");
        let inner = tcp(REMOTE.on(family), B.on(family), 80).syn();
        assert_eq!(plain.from_net(&around(family, &inner).frame()), onward(Foreign));
    }
}

#[test]
fn what_does_not_fit_is_left_to_the_stack_which_can_say_so() {
    for outer in FAMILIES {
        let mut node = overlaid(outer);
        let mtu = if outer == Family::V4 { 1450 } else { 1430 };
        for inner in FAMILIES {
            let (a, remote) = (A.on(inner), REMOTE.on(inner));
            let ip_len = if inner == Family::V4 { 20 } else { 40 };
            let of = |length: usize| {
                let mut payload = vec![0x9c, 0x40, 0, 53];
                payload.extend(((length - ip_len) as u16).to_be_bytes());
                payload.resize(length - ip_len, 0xaa);
                Packet::new(a, remote, UDP, payload).frame()
            };
            assert_eq!(node.from_pod(A, &of(mtu)), redirected(Open));
            source_port_around(outer, &of(mtu), &node.frame);
            assert_eq!(node.from_pod(A, &of(mtu + 1)), onward(Established));
            assert_eq!(node.frame, of(mtu + 1));
        }
    }
}

#[test]
fn congestion_is_told_through_the_overlay() {
    let class = |frame: &mut Vec<u8>, ecn: u8| match frame[ETH_LEN] >> 4 {
        4 => frame[ETH_LEN + 1] = ecn,
        _ => frame[ETH_LEN + 1] = ecn << 4,
    };
    let told = |frame: &[u8]| match frame[ETH_LEN] >> 4 {
        4 => frame[ETH_LEN + 1] & 3,
        _ => frame[ETH_LEN + 1] >> 4 & 3,
    };
    for outer in FAMILIES {
        let mut node = overlaid(outer);
        for inner in FAMILIES {
            for ecn in 0..4 {
                let mut frame = udp(A.on(inner), REMOTE.on(inner), 53).frame();
                class(&mut frame, ecn);
                assert!(node.from_pod(A, &frame).passed());
                assert_eq!(told(&node.frame), ecn, "outward");
            }
            for (outside, inside, then) in [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 1, 3), (3, 2, 3), (0, 2, 2)]
            {
                let mut frame = udp(REMOTE.on(inner), B.on(inner), 53).frame();
                class(&mut frame, inside);
                let mut wrapped = around(outer, &frame).frame();
                class(&mut wrapped, outside);
                assert!(node.from_net(&wrapped).passed());
                assert_eq!(told(&node.frame), then, "{outside} around {inside}");
            }
            let frame = udp(REMOTE.on(inner), B.on(inner), 53).frame();
            let mut wrapped = around(outer, &frame).frame();
            class(&mut wrapped, 3);
            assert_eq!(node.from_net(&wrapped), dropped(Malformed), "it does not know of congestion");
        }
    }
}
