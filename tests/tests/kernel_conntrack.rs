//! Connections in the kernel: what opens, keeps, closes and ends them.

use std::net::IpAddr;

use aya::maps::{Array, Map, MapData};
use common::conntrack::{ClosedRow, CtKey};
use common::endpoint::EndpointRow;
use common::id::{ClassId, RuleId, RuleSetId};
use common::maps;
use common::net::Addr;
use common::net::protocol::{SCTP, TCP, UDP};
use common::verdict::Direction::{Egress, Ingress};
use common::verdict::DropReason::{PolicyDenied, Spoofed};
use common::verdict::PassReason::{Established, Node as NodeItself, Open, Rule};
use tests::frame::{Flow, echo_reply, echo_request, sctp, tcp, udp};
use tests::node::{A, B, FAMILIES, NODE, Node, REMOTE, STRANGER, dropped, onward, redirected};
use tests::rows::{ANY_PORT, PORTLESS, allow};

const CLOSED: RuleSetId = RuleSetId::new(0x10);
const WEB: RuleSetId = RuleSetId::new(0x11);
const RULE: RuleId = RuleId::new(0x1);

/// `B` lets everyone in to port 80 and 53, and to what has no ports; `A` lets nobody in.
fn web_and_client() -> Node {
    let mut node = Node::new();
    for (protocol, ports) in [(TCP, 80..=80), (UDP, 53..=53), (SCTP, 80..=80), (PORTLESS, ANY_PORT)] {
        node.apply(allow(WEB, ClassId::ANY, protocol, ports, RULE));
    }
    node.isolate(B, Ingress, WEB);
    node.isolate(A, Ingress, CLOSED);
    node
}

/// The handshake from pod to pod.
fn connect(node: &mut Node, flow: Flow) {
    assert_eq!(node.from_pod(A, &flow.syn()), redirected(Rule));
    assert_eq!(node.from_pod(B, &flow.back().syn_ack()), redirected(Established));
    assert_eq!(node.from_pod(A, &flow.ack()), redirected(Established));
}

#[test]
fn a_reply_passes_after_the_first_packet_and_not_before() {
    let mut node = web_and_client();
    for family in FAMILIES {
        let (a, b) = (A.on(family), B.on(family));
        for flow in [tcp(a, b, 80), udp(a, b, 53), sctp(a, b, 80)] {
            let (first, reply) = match flow.protocol {
                TCP => (flow.syn(), flow.back().syn_ack()),
                _ => (flow.frame(), flow.back().frame()),
            };
            assert_eq!(node.from_pod(B, &reply), dropped(PolicyDenied), "{flow:?}");
            assert_eq!(node.from_pod(A, &first), redirected(Rule), "{flow:?}");
            assert_eq!(node.from_pod(B, &reply), redirected(Established), "{flow:?}");
            // Another port is another conversation.
            let other = Flow { destination_port: 40001, ..flow.back() };
            assert_eq!(node.from_pod(B, &other.packet().frame()), dropped(PolicyDenied), "{flow:?}");
        }
        assert_eq!(node.from_pod(B, &echo_reply(b, a, 9).frame()), dropped(PolicyDenied));
        assert_eq!(node.from_pod(A, &echo_request(a, b, 9).frame()), redirected(Rule));
        assert_eq!(node.from_pod(B, &echo_reply(b, a, 9).frame()), redirected(Established));
        assert_eq!(node.from_pod(B, &echo_reply(b, a, 10).frame()), dropped(PolicyDenied));
    }
}

#[test]
fn an_echo_request_is_no_reply_to_one() {
    let mut node = web_and_client();
    for family in FAMILIES {
        let (a, b) = (A.on(family), B.on(family));
        assert_eq!(node.from_pod(A, &echo_request(a, b, 9).frame()), redirected(Rule));
        assert_eq!(node.from_pod(B, &echo_request(b, a, 9).frame()), dropped(PolicyDenied));
        assert_eq!(node.from_pod(B, &echo_reply(b, a, 9).frame()), redirected(Established));
    }
}

#[test]
fn replies_cross_the_network_both_ways() {
    let mut node = Node::new();
    node.isolate(A, Ingress, CLOSED);
    for family in FAMILIES {
        let flow = tcp(A.on(family), REMOTE.on(family), 80);
        assert_eq!(node.from_net(&flow.back().syn_ack()), dropped(PolicyDenied));
        assert_eq!(node.from_pod(A, &flow.syn()), redirected(Open));
        assert_eq!(node.from_net(&flow.back().syn_ack()), redirected(Established));
        assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
    }
}

#[test]
fn a_syn_starts_anew_so_a_lingering_connection_opens_nothing_the_other_way() {
    let mut node = web_and_client();
    for family in FAMILIES {
        let flow = tcp(A.on(family), B.on(family), 80);
        connect(&mut node, flow);
        assert_eq!(node.from_pod(B, &flow.back().syn()), dropped(PolicyDenied));
        // The attempt has harmed nobody.
        assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
        assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
        // From the same end it is judged, and begins once more.
        assert_eq!(node.from_pod(A, &flow.syn()), redirected(Rule));
    }
}

#[test]
fn a_packet_from_the_middle_of_a_connection_is_judged_not_dropped() {
    let mut node = web_and_client();
    for family in FAMILIES {
        let flow = tcp(A.on(family), B.on(family), 80);
        assert_eq!(node.from_pod(A, &flow.data()), redirected(Rule));
        assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
        let denied = tcp(A.on(family), B.on(family), 81);
        assert_eq!(node.from_pod(A, &denied.data()), dropped(PolicyDenied));
    }
}

#[test]
fn fins_of_both_ends_close_a_connection_and_its_stragglers_still_pass() {
    let mut node = web_and_client();
    for family in FAMILIES {
        let flow = tcp(A.on(family), B.on(family), 80);
        connect(&mut node, flow);
        assert_eq!(connections(&mut node), 1);
        assert_eq!(node.from_pod(A, &flow.fin()), redirected(Established));
        assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
        assert_eq!(node.from_pod(B, &flow.back().fin()), redirected(Established));
        assert_eq!(connections(&mut node), 1);
        assert_eq!(node.from_pod(A, &flow.ack()), redirected(Established));
        assert_eq!(connections(&mut node), 0);
        assert_eq!(node.from_pod(B, &flow.back().fin()), redirected(Established));
        assert_eq!(node.from_pod(B, &flow.back().syn()), dropped(PolicyDenied));
    }
}

/// A small table: whoever hashes alike finds the row, and may have seen to it that the check word fits.
#[test]
fn the_trace_of_a_closed_connection_is_nobody_elses() {
    let mut node = web_and_client();
    let flow = tcp(A.v4.into(), B.v4.into(), 80);
    connect(&mut node, flow);
    assert_eq!(node.from_pod(B, &flow.back().rst()), redirected(Established));
    let map = Map::Array(MapData::from_pin(node.map_pin(maps::CT_CLOSED)).unwrap());
    let mut closed = Array::<_, ClosedRow>::try_from(map).unwrap();
    let rows: Vec<ClosedRow> = closed.iter().map(Result::unwrap).collect();
    let row = rows.into_iter().find(|row| row.check != 0).unwrap();
    let mut other = CtKey::EMPTY;
    other.fill(
        &Addr::from(IpAddr::from(A.v4)),
        &Addr::from(IpAddr::from(B.v4)),
        40000.into(),
        81.into(),
        TCP,
    );
    let slot = other.hash() & (maps::CT_CLOSED_CAPACITY - 1);
    closed.set(slot, ClosedRow { check: ClosedRow::check(&other, &row.entry), ..row }, 0).unwrap();
    let denied = tcp(A.v4.into(), B.v4.into(), 81);
    assert_eq!(node.from_pod(A, &denied.data()), dropped(PolicyDenied));
    // The very connection still finds its own.
    closed
        .set(slot, ClosedRow { key: other, entry: row.entry, check: ClosedRow::check(&other, &row.entry) }, 0)
        .unwrap();
    assert_eq!(node.from_pod(A, &denied.data()), redirected(Established));
}

#[test]
fn a_reset_closes_a_connection() {
    let mut node = web_and_client();
    for family in FAMILIES {
        let flow = tcp(A.on(family), B.on(family), 80);
        connect(&mut node, flow);
        assert_eq!(node.from_pod(B, &flow.back().rst()), redirected(Established));
        assert_eq!(connections(&mut node), 0);
        // A refused one has never been in the table.
        let refused = flow.from_port(40001);
        assert_eq!(node.from_pod(A, &refused.syn()), redirected(Rule));
        assert_eq!(node.from_pod(B, &refused.back().rst()), redirected(Established));
        assert_eq!(connections(&mut node), 0);
    }
}

#[test]
fn an_established_connection_needs_no_policy_lookup() {
    let mut node = web_and_client();
    for family in FAMILIES {
        let flow = tcp(A.on(family), B.on(family), 80);
        connect(&mut node, flow);
        let (lookups, events) = (node.counted("policy_lookups"), node.counted("flow_events"));
        for _ in 0..10 {
            assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
            assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
        }
        assert_eq!(node.counted("policy_lookups"), lookups);
        assert_eq!(node.counted("flow_events"), events);
    }
}

#[test]
fn a_new_epoch_judges_a_connection_once_more_and_once_only() {
    let mut node = web_and_client();
    let flow = tcp(A.v4.into(), B.v4.into(), 80);
    connect(&mut node, flow);
    node.advance_epoch();
    let lookups = node.counted("policy_lookups");
    // By the direction in which it was begun, whichever way the next packet goes.
    assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
    assert_eq!(node.counted("policy_lookups"), lookups + 1);
    assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
    assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
    assert_eq!(node.counted("policy_lookups"), lookups + 1);
}

#[test]
fn a_connection_that_is_no_longer_allowed_is_cut_at_its_next_packet() {
    for direction in [Ingress, Egress] {
        let mut node = web_and_client();
        for family in FAMILIES {
            let flow = tcp(A.on(family), B.on(family), 80);
            connect(&mut node, flow);
        }
        let pod = if direction == Ingress { B } else { A };
        node.isolate(pod, direction, CLOSED);
        // Until the epoch goes on the tables may be half written.
        assert_eq!(node.from_pod(A, &tcp(A.v4.into(), B.v4.into(), 80).data()), redirected(Established));
        node.advance_epoch();
        for family in FAMILIES {
            let flow = tcp(A.on(family), B.on(family), 80);
            assert_eq!(node.from_pod(B, &flow.back().data()), dropped(PolicyDenied));
            assert_eq!(node.last_event().direction, direction as u8);
            assert_eq!(node.from_pod(A, &flow.data()), dropped(PolicyDenied));
            assert_eq!(node.from_pod(B, &flow.back().data()), dropped(PolicyDenied));
        }
        assert_eq!(connections(&mut node), 0);
    }
}

#[test]
fn policies_that_say_so_keep_the_connections_there_are() {
    for (pod, direction, flag) in
        [(B, Ingress, EndpointRow::KEEP_INGRESS), (A, Egress, EndpointRow::KEEP_EGRESS)]
    {
        let mut node = web_and_client();
        let flow = tcp(A.v4.into(), B.v4.into(), 80);
        connect(&mut node, flow);
        node.isolate(pod, direction, CLOSED);
        node.put_endpoint(pod, |row| row.flags = flag);
        node.advance_epoch();
        assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
        assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
        assert_eq!(node.from_pod(A, &flow.from_port(40001).syn()), dropped(PolicyDenied));
        // The flag of the other direction keeps nothing.
        let other = EndpointRow::KEEP_INGRESS + EndpointRow::KEEP_EGRESS - flag;
        node.put_endpoint(pod, |row| row.flags = other);
        node.advance_epoch();
        assert_eq!(node.from_pod(A, &flow.data()), dropped(PolicyDenied));
    }
}

#[test]
fn replies_to_a_connection_begun_before_the_policy_keep_flowing() {
    let mut node = Node::new();
    let flow = udp(A.v4.into(), REMOTE.v4.into(), 53);
    assert_eq!(node.from_pod(A, &flow.frame()), redirected(Open));
    node.isolate(A, Ingress, CLOSED);
    node.advance_epoch();
    assert_eq!(node.from_net(&flow.back().frame()), redirected(Established));
    assert_eq!(node.from_pod(A, &flow.frame()), redirected(Established));
}

#[test]
fn the_nodes_own_connections_outlive_a_new_epoch() {
    let mut node = web_and_client();
    let probe = tcp(NODE.v4.into(), A.v4.into(), 8080);
    assert_eq!(node.from_node(A, &probe.syn()), onward(NodeItself));
    node.advance_epoch();
    assert_eq!(node.from_pod(A, &probe.back().syn_ack()), onward(Established));
    assert_eq!(node.from_node(A, &probe.data()), onward(Established));
}

#[test]
fn replies_leave_as_requests_came() {
    let mut node = web_and_client();
    // Through the stack, which has translated an address and must translate it back.
    let flow = tcp(STRANGER.v4.into(), B.v4.into(), 80);
    assert_eq!(node.forwarded(B, &flow.syn()), onward(Rule));
    assert_eq!(node.from_pod(B, &flow.back().syn_ack()), onward(Established));
    let flow = tcp(A.v4.into(), B.v4.into(), 80).from_port(40009);
    assert_eq!(node.forwarded(B, &flow.syn()), onward(Rule));
    assert_eq!(node.from_pod(B, &flow.back().syn_ack()), onward(Established));
}

#[test]
fn a_connection_follows_its_address_to_a_new_interface() {
    let mut node = Node::new();
    let flow = udp(A.v4.into(), REMOTE.v4.into(), 53);
    assert_eq!(node.from_pod(A, &flow.frame()), redirected(Open));
    assert_eq!(node.from_net(&flow.back().frame()), redirected(Established));
    // The pod is gone, and another one has its address.
    let ifindex = node.ifindex_b;
    node.put_endpoint(A, |row| row.ifindex = ifindex);
    node.advance_epoch();
    assert_eq!(node.from_pod(A, &flow.frame()), dropped(Spoofed));
    assert_eq!(node.from_pod(B, &flow.frame()), redirected(Established));
}

/// Rows of the table of established connections.
fn connections(node: &mut Node) -> u64 {
    let fill = node.dataplane.fill().unwrap();
    fill.iter().find(|map| map.name == maps::CT).expect("conntrack is among the maps").entries
}
