//! From the pins of an older layout to ours: nothing is judged by nothing, and what can be read comes along.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};

use aya::maps::{Map, MapData, PerCpuArray};
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

#[test]
fn no_packet_is_judged_by_nothing_meanwhile() {
    const LIARS: u64 = 20_000;
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
        let sender = std::thread::spawn(move || {
            let _inside = netns.enter().unwrap();
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
            let everyone = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 9, 0, peer);
            for _ in 0..LIARS {
                socket.send_to(b"hello", everyone).unwrap();
            }
        });
        // In the middle of it, as seen from the packets.
        let by_old =
            || old.get(&u32::from(Spoofed as u8), 0).unwrap().iter().map(|cell| cell.packets).sum::<u64>();
        while by_old() < LIARS / 10 {
            std::thread::yield_now();
        }
        node.dataplane.take_over().unwrap();
        sender.join().unwrap();
        let (before, after) = (by_old(), node.counted(Spoofed.as_str()));
        // The kernel sends a report or two of its own.
        assert!((LIARS..LIARS + 20).contains(&(before + after)), "{hook:?}: {before} and {after} of {LIARS}");
        assert!(after > 0, "{hook:?}: it was over before the switch");
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
