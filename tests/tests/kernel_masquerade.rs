//! Which connections go by the host's stack to be masqueraded: frames through the real programs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::id::RuleSetId;
use common::verdict::Direction::{Egress, Ingress};
use common::verdict::DropReason::PolicyDenied;
use common::verdict::PassReason::{Established, Foreign, Open, Related};
use policy::tables::Cidr;
use tests::frame::{echo_reply, echo_request, port_unreachable, tcp, too_big, udp};
use tests::node::{
    A, B, FAMILIES, Family, NODE, Node, OTHER_NODE, REMOTE, STRANGER, dropped, onward, redirected,
};

const CLOSED: RuleSetId = RuleSetId::new(0x10);

/// Pods reach each other by their own addresses, and all else by the node's.
fn masquerading() -> Node {
    let mut node = Node::new();
    masquerade(&mut node, Some(&["10.244.0.0/16", "fd00:244::/32"]));
    node
}

fn masquerade(node: &mut Node, native: Option<&[&str]>) {
    let blocks = |blocks: &[&str]| -> BTreeSet<Cidr> {
        blocks.iter().map(|block| Cidr::new(block.parse().unwrap())).collect()
    };
    node.dataplane.masquerade_beyond(native.map(blocks).as_ref()).unwrap();
}

/// The host beyond: it has a route here, or all would go by the stack anyway.
fn beyond(family: Family) -> IpAddr {
    OTHER_NODE.on(family)
}

#[test]
fn what_leaves_the_cluster_goes_by_the_stack_and_what_stays_in_it_does_not() {
    let mut node = masquerading();
    for family in FAMILIES {
        let (a, outside) = (A.on(family), beyond(family));
        for (first, reply) in [
            (tcp(a, outside, 80).syn(), tcp(a, outside, 80).back().syn_ack()),
            (udp(a, outside, 53).frame(), udp(a, outside, 53).back().frame()),
            (echo_request(a, outside, 9).frame(), echo_reply(outside, a, 9).frame()),
        ] {
            assert_eq!(node.from_pod(A, &first), onward(Open));
            assert_eq!(node.forwarded(A, &reply), onward(Established));
        }
        // Again and again, by the shortcut too.
        for _ in 0..3 {
            assert_eq!(node.from_pod(A, &tcp(a, outside, 80).ack()), onward(Established));
            assert_eq!(node.forwarded(A, &tcp(a, outside, 80).back().data()), onward(Established));
        }
        // The answer comes to the node's address, and that is netfilter's business.
        assert_eq!(node.from_net(&tcp(outside, NODE.on(family), 40000).syn_ack()), onward(Foreign));

        assert_eq!(node.from_pod(A, &tcp(a, B.on(family), 80).syn()), redirected(Open));
        let far = tcp(a, REMOTE.on(family), 80);
        assert_eq!(node.from_pod(A, &far.syn()), redirected(Open));
        assert_eq!(node.from_net(&far.back().syn_ack()), redirected(Established));
        assert_eq!(node.from_pod(A, &far.ack()), redirected(Established));
        // What nobody has a route to, the stack refuses as ever.
        assert_eq!(node.from_pod(A, &tcp(a, STRANGER.on(family), 80).syn()), onward(Open));
    }
}

#[test]
fn what_others_begin_is_answered_the_way_it_came() {
    let mut node = masquerading();
    for family in FAMILIES {
        let (a, outside) = (A.on(family), beyond(family));
        let flow = tcp(outside, a, 80);
        assert_eq!(node.from_net(&flow.syn()), redirected(Open));
        assert_eq!(node.from_pod(A, &flow.back().syn_ack()), redirected(Established));
        let flow = tcp(outside, a, 81);
        assert_eq!(node.forwarded(A, &flow.syn()), onward(Open));
        assert_eq!(node.from_pod(A, &flow.back().syn_ack()), onward(Established));
    }
}

#[test]
fn a_connection_keeps_its_way_when_masquerading_is_switched_on_or_off() {
    let mut node = Node::new();
    for family in FAMILIES {
        let (a, outside) = (A.on(family), beyond(family));
        masquerade(&mut node, None);
        let old = tcp(a, outside, 80);
        assert_eq!(node.from_pod(A, &old.syn()), redirected(Open));
        masquerade(&mut node, Some(&[]));
        assert_eq!(node.from_pod(A, &old.ack()), redirected(Established));
        let new = old.from_port(41000);
        assert_eq!(node.from_pod(A, &new.syn()), onward(Open));
        masquerade(&mut node, None);
        node.advance_epoch();
        assert_eq!(node.from_pod(A, &new.ack()), onward(Established));
        assert_eq!(node.from_pod(A, &old.ack()), redirected(Established));
    }
}

#[test]
fn blocks_are_written_read_back_and_survive_the_agent() {
    let mut node = masquerading();
    let same: BTreeSet<Cidr> =
        ["10.244.0.0/16", "fd00:244::/32"].map(|block| Cidr::new(block.parse().unwrap())).into();
    assert!(!node.dataplane.masquerade_beyond(Some(&same)).unwrap(), "nothing to write");
    node.restart_agent();
    assert!(!node.dataplane.masquerade_beyond(Some(&same)).unwrap(), "nothing to write after a restart");
    let outside = tcp(A.on(FAMILIES[0]), beyond(FAMILIES[0]), 80);
    assert_eq!(node.from_pod(A, &outside.syn()), onward(Open));
    assert!(node.dataplane.masquerade_beyond(None).unwrap());
    assert_eq!(node.from_pod(A, &outside.from_port(41000).syn()), redirected(Open));
}

#[test]
fn policy_comes_first_and_errors_follow_their_connection() {
    let mut node = masquerading();
    node.isolate(A, Ingress, CLOSED);
    for family in FAMILIES {
        let (a, outside) = (A.on(family), beyond(family));
        let question = udp(a, outside, 53);
        assert_eq!(node.from_pod(A, &question.frame()), onward(Open));
        // Translated back by netfilter before we see it.
        assert_eq!(node.forwarded(A, &too_big(outside, &question.frame(), a).frame()), onward(Related));
        // About an answer: by the stack, which knows whose address it must show.
        let answer = question.back().frame();
        assert_eq!(node.from_pod(A, &port_unreachable(a, &answer, outside).frame()), onward(Related));
        // About a connection that is not masqueraded: as ever.
        let far = udp(REMOTE.on(family), B.on(family), 80).frame();
        assert_eq!(node.from_net(&far), redirected(Open));
        let error = port_unreachable(B.on(family), &far, REMOTE.on(family)).frame();
        assert_eq!(node.from_pod(B, &error), redirected(Related));
    }
    node.isolate(A, Egress, CLOSED);
    for family in FAMILIES {
        let flow = tcp(A.on(family), beyond(family), 80);
        assert_eq!(node.from_pod(A, &flow.syn()), dropped(PolicyDenied));
    }
}
