//! What somebody else changes in maps and programs is found and put right.

use std::fs;
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::tc::{TcAttachType, qdisc_detach_program};
use common::config::Config;
use common::endpoint::EndpointRow;
use common::id::{ClassId, RuleId, RuleSetId};
use common::maps as names;
use common::net::{Addr, Be16};
use common::rules::{RuleKey, RuleRow};
use dataplane::{Hook, Options};
use policy::tables::{Cidr, MapOp, RulePrefix};
use tests::node::{A, B, Node};

const SOON: Duration = Duration::from_millis(1);
/// Beyond what is read in one slice.
const MANY: u32 = 3000;

fn open(node: &Node, map: &str) -> MapData {
    MapData::from_pin(node.map_pin(map)).unwrap()
}

fn endpoints(node: &Node) -> HashMap<MapData, Addr, EndpointRow> {
    Map::HashMap(open(node, names::ENDPOINTS)).try_into().unwrap()
}

fn peers(node: &Node) -> HashMap<MapData, Addr, ClassId> {
    Map::HashMap(open(node, names::PEERS)).try_into().unwrap()
}

fn cidrs(node: &Node) -> LpmTrie<MapData, Addr, ClassId> {
    Map::LpmTrie(open(node, names::CIDRS)).try_into().unwrap()
}

fn peer(number: u32) -> Addr {
    std::net::IpAddr::from((0x0a80_0000 + number).to_be_bytes()).into()
}

fn block(number: u32) -> Cidr {
    Cidr { addr: peer(number << 8), bits: 120 }
}

/// Enough audits for every map to be read, and what they found.
fn audits(node: &mut Node) -> Vec<MapOp> {
    let mut found = Vec::new();
    for _ in 0..200 {
        let (mends, restored) = node.dataplane.audit(SOON).unwrap();
        assert!(!restored);
        found.extend(mends);
    }
    found.sort_by_key(|op| format!("{op:?}"));
    found.dedup();
    found
}

#[test]
fn rows_edited_added_and_removed_by_hand_are_found_and_no_others() {
    let mut node = Node::new();
    let class = ClassId::new(7);
    node.apply((0..MANY).map(|number| MapOp::PutPeer(peer(number), class)));
    node.apply((0..MANY / 8).map(|number| MapOp::PutCidr(block(number), class)));
    assert_eq!(audits(&mut node), []);

    let tables = node.dataplane.tables().clone();
    let [a, _] = A.addrs();
    let right = tables.endpoints[&a];
    endpoints(&node).insert(a, EndpointRow { ingress: RuleSetId::OPEN, flags: 3, ..right }, 0).unwrap();
    peers(&node).remove(&peer(7)).unwrap();
    peers(&node).insert(peer(MANY), class, 0).unwrap();
    let trie_key = |cidr: Cidr| Key::new(cidr.bits, cidr.addr);
    cidrs(&node).remove(&trie_key(block(3))).unwrap();
    let mut expected = vec![
        MapOp::PutEndpoint(a, right),
        MapOp::PutPeer(peer(7), class),
        MapOp::RemovePeer(peer(MANY)),
        MapOp::PutCidr(block(3), class),
    ];
    expected.sort_by_key(|op| format!("{op:?}"));
    assert_eq!(audits(&mut node), expected);
    node.apply(expected);
    assert_eq!(audits(&mut node), []);
    assert_eq!(node.dataplane.read().unwrap(), tables);
}

#[test]
fn an_endpoint_s_row_is_looked_at_every_time() {
    let mut node = Node::new();
    node.apply((0..MANY).map(|number| MapOp::PutPeer(peer(number), ClassId::new(7))));
    for _ in 0..20 {
        let [_, b] = B.addrs();
        let right = node.dataplane.tables().endpoints[&b];
        endpoints(&node).remove(&b).unwrap();
        let (mends, _) = node.dataplane.audit(Duration::ZERO).unwrap();
        assert_eq!(mends, [MapOp::PutEndpoint(b, right)]);
        node.apply(mends);
    }
}

#[test]
fn a_row_that_is_missing_is_found_although_other_rows_come_and_go_all_the_time() {
    let mut node = Node::new();
    let class = ClassId::new(7);
    node.apply((0..MANY).map(|number| MapOp::PutPeer(peer(number), class)));
    peers(&node).remove(&peer(7)).unwrap();
    for round in 0..400 {
        node.apply([MapOp::PutPeer(peer(MANY + round), class)]);
        let (mends, _) = node.dataplane.audit(Duration::ZERO).unwrap();
        if mends == [MapOp::PutPeer(peer(7), class)] {
            return;
        }
        assert_eq!(mends, []);
    }
    panic!("never found");
}

#[test]
fn a_configuration_edited_by_hand_is_put_right_and_connections_are_judged_once_more() {
    let mut node = Node::new();
    node.advance_epoch();
    let before = node.dataplane.config().unwrap();
    let mut config: Array<MapData, Config> = Map::Array(open(&node, names::CONFIG)).try_into().unwrap();
    config.set(0, Config::default(), 0).unwrap();
    assert!(node.dataplane.audit(SOON).unwrap().1);
    let after = node.dataplane.config().unwrap();
    assert_eq!((after.generation, after.flags), (before.generation, before.flags));
    assert!(after.epoch > before.epoch);
    assert!(!node.dataplane.audit(SOON).unwrap().1);
}

#[test]
fn programs_taken_off_an_endpoint_or_a_device_are_put_back() {
    let mut node = Node::with(Options { hook: Hook::Tcx, ..Options::default() });
    let ifindex = node.ifindex_a;
    node.dataplane.attach_endpoint(ifindex).unwrap();
    node.dataplane.attach_underlay(node.underlay).unwrap();
    assert_eq!(node.dataplane.mend_programs(&[ifindex]).unwrap(), [""; 0]);
    // The last that keeps a link is its pin.
    for program in ["from_pod", "to_pod"] {
        fs::remove_file(node.link_pin(program, A)).unwrap();
    }
    let from_net = node.link_pin("from_net", A).with_file_name(format!("from_net-{}", node.underlay));
    fs::remove_file(from_net).unwrap();
    let mut mended = Vec::new();
    // The kernel takes a program off a moment after its last link has gone.
    for _ in 0..500 {
        mended.extend(node.dataplane.mend_programs(&[ifindex]).unwrap());
        if mended.len() == 3 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    mended.sort();
    assert_eq!(mended, ["program from_net of net", "program from_pod of a", "program to_pod of a"]);
    assert_eq!(node.dataplane.mend_programs(&[ifindex]).unwrap(), [""; 0]);
    assert!(node.dataplane.endpoint_attached(ifindex).unwrap());
}

#[test]
fn a_filter_taken_off_is_put_back_and_one_that_is_there_is_no_news() {
    let mut node = Node::with(Options { hook: Hook::Clsact, ..Options::default() });
    let ifindex = node.ifindex_a;
    node.dataplane.attach_endpoint(ifindex).unwrap();
    assert_eq!(node.dataplane.mend_filters(ifindex).unwrap(), [""; 0]);
    qdisc_detach_program("a", TcAttachType::Ingress, "from_pod").unwrap();
    assert_eq!(node.dataplane.mend_filters(ifindex).unwrap(), ["program from_pod of a"]);
    assert_eq!(node.dataplane.mend_filters(ifindex).unwrap(), [""; 0]);
    assert_eq!(node.dataplane.mend_filters(node.underlay).unwrap(), [""; 0], "nothing is to be there");
}

#[test]
fn twenty_thousand_rows_of_which_none_is_wrong_are_read_in_one_audit_that_has_the_time() {
    let mut node = Node::new();
    let class = ClassId::new(7);
    node.apply((0..10_000).map(|number| MapOp::PutPeer(peer(number), class)));
    let rule = |port: u16| {
        let key = RuleKey { rule_set: RuleSetId::new(1), class, protocol: 6, zero: 0, port: Be16::new(port) };
        let row = RuleRow { rule: RuleId::new(1), action: RuleRow::ALLOW };
        MapOp::PutRule(RulePrefix { key, bits: RuleKey::BITS }, row)
    };
    node.apply((0..10_000).map(rule));
    let began = Instant::now();
    let (mends, _) = node.dataplane.audit(Duration::from_secs(60)).unwrap();
    eprintln!("20,000 rows read and compared in {:?}", began.elapsed());
    assert_eq!(mends, []);
}
