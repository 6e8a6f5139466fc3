//! From the pins of an older layout to ours: nothing is judged by nothing, and what can be read comes along.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::maps::{Map, MapData, MapInfo, PerCpuArray};
use common::id::RuleSetId;
use common::maps::{self, LAYOUT_VERSION};
use common::verdict::Direction::Ingress;
use common::verdict::DropReason::{PolicyDenied, Spoofed};
use common::verdict::PassReason::{Established, Open};
use common::verdict::counter::Cell;
use dataplane::{Hook, Options, TakenOver};
use policy::{Tables, plan};
use tests::frame::{Flow, tcp};
use tests::node::{A, B, Node, dropped, redirected};

const CLOSED: RuleSetId = RuleSetId::new(0x10);
const OLD: u32 = LAYOUT_VERSION - 1;

fn old_node(hook: Hook) -> (Node, Flow, Flow) {
    node_of_layout(OLD, hook)
}

/// A node whose agent has another layout than ours, with its programs attached and two connections: one with a reply, one
/// without yet.
fn node_of_layout(layout: u32, hook: Hook) -> (Node, Flow, Flow) {
    let mut node = Node::with(Options { hook, layout: Some(layout), ..Options::default() });
    for pod in [A, B] {
        node.dataplane.attach_endpoint(node.ifindex(pod)).unwrap();
    }
    node.dataplane.attach_underlay(node.underlay).unwrap();
    let (replied, young) = (tcp(A.v4.into(), B.v4.into(), 80), tcp(A.v4.into(), B.v4.into(), 81));
    assert_eq!(node.from_pod(A, &replied.syn()), redirected(Open));
    assert_eq!(node.from_pod(B, &replied.back().syn_ack()), redirected(Established));
    assert_eq!(node.from_pod(A, &young.syn()), redirected(Open));
    node.isolate(A, Ingress, CLOSED);
    (node, replied, young)
}

/// Another agent, of our layout, which has not taken over yet.
fn start_migration(node: &mut Node) -> Tables {
    let desired = node.dataplane.tables().clone();
    node.restart_agent_with(|options| {
        options.layout = None;
        options.migrate = true;
    });
    desired
}

fn fill(node: &mut Node, desired: &Tables) {
    let steps = plan(node.dataplane.tables(), desired);
    node.apply(steps);
}

fn folders(node: &Node) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(node.pins())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Somebody at pod `A` sends what its program drops, and counts, so many times.
fn send_liars(node: &Node, count: u64) {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    for _ in 0..count {
        // From a link-local address, which is not the pod's.
        let everyone = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 9, 0, node.peer_a);
        socket.send_to(b"hello", everyone).unwrap();
    }
}

#[test]
fn connections_links_and_verdicts_come_along() {
    for hook in [Hook::Auto, Hook::Tcx, Hook::Clsact] {
        let (mut node, replied, young) = old_node(hook);
        let desired = start_migration(&mut node);
        // Until told to, the old programs judge: ours have seen nothing.
        send_liars(&node, 20);
        assert_eq!(node.counted(Spoofed.as_str()), 0, "{hook:?}");
        fill(&mut node, &desired);
        send_liars(&node, 20);
        assert_eq!(node.counted(Spoofed.as_str()), 0, "{hook:?}");
        let taken = node.dataplane.take_over().unwrap().unwrap();
        // On clsact there are no links but the underlay's.
        let links = if hook == Hook::Tcx { 5 } else { usize::from(hook == Hook::Auto) };
        assert_eq!(taken, TakenOver { links, connections: Some(2) }, "{hook:?}");
        send_liars(&node, 20);
        assert!(node.counted(Spoofed.as_str()) >= 20, "{hook:?}");
        // `A` lets nobody in: only the entries let replies pass.
        for flow in [replied, young] {
            assert_eq!(
                node.from_pod(B, &flow.back().syn_ack()),
                redirected(Established),
                "{hook:?} {flow:?}"
            );
        }
        let stranger = tcp(B.v4.into(), A.v4.into(), 80);
        assert_eq!(node.from_pod(B, &stranger.syn()), dropped(PolicyDenied), "{hook:?}");
        assert_eq!(folders(&node), [format!("layout-{LAYOUT_VERSION}")], "{hook:?}");
        assert_eq!(node.dataplane.take_over().unwrap(), None, "{hook:?}");
        // And from here on it is as if it had always been so.
        node.restart_agent();
        assert_eq!(node.dataplane.read().unwrap(), desired, "{hook:?}");
        assert_eq!(node.from_pod(B, &replied.back().data()), redirected(Established), "{hook:?}");
    }
}

#[test]
fn while_some_hooks_have_the_old_programs_and_some_ours_each_knows_the_others_connections() {
    let (mut node, replied, young) = old_node(Hook::Tcx);
    let desired = start_migration(&mut node);
    fill(&mut node, &desired);
    // Ours, asked before the switch. `A` lets nobody in: only the entries let replies pass.
    for flow in [replied, young] {
        assert_eq!(node.from_pod(B, &flow.back().syn_ack()), redirected(Established), "{flow:?}");
    }
    let ours = tcp(A.v4.into(), B.v4.into(), 82);
    assert_eq!(node.from_pod(A, &ours.syn()), redirected(Open));
    assert_eq!(node.dataplane.take_over().unwrap(), Some(TakenOver { links: 5, connections: Some(3) }));
}

#[test]
fn a_connection_that_a_policy_of_now_forbids_does_not_come_through() {
    let (mut node, replied, _) = old_node(Hook::Tcx);
    let mut desired = start_migration(&mut node);
    for addr in B.addrs() {
        desired.endpoints.get_mut(&addr).unwrap().ingress = CLOSED;
    }
    fill(&mut node, &desired);
    node.dataplane.take_over().unwrap();
    assert_eq!(node.from_pod(A, &replied.data()), dropped(PolicyDenied));
}

#[test]
fn where_connections_cannot_be_read_each_begins_anew_with_its_next_packet() {
    // Its rows are as long as ours; what they mean nobody has said.
    let (mut node, replied, _) = node_of_layout(999, Hook::Tcx);
    let desired = start_migration(&mut node);
    fill(&mut node, &desired);
    let taken = node.dataplane.take_over().unwrap().unwrap();
    assert_eq!(taken, TakenOver { links: 5, connections: None });
    assert_eq!(node.from_pod(B, &replied.back().data()), dropped(PolicyDenied));
    assert_eq!(node.from_pod(A, &replied.data()), redirected(Open));
    assert_eq!(node.from_pod(B, &replied.back().data()), redirected(Established));
}

/// In the place of a pinned map comes another one, whose rows are shorter. The programs keep the one that they were given.
fn replace_pin(folder: &Path, name: &str) {
    let other = MapData::from_pin(folder.join(maps::PEERS)).unwrap();
    fs::remove_file(folder.join(name)).unwrap();
    other.pin(folder.join(name)).unwrap();
}

#[test]
fn where_rows_for_connections_have_another_length_each_begins_anew_whatever_the_number_says() {
    for name in [maps::CT, maps::CT_HALF, maps::FRAGMENTS, maps::SERVICE_SOCKETS] {
        let (mut node, replied, _) = old_node(Hook::Tcx);
        replace_pin(&node.pins().join(format!("layout-{OLD}/maps")), name);
        let desired = start_migration(&mut node);
        fill(&mut node, &desired);
        let taken = node.dataplane.take_over().unwrap().unwrap();
        assert_eq!(taken, TakenOver { links: 5, connections: None }, "{name}");
        assert_eq!(node.from_pod(B, &replied.back().data()), dropped(PolicyDenied), "{name}");
        assert_eq!(node.from_pod(A, &replied.data()), redirected(Open), "{name}");
        assert_eq!(folders(&node), [format!("layout-{LAYOUT_VERSION}")], "{name}");
    }
}

#[test]
fn a_pin_that_an_old_layout_does_not_have_is_no_hindrance() {
    let (mut node, ..) = old_node(Hook::Tcx);
    fs::remove_file(node.pins().join(format!("layout-{OLD}/maps")).join(maps::SERVICE_SOCKETS)).unwrap();
    let desired = start_migration(&mut node);
    fill(&mut node, &desired);
    let taken = node.dataplane.take_over().unwrap();
    assert_eq!(taken, Some(TakenOver { links: 5, connections: None }));
}

#[test]
fn pins_of_our_number_whose_rows_are_not_ours_are_refused_and_go_on() {
    for name in [maps::CONFIG, maps::ENDPOINTS, maps::RULES, maps::CT, maps::COUNTERS] {
        let (mut node, replied, _) = node_of_layout(LAYOUT_VERSION, Hook::Tcx);
        let folder = node.pins().join(format!("layout-{LAYOUT_VERSION}/maps"));
        replace_pin(&folder, name);
        for migrate in [false, true] {
            let options = Options { pins: node.pins().to_owned(), migrate, ..Options::default() };
            let message = dataplane::Dataplane::open(&options).err().unwrap().to_string();
            for part in [folder.join(name).to_str().unwrap(), "rows of 16 and 8 bytes"] {
                assert!(message.contains(part), "{message}: no {part}");
            }
        }
        // Those that refused have touched nothing: the programs that are there judge as before.
        assert_eq!(node.from_pod(A, &replied.data()), redirected(Established), "{name}");
    }
}

/// Bytes of key and value of the maps of layout 1, as the last build that made it had them (commit 541d605's parent).
const LAYOUT_1: [(&str, (u32, u32)); 13] = [
    (maps::CONFIG, (4, 32)),
    (maps::ENDPOINTS, (16, 24)),
    (maps::PEERS, (16, 8)),
    (maps::CIDRS, (20, 8)),
    (maps::RULES, (24, 12)),
    (maps::SERVICES, (20, 16)),
    (maps::BACKENDS, (12, 20)),
    (maps::CT, (40, 24)),
    (maps::CT_HALF, (40, 24)),
    (maps::CT_CLOSED, (40, 24)),
    (maps::FRAGMENTS, (40, 16)),
    (maps::SERVICE_SOCKETS, (28, 20)),
    (maps::COUNTERS, (4, 16)),
];

#[test]
fn what_is_shared_with_layout_1_is_as_it_was_and_what_is_not_need_not_be() {
    let node = Node::new();
    let mut changed = Vec::new();
    for (name, was) in LAYOUT_1 {
        let info = MapInfo::from_pin(node.map_pin(name)).unwrap();
        if (info.key_size(), info.value_size()) != was {
            changed.push(name);
        }
    }
    // Neither is shared.
    assert_eq!(changed, [maps::CONFIG, maps::CT_CLOSED]);
}

#[test]
fn no_packet_is_judged_by_nothing_meanwhile() {
    const LIARS: u64 = 2_000;
    for hook in [Hook::Tcx, Hook::Clsact] {
        let (mut node, ..) = old_node(hook);
        let desired = start_migration(&mut node);
        fill(&mut node, &desired);
        // It outlives its pin.
        let old = node.pins().join(format!("layout-{OLD}/maps")).join(maps::COUNTERS);
        let old = Map::PerCpuArray(MapData::from_pin(old).unwrap());
        let old = PerCpuArray::<_, Cell>::try_from(old).unwrap();
        let netns = netlink::Netns::current().unwrap();
        let peer = node.peer_a;
        let moved = Arc::new(AtomicBool::new(false));
        let is_moved = Arc::clone(&moved);
        let sender = std::thread::spawn(move || {
            let _inside = netns.enter().unwrap();
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
            let everyone = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 9, 0, peer);
            let mut sent = 0;
            let mut send = |count: u64| {
                (0..count).for_each(|_| assert_eq!(socket.send_to(b"hello", everyone).unwrap(), 5));
                sent += count;
            };
            // Until the switch is over, and then some.
            while !is_moved.load(Ordering::Acquire) {
                send(100);
            }
            send(LIARS);
            sent
        });
        // In the middle of it, as seen from the packets.
        let by_old =
            || old.get(&u32::from(Spoofed as u8), 0).unwrap().iter().map(|cell| cell.packets).sum::<u64>();
        while by_old() < LIARS {
            std::thread::yield_now();
        }
        node.dataplane.take_over().unwrap();
        moved.store(true, Ordering::Release);
        let sent = sender.join().unwrap();
        let (before, after) = (by_old(), node.counted(Spoofed.as_str()));
        // The kernel sends a report or two of its own.
        assert!((sent..sent + 20).contains(&(before + after)), "{hook:?}: {before} and {after} of {sent}");
        assert!(after >= LIARS, "{hook:?}: {after} met ours");
    }
}

#[test]
fn without_being_told_to_an_agent_refuses_pins_of_another_layout_and_says_what_to_do() {
    let (node, ..) = old_node(Hook::Tcx);
    let pins = node.pins().to_owned();
    let refused = dataplane::Dataplane::open(&Options { pins, ..Options::default() }).err().unwrap();
    let message = refused.to_string();
    for part in [format!("layout {OLD}"), format!("layout {LAYOUT_VERSION}"), "--migrate".into()] {
        assert!(message.contains(&part), "{message}: no {part}");
    }
    assert_eq!(folders(&node), [format!("layout-{OLD}")]);
}
