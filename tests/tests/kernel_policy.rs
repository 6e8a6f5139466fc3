//! Policy in the kernel: tables in, packets in, verdicts out, each with its reason.

use common::flow::FlowEvent;
use common::id::{ClassId, RuleId, RuleSetId};
use common::net::protocol::{SCTP, TCP, UDP};
use common::service::{ServiceKey, ServiceRow};
use common::verdict::Direction::{Egress, Ingress};
use common::verdict::DropReason::{PolicyDenied, Spoofed, UnknownEndpoint, UntranslatedService};
use common::verdict::PassReason::{Established, Foreign, Itself, Node as NodeItself, Open, Rule};
use policy::tables::MapOp;
use tests::frame::{echo_request, sctp, tcp, udp};
use tests::node::{A, B, FAMILIES, NODE, Node, OTHER_NODE, REMOTE, STRANGER, dropped, onward, redirected};
use tests::rows::{ANY_PORT, PORTLESS, allow, block, deny, peer};

const WEB: RuleSetId = RuleSetId::new(0x11);
const CLIENTS: ClassId = ClassId::new(0xc1);
const NEIGHBOURS: ClassId = ClassId::new(0xc2);
const RULE: RuleId = RuleId::new(0x1);
const OTHER_RULE: RuleId = RuleId::new(0x2);

#[test]
fn an_open_pod_reaches_everyone_and_everyone_reaches_it() {
    let mut node = Node::new();
    for family in FAMILIES {
        let [a, b, remote, stranger] = [A, B, REMOTE, STRANGER].map(|party| party.on(family));
        assert_eq!(node.from_pod(A, &tcp(a, b, 80).syn()), redirected(Open));
        assert_eq!(node.from_pod(A, &udp(a, remote, 53).frame()), redirected(Open));
        assert_eq!(node.from_pod(A, &sctp(a, remote, 53).frame()), redirected(Open));
        assert_eq!(node.from_pod(A, &echo_request(a, b, 7).frame()), redirected(Open));
        assert_eq!(node.from_net(&tcp(remote, b, 80).syn()), redirected(Open));
        assert_eq!(node.forwarded(B, &tcp(stranger, b, 80).syn()), onward(Open));
    }
    assert_eq!(node.counted("policy_lookups"), 0);
}

#[test]
fn an_isolated_pod_without_rules_reaches_nobody_and_nobody_reaches_it() {
    let mut node = Node::new();
    node.isolate(A, Egress, WEB);
    node.isolate(B, Ingress, WEB);
    for family in FAMILIES {
        let [a, b, remote] = [A, B, REMOTE].map(|party| party.on(family));
        for frame in [tcp(a, b, 80).syn(), udp(a, remote, 53).frame(), echo_request(a, remote, 7).frame()] {
            assert_eq!(node.from_pod(A, &frame), dropped(PolicyDenied));
            assert_eq!(node.last_event().direction, Egress as u8);
        }
        assert_eq!(node.from_net(&tcp(remote, b, 80).syn()), dropped(PolicyDenied));
        let event = node.last_event();
        assert_eq!((event.direction, event.judged), (Ingress as u8, FlowEvent::JUDGED_INGRESS));
        assert_eq!((event.ingress_rule, event.ingress_rules), (RuleId::NONE, WEB));
        assert_eq!(node.forwarded(B, &tcp(remote, b, 80).syn()), dropped(PolicyDenied));
        // The other direction of each is open.
        assert_eq!(node.from_net(&tcp(remote, a, 80).syn()), redirected(Open));
        assert_eq!(node.from_pod(B, &tcp(b, remote, 80).syn()), redirected(Open));
    }
}

#[test]
fn a_verdict_names_the_rule_of_each_direction() {
    let mut node = Node::new();
    let (out, into) = (RuleSetId::new(0x21), RuleSetId::new(0x22));
    node.apply(allow(out, CLIENTS, TCP, 80..=80, RULE));
    node.apply(allow(into, NEIGHBOURS, TCP, 80..=80, OTHER_RULE));
    node.apply(peer(B, CLIENTS).into_iter().chain(peer(A, NEIGHBOURS)));
    node.isolate(A, Egress, out);
    node.isolate(B, Ingress, into);
    for family in FAMILIES {
        let flow = tcp(A.on(family), B.on(family), 80);
        assert_eq!(node.from_pod(A, &flow.syn()), redirected(Rule));
        let event = node.last_event();
        assert_eq!((event.source.to_ip(), event.destination.to_ip()), (flow.source, flow.destination));
        assert_eq!((event.source_port, event.destination_port), (40000.into(), 80.into()));
        assert_eq!((event.egress_rules, event.egress_rule), (out, RULE));
        assert_eq!((event.ingress_rules, event.ingress_rule), (into, OTHER_RULE));
        assert_eq!(event.judged, FlowEvent::JUDGED_EGRESS | FlowEvent::JUDGED_INGRESS);
        assert_eq!((event.protocol, event.reason, event.ifindex), (TCP, Rule as u8, node.ifindex_a));
    }
    node.isolate(A, Egress, WEB);
    assert_eq!(node.from_pod(A, &tcp(A.v4.into(), B.v4.into(), 80).syn()), dropped(PolicyDenied));
    let event = node.last_event();
    assert_eq!((event.direction, event.judged), (Egress as u8, FlowEvent::JUDGED_EGRESS));
    assert_eq!((event.egress_rule, event.egress_rules), (RuleId::NONE, WEB));
}

#[test]
fn a_range_of_ports_ends_where_it_says() {
    let mut node = Node::new();
    node.apply(allow(WEB, ClassId::ANY, TCP, 1000..=2047, RULE));
    node.apply(allow(WEB, ClassId::ANY, UDP, 0..=0, RULE));
    node.apply(allow(WEB, ClassId::ANY, UDP, 65535..=65535, RULE));
    node.isolate(B, Ingress, WEB);
    for family in FAMILIES {
        let (remote, b) = (REMOTE.on(family), B.on(family));
        for (port, allowed) in [(999, false), (1000, true), (1024, true), (2047, true), (2048, false)] {
            let expected = if allowed { redirected(Rule) } else { dropped(PolicyDenied) };
            assert_eq!(node.from_net(&tcp(remote, b, port).syn()), expected, "TCP {port}");
        }
        for (port, allowed) in [(0, true), (1, false), (65534, false), (65535, true)] {
            let expected = if allowed { redirected(Rule) } else { dropped(PolicyDenied) };
            assert_eq!(node.from_net(&udp(remote, b, port).frame()), expected, "UDP {port}");
        }
    }
}

#[test]
fn the_longest_run_of_ports_decides() {
    let mut node = Node::new();
    node.apply(allow(WEB, ClassId::ANY, TCP, ANY_PORT, RULE));
    node.apply(deny(WEB, ClassId::ANY, TCP, 22..=22, OTHER_RULE));
    node.isolate(B, Ingress, WEB);
    let (remote, b) = (REMOTE.v4.into(), B.v4.into());
    assert_eq!(node.from_net(&tcp(remote, b, 23).syn()), redirected(Rule));
    assert_eq!(node.from_net(&tcp(remote, b, 22).syn()), dropped(PolicyDenied));
    assert_eq!(node.last_event().ingress_rule, OTHER_RULE);
}

#[test]
fn each_protocol_has_rows_of_its_own_and_sctp_is_never_read_as_tcp() {
    for (allowed, others) in [(TCP, [UDP, SCTP]), (UDP, [TCP, SCTP]), (SCTP, [TCP, UDP])] {
        let mut node = Node::new();
        node.apply(allow(WEB, ClassId::ANY, allowed, ANY_PORT, RULE));
        node.isolate(B, Ingress, WEB);
        for family in FAMILIES {
            let mut flow = tcp(REMOTE.on(family), B.on(family), 80);
            flow.protocol = allowed;
            assert_eq!(node.from_net(&flow.frame()), redirected(Rule), "{allowed}");
            for other in others {
                flow.protocol = other;
                assert_eq!(
                    node.from_net(&flow.frame()),
                    dropped(PolicyDenied),
                    "{other} by rows for {allowed}"
                );
            }
            let ping = echo_request(REMOTE.on(family), B.on(family), 80).frame();
            assert_eq!(node.from_net(&ping), dropped(PolicyDenied));
        }
    }
}

#[test]
fn what_has_no_ports_follows_rules_for_all_ports() {
    let mut node = Node::new();
    node.apply(allow(WEB, CLIENTS, PORTLESS, ANY_PORT, RULE));
    node.apply(peer(REMOTE, CLIENTS));
    node.isolate(B, Ingress, WEB);
    for family in FAMILIES {
        let (remote, b) = (REMOTE.on(family), B.on(family));
        assert_eq!(node.from_net(&echo_request(remote, b, 1).frame()), redirected(Rule));
        let mut gre = tcp(remote, b, 0);
        gre.protocol = 47;
        assert_eq!(node.from_net(&gre.frame()), redirected(Rule));
        assert_eq!(node.from_net(&tcp(remote, b, 0).syn()), dropped(PolicyDenied));
        assert_eq!(node.from_net(&echo_request(STRANGER.on(family), b, 1).frame()), dropped(PolicyDenied));
    }
}

#[test]
fn a_peer_is_known_by_its_own_row_then_by_its_innermost_block_then_not_at_all() {
    let mut node = Node::new();
    let ports = [(CLIENTS, 1), (NEIGHBOURS, 2), (ClassId::new(0xc3), 3), (ClassId::NONE, 4)];
    for (class, port) in ports {
        node.apply(allow(WEB, class, TCP, port..=port, RuleId::new(u64::from(port))));
    }
    node.apply([
        block("10.0.0.0/8", NEIGHBOURS),
        block("10.244.1.0/24", ports[2].0),
        block("fd00::/8", NEIGHBOURS),
        block("fd00:244:0:1::/64", ports[2].0),
    ]);
    node.apply(peer(REMOTE, CLIENTS));
    node.isolate(B, Ingress, WEB);
    let mut check = |source: &str, expected: u16| {
        let source: std::net::IpAddr = source.parse().unwrap();
        let b = if source.is_ipv4() { B.v4.into() } else { B.v6.into() };
        for port in 1..=4 {
            let verdict = if port == expected { redirected(Rule) } else { dropped(PolicyDenied) };
            assert_eq!(node.from_net(&tcp(source, b, port).syn()), verdict, "{source} to {port}");
        }
    };
    for (source, expected) in [("10.244.1.9", 1), ("10.1.1.1", 2), ("10.244.1.8", 3), ("11.0.0.1", 4)] {
        check(source, expected);
    }
    for (source, expected) in [("fd00:244:0:1::9", 1), ("fd99::1", 2), ("fd00:244:0:1::8", 3), ("::1", 4)] {
        check(source, expected);
    }
}

#[test]
fn a_rule_for_everyone_holds_where_the_class_has_no_row_and_only_there() {
    let mut node = Node::new();
    node.apply(allow(WEB, ClassId::ANY, TCP, 80..=90, RULE));
    node.apply(deny(WEB, CLIENTS, TCP, 80..=80, OTHER_RULE));
    node.apply(peer(REMOTE, CLIENTS));
    node.isolate(B, Ingress, WEB);
    for family in FAMILIES {
        let (remote, stranger, b) = (REMOTE.on(family), STRANGER.on(family), B.on(family));
        assert_eq!(node.from_net(&tcp(remote, b, 80).syn()), dropped(PolicyDenied));
        assert_eq!(node.from_net(&tcp(remote, b, 81).syn()), redirected(Rule));
        assert_eq!(node.from_net(&tcp(stranger, b, 80).syn()), redirected(Rule));
        assert_eq!(node.from_net(&tcp(stranger, b, 91).syn()), dropped(PolicyDenied));
    }
}

#[test]
fn a_pod_always_reaches_itself() {
    let mut node = Node::new();
    node.isolate(A, Egress, WEB);
    node.isolate(A, Ingress, WEB);
    for family in FAMILIES {
        let a = A.on(family);
        let flow = tcp(a, a, 80);
        assert_eq!(node.from_pod(A, &flow.syn()), redirected(Itself));
        assert_eq!(node.from_pod(A, &flow.back().syn_ack()), redirected(Established));
        assert_eq!(node.from_pod(A, &echo_request(a, a, 80).frame()), redirected(Itself));
        // Nobody else is the pod, whatever address it claims.
        assert_eq!(node.from_pod(B, &tcp(a, a, 81).syn()), dropped(Spoofed));
        assert_eq!(node.from_net(&tcp(a, a, 81).syn()), dropped(Spoofed));
    }
}

#[test]
fn the_node_itself_reaches_its_pods_and_a_stranger_behind_its_address_does_not() {
    let mut node = Node::new();
    node.isolate(B, Ingress, WEB);
    for family in FAMILIES {
        let (own, other, b) = (NODE.on(family), OTHER_NODE.on(family), B.on(family));
        let probe = tcp(own, b, 8080);
        assert_eq!(node.from_node(B, &probe.syn()), onward(NodeItself));
        assert_eq!(node.last_event().reason, NodeItself as u8);
        assert_eq!(node.from_pod(B, &probe.back().syn_ack()), onward(Established));
        assert_eq!(node.from_node(B, &probe.ack()), onward(Established));
        // Whichever of its addresses the node uses.
        assert_eq!(node.from_node(B, &udp(STRANGER.on(family), b, 53).frame()), onward(NodeItself));
        // A packet that came in by a device was not born here.
        assert_eq!(node.forwarded(B, &tcp(own, b, 9000).syn()), dropped(PolicyDenied));
        assert_eq!(node.from_net(&tcp(other, b, 8080).syn()), dropped(PolicyDenied));
    }
}

#[test]
fn what_the_stack_sends_to_an_address_that_is_not_the_pods_passes_only_if_the_node_made_it() {
    let mut node = Node::new();
    let report = udp("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap(), 5353).frame();
    assert_eq!(node.from_node(B, &report), onward(NodeItself));
    assert_eq!(node.forwarded(B, &report), dropped(UnknownEndpoint));
    assert_eq!(node.forwarded(B, &tcp(REMOTE.v4.into(), A.v4.into(), 80).syn()), dropped(UnknownEndpoint));
}

#[test]
fn a_source_that_is_not_the_pods_is_dropped_at_its_veth() {
    let mut node = Node::new();
    for family in FAMILIES {
        let [a, b, remote, stranger] = [A, B, REMOTE, STRANGER].map(|party| party.on(family));
        for liar in [b, stranger, NODE.on(family)] {
            assert_eq!(node.from_pod(A, &tcp(liar, remote, 80).syn()), dropped(Spoofed));
            assert_eq!(node.last_event().reason, Spoofed as u8);
            assert_eq!(node.from_pod(A, &echo_request(liar, remote, 80).frame()), dropped(Spoofed));
        }
        // A live connection of somebody else opens nothing.
        let flow = tcp(b, remote, 80);
        assert_eq!(node.from_pod(B, &flow.syn()), redirected(Open));
        assert_eq!(node.from_net(&flow.back().syn_ack()), redirected(Established));
        assert_eq!(node.from_pod(A, &flow.data()), dropped(Spoofed));
        // Nor does the network speak for a pod of this node.
        assert_eq!(node.from_net(&tcp(a, b, 80).syn()), dropped(Spoofed));
        assert_eq!(node.from_net(&flow.data()), onward(Foreign));
    }
}

#[test]
fn an_interface_that_is_no_endpoint_sends_nothing() {
    let mut node = Node::new();
    node.apply(A.addrs().map(MapOp::RemoveEndpoint));
    for family in FAMILIES {
        assert_eq!(node.from_pod(A, &tcp(A.on(family), B.on(family), 80).syn()), dropped(Spoofed));
        assert_eq!(node.forwarded(A, &tcp(B.on(family), A.on(family), 80).syn()), dropped(UnknownEndpoint));
    }
}

#[test]
fn what_no_route_leads_to_is_left_to_the_stack() {
    let mut node = Node::new();
    for family in FAMILIES {
        let a = A.on(family);
        assert_eq!(node.from_pod(A, &tcp(a, STRANGER.on(family), 80).syn()), onward(Open));
        assert_eq!(node.from_pod(A, &tcp(a, NODE.on(family), 80).syn()), onward(Open));
        assert_eq!(node.from_pod(A, &tcp(a, OTHER_NODE.on(family), 80).syn()), redirected(Open));
    }
}

#[test]
fn traffic_that_concerns_no_endpoint_is_none_of_our_business() {
    let mut node = Node::new();
    node.isolate(A, Ingress, WEB);
    for family in FAMILIES {
        let frame = tcp(STRANGER.on(family), REMOTE.on(family), 80).syn();
        assert_eq!(node.from_net(&frame), onward(Foreign));
        assert_eq!(node.from_net(&tcp(STRANGER.on(family), NODE.on(family), 22).syn()), onward(Foreign));
    }
}

#[test]
fn a_virtual_address_that_nobody_translated_is_dropped_with_its_own_reason() {
    let mut node = Node::new();
    for family in FAMILIES {
        let service =
            ServiceKey { addr: STRANGER.on(family).into(), port: 80.into(), protocol: TCP, zero: 0 };
        let row = ServiceRow { backends: common::id::BackendSetId::new(1), count: 0, affinity_s: 0 };
        node.apply([MapOp::PutService(service, row)]);
        let (a, address) = (A.on(family), STRANGER.on(family));
        assert_eq!(node.from_pod(A, &tcp(a, address, 80).syn()), dropped(UntranslatedService));
        assert_eq!(node.from_pod(A, &tcp(a, address, 81).syn()), onward(Open));
        assert_eq!(node.from_pod(A, &udp(a, address, 80).frame()), onward(Open));
    }
}
