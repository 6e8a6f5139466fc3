//! The verifier takes every program; pins are made, adopted, refused; plans fit or are refused whole.

use std::fs;

use common::endpoint::EndpointRow;
use common::id::{BackendSetId, ClassId, RuleId, RuleSetId};
use common::maps;
use common::net::protocol::TCP;
use common::service::{BackendKey, BackendRow, ServiceKey, ServiceRow};
use common::verdict::Direction::Ingress;
use common::verdict::DropReason::PolicyDenied;
use common::verdict::PassReason::{Established, Rule};
use dataplane::{Capacities, Dataplane, Error, Options};
use policy::tables::{MapOp, Tables};
use tests::bpffs::Bpffs;
use tests::frame::tcp;
use tests::node::{A, B, Node, REMOTE, STRANGER, dropped, redirected};
use tests::rows::{allow, block, deny, peer};

const WEB: RuleSetId = RuleSetId::new(0x11);
const CLIENTS: ClassId = ClassId::new(0xc1);
const RULE: RuleId = RuleId::new(0x1);

fn options(bpffs: &Bpffs) -> Options {
    Options { pins: bpffs.path().join("weir"), ..Options::default() }
}

/// The error of an agent that must not start.
fn refusal(options: &Options) -> Error {
    match Dataplane::open(options) {
        Ok(_) => panic!("{} was taken", options.pins.display()),
        Err(error) => error,
    }
}

/// At least one row of each kind.
fn rows_of_every_map() -> Vec<MapOp> {
    let service = ServiceKey { addr: STRANGER.addrs()[0], port: 80.into(), protocol: TCP, zero: 0 };
    let backends = BackendSetId::new(0xb1);
    let backend = BackendRow { addr: B.addrs()[0], port: 8080.into(), zero: [0; 2] };
    let mut plan = allow(WEB, CLIENTS, TCP, 1000..=2047, RULE);
    plan.extend(deny(WEB, ClassId::ANY, TCP, 22..=22, RULE));
    plan.extend(peer(REMOTE, CLIENTS));
    plan.extend([block("10.0.0.0/8", CLIENTS), block("::/0", CLIENTS), block("0.0.0.0/0", CLIENTS)]);
    plan.push(MapOp::PutBackend(BackendKey { set: backends, index: 0 }, backend));
    plan.push(MapOp::PutService(service, ServiceRow { backends, count: 1, affinity_s: 0 }));
    plan
}

#[test]
fn the_verifier_takes_every_program() {
    let bpffs = Bpffs::new();
    let dataplane = match Dataplane::open(&options(&bpffs)) {
        Ok(dataplane) => dataplane,
        Err(error) => panic!("{error}: {error:#?}"),
    };
    assert!(!dataplane.adopted());
    assert_eq!(dataplane.read().unwrap(), Tables::default());
    assert_eq!(dataplane.counters().unwrap(), []);
}

#[test]
fn a_new_agent_takes_over_what_the_old_one_has_pinned() {
    let mut node = Node::new();
    node.apply(rows_of_every_map());
    node.isolate(B, Ingress, WEB);
    let expected = node.dataplane.tables().clone();
    let flow = tcp(REMOTE.v4.into(), B.v4.into(), 1024);
    assert_eq!(node.from_net(&flow.syn()), redirected(Rule));
    assert_eq!(node.from_pod(B, &flow.back().syn_ack()), redirected(Established));
    node.advance_epoch();
    let (counters, config) = (node.dataplane.counters().unwrap(), node.dataplane.config().unwrap());

    node.restart_agent();

    assert!(node.dataplane.adopted());
    assert_eq!(node.dataplane.tables(), &expected);
    assert_eq!(node.dataplane.read().unwrap(), expected);
    assert_eq!(node.dataplane.counters().unwrap(), counters);
    assert_eq!(node.dataplane.config().unwrap(), config);
    // Connections and policy are as they were.
    assert_eq!(node.from_net(&flow.data()), redirected(Established));
    assert_eq!(node.from_net(&flow.from_port(40001).syn()), redirected(Rule));
    assert_eq!(node.from_net(&tcp(REMOTE.v4.into(), B.v4.into(), 999).syn()), dropped(PolicyDenied));
    node.advance_epoch();
    assert_eq!(node.dataplane.config().unwrap().generation, config.generation + 1);
}

#[test]
fn the_maps_read_as_they_were_written() {
    let mut node = Node::new();
    let mut expected = node.dataplane.tables().clone();
    let plan = rows_of_every_map();
    plan.iter().for_each(|op| expected.apply(op));
    node.apply(plan);
    assert_eq!(node.dataplane.read().unwrap(), expected);
    let fill = node.dataplane.fill().unwrap();
    for (name, entries) in [
        (maps::ENDPOINTS, expected.endpoints.len()),
        (maps::PEERS, expected.peers.len()),
        (maps::CIDRS, expected.cidrs.len()),
        (maps::RULES, expected.rules.len()),
        (maps::SERVICES, expected.services.len()),
        (maps::BACKENDS, expected.backends.len()),
    ] {
        let map = fill.iter().find(|map| map.name == name).unwrap();
        assert_eq!(map.entries, entries as u64, "{name}");
    }
}

#[test]
fn what_is_removed_is_gone_and_removing_it_again_is_no_error() {
    let mut node = Node::new();
    node.apply(rows_of_every_map());
    let full = node.dataplane.tables().clone();
    for _ in 0..2 {
        node.apply(full.endpoints.keys().map(|key| MapOp::RemoveEndpoint(*key)));
        node.apply(full.peers.keys().map(|key| MapOp::RemovePeer(*key)));
        node.apply(full.cidrs.keys().map(|key| MapOp::RemoveCidr(*key)));
        node.apply(full.rules.keys().map(|key| MapOp::RemoveRule(*key)));
        node.apply(full.services.keys().map(|key| MapOp::RemoveService(*key)));
        node.apply(full.backends.keys().map(|key| MapOp::RemoveBackend(*key)));
        assert_eq!(node.dataplane.read().unwrap(), Tables::default());
    }
}

#[test]
fn pins_of_another_layout_are_refused_with_both_numbers() {
    let bpffs = Bpffs::new();
    let options = options(&bpffs);
    fs::create_dir_all(options.pins.join("layout-999")).unwrap();
    let message = refusal(&options).to_string();
    for part in [options.pins.display().to_string(), "999".into(), format!("layout {}", maps::LAYOUT_VERSION)]
    {
        assert!(message.contains(&part), "{message}: no {part}");
    }
    assert_eq!(fs::read_dir(&options.pins).unwrap().count(), 1, "nothing is made beside them");
}

#[test]
fn a_folder_that_is_on_no_bpffs_is_refused() {
    let bpffs = Bpffs::new();
    let elsewhere = std::env::temp_dir().join(format!("weir-test-{}-no-bpffs", std::process::id()));
    let refused = refusal(&Options { pins: elsewhere.clone(), ..options(&bpffs) });
    let left: Vec<_> = fs::read_dir(&elsewhere).map(|entries| entries.collect()).unwrap_or_default();
    fs::remove_dir_all(&elsewhere).unwrap();
    assert!(matches!(&refused, Error::NotBpffs { path } if *path == elsewhere), "{refused}");
    assert!(refused.to_string().contains("mount -t bpf"), "{refused}");
    assert!(left.is_empty(), "{left:?}");
}

/// Refused before the first write: the maps, the copy of them and the generation are as they were.
#[track_caller]
fn refused_whole(node: &mut Node, plan: &[MapOp], map: &str, wanted: usize, capacity: usize) {
    let (before, config) = (node.dataplane.read().unwrap(), node.dataplane.config().unwrap());
    let error = node.dataplane.apply(plan).unwrap_err();
    assert!(
        matches!(&error, Error::Full { map: m, wanted: w, capacity: c } if (*m, *w, *c) == (map, wanted, capacity)),
        "{error:?}"
    );
    assert_eq!(node.dataplane.read().unwrap(), before);
    assert_eq!(node.dataplane.tables(), &before);
    assert_eq!(node.dataplane.config().unwrap(), config);
}

#[test]
fn a_plan_that_does_not_fit_is_refused_whole() {
    for map in [maps::PEERS, maps::CIDRS, maps::RULES, maps::SERVICES, maps::BACKENDS] {
        let mut node = Node::with_capacities(&[(map, 2)]);
        node.apply(rows(map, 2));
        let third = rows(map, 3).pop().unwrap();
        // The rows before the one that does not fit are of a map with room.
        let plan = [MapOp::PutEndpoint(STRANGER.addrs()[0], EMPTY), MapOp::AdvanceEpoch, third];
        refused_whole(&mut node, &plan, map, 3, 2);
        // Writing what is there takes no room.
        node.apply(rows(map, 2));
    }
    let mut node = Node::with_capacities(&[(maps::ENDPOINTS, 4)]);
    refused_whole(&mut node, &[MapOp::PutEndpoint(STRANGER.addrs()[0], EMPTY)], maps::ENDPOINTS, 5, 4);
}

#[test]
fn only_a_removal_that_removes_something_makes_room() {
    let mut node = Node::with_capacities(&[(maps::PEERS, 2)]);
    node.apply(rows(maps::PEERS, 2));
    let [first, third] = [0, 2].map(|n| rows(maps::PEERS, 3)[n]);
    let (MapOp::PutPeer(first_key, _), MapOp::PutPeer(third_key, _)) = (first, third) else { unreachable!() };
    let gone = MapOp::RemovePeer(third_key);
    refused_whole(&mut node, &[gone, third], maps::PEERS, 3, 2);
    // Away and back is as it was.
    let away = MapOp::RemovePeer(first_key);
    refused_whole(&mut node, &[away, first, third], maps::PEERS, 3, 2);
    refused_whole(&mut node, &[away, third, gone, third, first], maps::PEERS, 3, 2);
    node.apply([away, third]);
    assert_eq!(node.dataplane.read().unwrap().peers.len(), 2);
}

/// Two agents with the same pins, of which neither knows what the other writes.
fn two_agents(bpffs: &Bpffs, map: &'static str, capacity: u32) -> [Dataplane; 2] {
    let options = Options { capacities: Capacities(vec![(map, capacity)]), ..options(bpffs) };
    [(); 2].map(|()| Dataplane::open(&options).unwrap())
}

#[test]
fn a_call_of_many_rows_that_is_cut_short_says_how_far_it_came() {
    for map in [maps::PEERS, maps::CIDRS, maps::RULES, maps::SERVICES, maps::BACKENDS] {
        let bpffs = Bpffs::new();
        let [mut one, mut other] = two_agents(&bpffs, map, 6);
        let (before, plan) = (rows(map, 3), &rows(map, 9)[3..]);
        other.apply(&before).unwrap();
        // As far as it knows, there is room for six.
        let error = one.apply(plan).unwrap_err();
        assert!(matches!(error, Error::Map { map: m, .. } if m == map), "{error:?}");

        let mut written = Tables::default();
        plan[..3].iter().for_each(|op| written.apply(op));
        assert_eq!(one.tables(), &written, "{map}");
        before.iter().for_each(|op| written.apply(op));
        assert_eq!(one.read().unwrap(), written, "{map}");
    }
}

#[test]
fn rows_that_somebody_else_has_removed_do_not_keep_the_others() {
    for map in [maps::PEERS, maps::CIDRS, maps::RULES, maps::SERVICES, maps::BACKENDS] {
        let bpffs = Bpffs::new();
        let [mut one, mut other] = two_agents(&bpffs, map, 8);
        one.apply(&rows(map, 8)).unwrap();
        let removals: Vec<MapOp> = rows(map, 8).iter().map(removal).collect();
        let some = [removals[0], removals[3], removals[4], removals[7]];
        other.apply(&some).unwrap();
        assert_eq!(one.read().unwrap().rules.len(), if map == maps::RULES { 4 } else { 0 });
        one.apply(&removals).unwrap();
        assert_eq!(one.tables(), &Tables::default(), "{map}");
        assert_eq!(one.read().unwrap(), Tables::default(), "{map}");
    }
}

#[test]
fn more_rows_than_go_into_one_call_go_into_several() {
    let mut node = Node::new();
    let plan: Vec<MapOp> = (0..2500).flat_map(|port| allow(WEB, CLIENTS, TCP, port..=port, RULE)).collect();
    node.apply(plan.clone());
    assert_eq!(node.dataplane.read().unwrap().rules.len(), 2500);
    node.apply(plan.iter().map(removal));
    assert_eq!(node.dataplane.read().unwrap().rules.len(), 0);
}

fn removal(op: &MapOp) -> MapOp {
    match *op {
        MapOp::PutPeer(addr, _) => MapOp::RemovePeer(addr),
        MapOp::PutCidr(cidr, _) => MapOp::RemoveCidr(cidr),
        MapOp::PutRule(prefix, _) => MapOp::RemoveRule(prefix),
        MapOp::PutService(key, _) => MapOp::RemoveService(key),
        MapOp::PutBackend(key, _) => MapOp::RemoveBackend(key),
        other => panic!("{other:?} puts no row"),
    }
}

#[test]
fn each_plan_that_is_carried_out_counts_a_generation() {
    let mut node = Node::new();
    let before = node.dataplane.config().unwrap();
    node.apply(rows_of_every_map());
    assert_eq!(node.dataplane.config().unwrap().generation, before.generation + 1);
    node.apply([]);
    assert_eq!(node.dataplane.config().unwrap().generation, before.generation + 1);
    node.apply([MapOp::AdvanceEpoch, MapOp::AdvanceEpoch]);
    let after = node.dataplane.config().unwrap();
    assert_eq!((after.generation, after.epoch), (before.generation + 2, before.epoch + 2));
}

#[test]
fn sweeping_leaves_live_connections_alone() {
    let mut node = Node::new();
    let flow = tcp(A.v4.into(), B.v4.into(), 80);
    node.from_pod(A, &flow.syn());
    node.from_pod(B, &flow.back().syn_ack());
    let report = node.dataplane.sweep().unwrap();
    assert_eq!((report.live, report.expired), (1, 0));
    assert_eq!(node.from_pod(A, &flow.data()), redirected(Established));
}

const EMPTY: EndpointRow =
    EndpointRow { ifindex: 0, flags: 0, ingress: RuleSetId::OPEN, egress: RuleSetId::OPEN };

/// So many rows of one map.
fn rows(map: &str, count: u8) -> Vec<MapOp> {
    let addr = |n: u8| std::net::IpAddr::from([10, 0, 0, n]).into();
    let backends = BackendSetId::new(0xb1);
    let row = |n: u8| match map {
        maps::PEERS => vec![MapOp::PutPeer(addr(n), CLIENTS)],
        maps::CIDRS => vec![block(&format!("10.0.{n}.0/24"), CLIENTS)],
        maps::RULES => allow(WEB, CLIENTS, TCP, n.into()..=n.into(), RULE),
        maps::SERVICES => {
            let key = ServiceKey { addr: addr(n), port: 80.into(), protocol: TCP, zero: 0 };
            vec![MapOp::PutService(key, ServiceRow { backends, count: 0, affinity_s: 0 })]
        }
        maps::BACKENDS => {
            let row = BackendRow { addr: addr(n), port: 80.into(), zero: [0; 2] };
            vec![MapOp::PutBackend(BackendKey { set: backends, index: n.into() }, row)]
        }
        other => panic!("no rows of {other}"),
    };
    (0..count).flat_map(row).collect()
}

#[test]
fn what_a_killed_test_left_goes_with_the_next() {
    // No process has this number: it is beyond the kernel's limit.
    let left = std::env::temp_dir().join("weir-test-4999999-0");
    std::fs::create_dir_all(&left).unwrap();
    let node = Node::new();
    assert!(!left.exists() && node.pins().exists());
}
