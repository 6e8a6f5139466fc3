//! Connections expire when they are met; the agent sweeps them out, and the programs themselves where there is no agent.

use aya::maps::{HashMap, Map, MapData};
use common::conntrack::{CtEntry, CtKey};
use common::maps;
use common::verdict::DropReason::CtFull;
use common::verdict::PassReason::{Established, Open};
use tests::frame::{Flow, tcp};
use tests::node::{A, B, Node, dropped, redirected};

/// Four connections in a table for four.
fn full() -> (Node, Vec<Flow>) {
    let mut node = Node::with_capacities(&[(maps::CT, 4)]);
    let flows: Vec<Flow> = (0..4).map(|n| tcp(A.v4.into(), B.v4.into(), 80).from_port(40000 + n)).collect();
    for flow in &flows {
        assert_eq!(node.from_pod(A, &flow.syn()), redirected(Open));
        assert_eq!(node.from_pod(B, &flow.back().syn_ack()), redirected(Established));
    }
    (node, flows)
}

/// As if hours had passed.
fn let_expire(node: &Node) {
    let map = Map::HashMap(MapData::from_pin(node.map_pin(maps::CT)).unwrap());
    let mut connections = HashMap::<_, CtKey, CtEntry>::try_from(map).unwrap();
    let rows: Vec<_> = connections.iter().collect::<Result<_, _>>().unwrap();
    assert!(!rows.is_empty());
    for (key, entry) in rows {
        connections.insert(key, CtEntry { expires_ns: 1, ..entry }, 0).unwrap();
    }
}

#[test]
fn an_expired_connection_is_none() {
    let (mut node, flows) = full();
    let_expire(&node);
    // From the middle of a connection nobody knows: judged, and tracked from here on.
    assert_eq!(node.from_pod(A, &flows[0].data()), redirected(Open));
}

#[test]
fn without_an_agent_a_full_table_makes_room_of_what_has_expired() {
    let (mut node, _) = full();
    let late = tcp(A.v4.into(), B.v4.into(), 80).from_port(50000);
    assert_eq!(node.from_pod(A, &late.syn()), redirected(Open));
    assert_eq!(node.from_pod(B, &late.back().syn_ack()), dropped(CtFull));
    let_expire(&node);
    // At most once a second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(node.from_pod(B, &late.back().syn_ack()), redirected(Established));
    assert_eq!(node.counted("ct_expired"), 4);
}

#[test]
fn the_agents_sweep_forgets_what_has_expired_and_counts_what_lives() {
    let (mut node, _) = full();
    assert_eq!(node.dataplane.sweep().unwrap(), dataplane::SweepReport { live: 4, expired: 0 });
    let_expire(&node);
    assert_eq!(node.dataplane.sweep().unwrap(), dataplane::SweepReport { live: 0, expired: 4 });
    let fill = node.dataplane.fill().unwrap();
    assert!(fill.iter().any(|map| map.name == maps::CT && map.entries == 0 && map.capacity == 4));
}
