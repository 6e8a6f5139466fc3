//! Programs on interfaces: attached, replaced in place, taken off; real packets say whether they are there.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use common::verdict::DropReason::Spoofed;
use common::verdict::PassReason::Node as NodeItself;
use dataplane::{Error, Hook, Options};
use tests::node::{A, B, Node};

const PACKETS: u64 = 50;

/// How many programs see a packet from pod `A`, and one to it.
fn programs(node: &Node) -> (u64, u64) {
    let seen_by = |sender: u32, reason: &str| {
        let before = node.counted(reason);
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        for _ in 0..PACKETS {
            let everyone = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 9, 0, sender);
            socket.send_to(b"hello", everyone).unwrap();
        }
        // The kernel sends a report or two of its own meanwhile.
        (node.counted(reason) - before) / PACKETS
    };
    // From a link-local address, which is not the pod's; the program on the host's side drops it.
    let from_pod = seen_by(node.peer_a, Spoofed.as_str());
    // What the node sends to everyone on the link passes.
    let to_pod = seen_by(node.ifindex_a, NodeItself.as_str());
    (from_pod, to_pod)
}

/// The kernel takes a tcx program off a moment after its last link has gone.
#[track_caller]
fn nothing_is_left(node: &Node, what: &str) {
    let patience = Instant::now() + Duration::from_secs(5);
    while programs(node) != (0, 0) {
        assert!(Instant::now() < patience, "{:?} {what}", programs(node));
    }
}

fn node_with(hook: Hook) -> Node {
    Node::with(Options { hook, ..Options::default() })
}

const HOOKS: [Hook; 3] = [Hook::Auto, Hook::Tcx, Hook::Clsact];

#[test]
fn an_endpoint_is_attached_and_detached() {
    for hook in HOOKS {
        let mut node = node_with(hook);
        assert_eq!(programs(&node), (0, 0), "{hook:?}");
        node.dataplane.attach_endpoint(node.ifindex_a).unwrap();
        assert_eq!(programs(&node), (1, 1), "{hook:?}");
        assert!(node.dataplane.endpoint_attached(node.ifindex_a).unwrap(), "{hook:?}");
        assert!(node.dataplane.attached_endpoints().unwrap().contains(&node.ifindex_a), "{hook:?}");
        for _ in 0..2 {
            node.dataplane.detach_endpoint(node.ifindex_a).unwrap();
            nothing_is_left(&node, &format!("{hook:?}"));
        }
    }
}

#[test]
fn attaching_again_replaces_in_place() {
    for hook in HOOKS {
        let mut node = node_with(hook);
        for _ in 0..3 {
            node.dataplane.attach_endpoint(node.ifindex_a).unwrap();
            assert_eq!(programs(&node), (1, 1), "{hook:?}");
        }
    }
}

#[test]
fn a_new_agent_replaces_the_programs_of_the_old_one() {
    for hook in HOOKS {
        let mut node = node_with(hook);
        for pod in [A, B] {
            node.dataplane.attach_endpoint(node.ifindex(pod)).unwrap();
        }
        node.dataplane.attach_underlay(node.underlay).unwrap();
        let attached = node.dataplane.attached_endpoints().unwrap();
        node.restart_agent();
        assert_eq!(programs(&node), (1, 1), "{hook:?}");
        assert_eq!(node.dataplane.attached_endpoints().unwrap(), attached, "{hook:?}");
        assert!(node.dataplane.endpoint_attached(node.ifindex_a).unwrap(), "{hook:?}");
        node.dataplane.detach_endpoint(node.ifindex_a).unwrap();
        nothing_is_left(&node, &format!("{hook:?}"));
    }
}

#[test]
fn a_pod_born_on_clsact_moves_to_tcx_one_program_at_a_time() {
    let mut node = node_with(Hook::Auto);
    node.dataplane.attach_endpoint(node.ifindex_a).unwrap();
    let mut steps = 0;
    while node.dataplane.settle_endpoint().unwrap() {
        steps += 1;
        assert!(steps < 10, "it comes to an end");
        assert_eq!(programs(&node), (1, 1), "after step {steps}");
        assert!(node.dataplane.endpoint_attached(node.ifindex_a).unwrap(), "after step {steps}");
    }
    node.dataplane.detach_endpoint(node.ifindex_a).unwrap();
    nothing_is_left(&node, "at last");
}

#[test]
fn an_agent_that_dies_on_the_way_from_clsact_to_tcx_leaves_nothing_behind() {
    for steps in 0..3 {
        let mut node = node_with(Hook::Auto);
        node.dataplane.attach_endpoint(node.ifindex_a).unwrap();
        for _ in 0..steps {
            node.dataplane.settle_endpoint().unwrap();
        }
        node.restart_agent();
        assert_eq!(programs(&node), (1, 1), "after {steps} steps");
        while node.dataplane.settle_endpoint().unwrap() {}
        assert_eq!(programs(&node), (1, 1), "after {steps} steps");
        node.dataplane.detach_endpoint(node.ifindex_a).unwrap();
        nothing_is_left(&node, &format!("after {steps} steps"));
    }
}

#[test]
fn a_program_on_both_hooks_is_taken_off_both() {
    // Dead between the two halves of a step: attached to tcx, not yet taken off clsact.
    let mut node = node_with(Hook::Clsact);
    node.dataplane.attach_endpoint(node.ifindex_a).unwrap();
    node.restart_agent_with(|options| options.hook = Hook::Tcx);
    node.dataplane.attach_endpoint(node.ifindex_a).unwrap();
    node.restart_agent_with(|options| options.hook = Hook::Auto);
    while node.dataplane.settle_endpoint().unwrap() {}
    assert_eq!(programs(&node), (1, 1));
    node.dataplane.detach_endpoint(node.ifindex_a).unwrap();
    nothing_is_left(&node, "at last");
}

#[test]
fn whether_an_endpoint_is_attached_is_the_kernels_word_not_ours() {
    let mut node = node_with(Hook::Tcx);
    for program in ["from_pod", "to_pod"] {
        node.dataplane.attach_endpoint(node.ifindex_a).unwrap();
        assert!(node.dataplane.endpoint_attached(node.ifindex_a).unwrap());
        // Behind our back: the pin is all that holds the link.
        std::fs::remove_file(node.link_pin(program, A)).unwrap();
        let patience = Instant::now() + Duration::from_secs(5);
        while programs(&node) == (1, 1) {
            assert!(Instant::now() < patience, "{program} is still attached");
        }
        assert!(!node.dataplane.endpoint_attached(node.ifindex_a).unwrap(), "{program}");
    }
    assert!(!node.dataplane.endpoint_attached(node.ifindex_b).unwrap());
    node.dataplane.attach_endpoint(node.ifindex_a).unwrap();
    assert_eq!(programs(&node), (1, 1));
}

#[test]
fn an_interface_that_is_gone_is_named_and_its_pins_are_taken_off() {
    for hook in HOOKS {
        let mut node = node_with(hook);
        for pod in [A, B] {
            node.dataplane.attach_endpoint(node.ifindex(pod)).unwrap();
        }
        node.delete_link(B);
        let error = node.dataplane.attach_endpoint(node.ifindex_b).unwrap_err();
        assert!(matches!(error, Error::NoInterface { ifindex } if ifindex == node.ifindex_b), "{error}");
        node.restart_agent();
        assert_eq!(programs(&node), (1, 1), "{hook:?}");
        node.dataplane.detach_endpoint(node.ifindex_b).unwrap();
        assert!(!node.link_pin("from_pod", B).exists(), "{hook:?}");
    }
}

#[test]
fn a_filter_that_somebody_took_off_is_noticed_and_put_back() {
    for hook in [Hook::Clsact, Hook::Auto] {
        let mut node = node_with(hook);
        node.dataplane.attach_endpoint(node.ifindex_a).unwrap();
        assert!(node.dataplane.endpoint_attached(node.ifindex_a).unwrap(), "{hook:?}");
        let interface = nix::net::if_::if_indextoname(node.ifindex_a).unwrap();
        let interface = interface.to_str().unwrap();
        aya::programs::tc::qdisc_detach_program(interface, aya::programs::TcAttachType::Ingress, "from_pod")
            .unwrap();
        assert_eq!(programs(&node), (0, 1), "{hook:?}");
        assert!(!node.dataplane.endpoint_attached(node.ifindex_a).unwrap(), "{hook:?}");
        assert_eq!(programs(&node), (1, 1), "{hook:?}");
        assert!(node.dataplane.endpoint_attached(node.ifindex_a).unwrap(), "{hook:?}");
    }
}
