//! Connections that nobody answers, and tables that are full of them.

use aya::maps::{HashMap, Map, MapData};
use common::conntrack::{CtEntry, CtKey};
use common::id::RuleSetId;
use common::maps;
use common::verdict::Direction::Ingress;
use common::verdict::DropReason::{CtFull, PolicyDenied};
use common::verdict::PassReason::{Established, Open};
use tests::frame::{Flow, tcp};
use tests::node::{A, B, Node, dropped, redirected};

const CLOSED: RuleSetId = RuleSetId::new(0x10);

/// As many connections without a reply as `CT` has room for, and then some.
const FLOOD: std::ops::RangeInclusive<u16> = 1001..=3000;

/// `CT` has room for 1,024 connections, 64 of them without a reply.
fn small() -> Node {
    Node::with_capacities(&[(maps::CT, 1024), (maps::CT_HALF, 64)])
}

fn between(port: u16) -> Flow {
    tcp(A.v4.into(), B.v4.into(), port)
}

fn connect(node: &mut Node, flow: Flow) {
    assert_eq!(node.from_pod(A, &flow.syn()), redirected(Open));
    assert_eq!(node.from_pod(B, &flow.back().syn_ack()), redirected(Established));
}

fn flood(node: &mut Node) {
    for port in FLOOD {
        assert_eq!(node.from_pod(A, &between(port).syn()), redirected(Open));
    }
}

/// What only an entry lets through from here on.
fn isolate(node: &mut Node) {
    node.isolate(A, Ingress, CLOSED);
    node.isolate(B, Ingress, CLOSED);
}

/// Rows of a table of connections.
fn rows(node: &Node, table: &str) -> usize {
    let data = MapData::from_pin(node.map_pin(table)).unwrap();
    let map = if table == maps::CT_HALF { Map::LruHashMap(data) } else { Map::HashMap(data) };
    HashMap::<_, CtKey, CtEntry>::try_from(map).unwrap().keys().count()
}

#[test]
fn a_flood_of_syns_evicts_no_established_connection() {
    let mut node = small();
    let flow = between(80);
    connect(&mut node, flow);
    flood(&mut node);
    isolate(&mut node);
    assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
    assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
    // It took its part of the table and no more.
    assert_eq!(rows(&node, maps::CT), 64 + 1);
    assert!((1..=64).contains(&rows(&node, maps::CT_HALF)));
}

#[test]
fn a_connection_begun_amid_a_flood_is_made_all_the_same() {
    let mut node = small();
    flood(&mut node);
    let flow = between(80);
    assert_eq!(node.from_pod(A, &flow.syn()), redirected(Open));
    isolate(&mut node);
    assert_eq!(node.from_pod(B, &flow.back().syn_ack()), redirected(Established));
    for _ in 0..3 {
        assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
        assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
    }
    // It is no part of the flood any more: the next wave does not take it along.
    for port in FLOOD {
        assert_eq!(node.from_pod(A, &between(port).syn()), dropped(PolicyDenied));
    }
    assert_eq!(rows(&node, maps::CT), 64 + 1);
    assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
}

#[test]
fn connections_that_are_answered_refused_or_over_are_no_flood() {
    let mut node = small();
    for port in 1..=300 {
        // Answered, and closed from both ends.
        let flow = between(port);
        connect(&mut node, flow);
        assert_eq!(node.from_pod(A, &flow.fin()), redirected(Established));
        assert_eq!(node.from_pod(B, &flow.back().fin()), redirected(Established));
        assert_eq!(node.from_pod(A, &flow.ack()), redirected(Established));
        // Refused.
        let flow = between(1000 + port);
        assert_eq!(node.from_pod(A, &flow.syn()), redirected(Open));
        assert_eq!(node.from_pod(B, &flow.back().rst()), redirected(Established));
        // Given up by who began it.
        let flow = between(2000 + port);
        assert_eq!(node.from_pod(A, &flow.syn()), redirected(Open));
        assert_eq!(node.from_pod(A, &flow.rst()), redirected(Established));
        // Repeated, answered, begun anew, answered.
        let flow = between(3000 + port);
        for _ in 0..2 {
            assert_eq!(node.from_pod(A, &flow.syn()), redirected(Open));
            connect(&mut node, flow);
        }
        // Repeated FINs pass, though nothing is left in the table proper.
        assert_eq!(node.from_pod(B, &between(port).back().fin()), redirected(Established));
    }
    assert_eq!(rows(&node, maps::CT), 300);
    assert_eq!(rows(&node, maps::CT_HALF), 0);
}

#[test]
fn a_denied_connection_gives_its_room_back() {
    let mut node = small();
    for port in 1..=200 {
        let flow = between(port);
        assert_eq!(node.from_pod(A, &flow.syn()), redirected(Open));
        node.isolate(B, Ingress, CLOSED);
        node.advance_epoch();
        assert_eq!(node.from_pod(A, &flow.ack()), dropped(PolicyDenied));
        node.isolate(B, Ingress, RuleSetId::OPEN);
        node.advance_epoch();
    }
    assert_eq!((rows(&node, maps::CT), rows(&node, maps::CT_HALF)), (0, 0));
}

#[test]
fn in_a_full_table_new_connections_are_dropped_and_old_ones_live() {
    let mut node = Node::with_capacities(&[(maps::CT, 64)]);
    let flows: Vec<Flow> = (1..=64).map(between).collect();
    for flow in &flows {
        connect(&mut node, *flow);
    }
    let late = between(80);
    assert_eq!(node.from_pod(A, &late.syn()), dropped(CtFull));
    assert_eq!(node.last_event().reason, CtFull as u8);
    for flow in &flows {
        assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
        assert_eq!(node.from_pod(B, &flow.back().data()), redirected(Established));
    }
    // One ends: there is room, and the retransmission passes.
    assert_eq!(node.from_pod(A, &flows[0].rst()), redirected(Established));
    connect(&mut node, late);
}

#[test]
fn a_connection_out_of_a_flood_finds_a_full_table_at_its_first_reply() {
    // Room for four, none of it for connections without a reply.
    let mut node = Node::with_capacities(&[(maps::CT, 4)]);
    let flows: Vec<Flow> = (1..=5).map(between).collect();
    for flow in &flows[..4] {
        connect(&mut node, *flow);
    }
    assert_eq!(node.from_pod(A, &flows[4].syn()), redirected(Open));
    assert_eq!(node.from_pod(B, &flows[4].back().syn_ack()), dropped(CtFull));
    assert_eq!(node.last_event().reason, CtFull as u8);
    for flow in &flows[..4] {
        assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
    }
    assert_eq!(node.from_pod(A, &flows[0].rst()), redirected(Established));
    assert_eq!(node.from_pod(B, &flows[4].back().syn_ack()), redirected(Established));
}
