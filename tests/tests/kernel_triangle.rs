//! Three answers to "may this connection begin?" must be one: the specification's (`policy::oracle`), the model's
//! (`Tables::lookup`) and the kernel's. Small here; the worlds are the same each time.

use common::flow::FlowEvent;
use common::id::{RuleId, RuleSetId};
use common::net::protocol::{ICMP, ICMPV6};
use common::verdict::{Direction, DropReason, PassReason};
use policy::{Answer, Flow, Judgement, compile, oracle, plan};
use tests::frame::{self, echo_request};
use tests::node::{A, B, FAMILIES, Met, Node, Party};
use tests::worlds::{Dice, flow, world};

const WORLDS: usize = 40;
const FLOWS: usize = 50;

/// A frame that nobody has sent before: `number` tells connections between the same ends apart.
fn first_packet(flow: &Flow, number: u16) -> Vec<u8> {
    if matches!(flow.protocol, ICMP | ICMPV6) {
        return echo_request(flow.source, flow.destination, number).frame();
    }
    let flow = frame::Flow {
        source: flow.source,
        destination: flow.destination,
        source_port: number,
        destination_port: flow.destination_port,
        protocol: flow.protocol,
    };
    flow.frame()
}

fn local(ip: std::net::IpAddr) -> Option<Party> {
    [A, B].into_iter().find(|pod| FAMILIES.iter().any(|family| pod.on(*family) == ip))
}

/// The kernel's answer, at the hook where this node meets the packet first.
fn send(node: &mut Node, flow: &Flow, number: u16) -> Met {
    let frame = first_packet(flow, number);
    match (local(flow.source), local(flow.destination)) {
        (Some(pod), _) => node.from_pod(pod, &frame),
        (None, Some(_)) if number.is_multiple_of(2) => node.from_net(&frame),
        (None, Some(pod)) => node.forwarded(pod, &frame),
        (None, None) => panic!("{flow:?} has no end here"),
    }
}

/// The reason that the model expects.
fn reason(flow: &Flow, answer: &Answer) -> u8 {
    let open = |judgement: Option<Judgement>| judgement.is_none_or(|judgement| judgement.rule_set.is_open());
    if flow.source == flow.destination {
        PassReason::Itself as u8
    } else if !answer.allowed() {
        DropReason::PolicyDenied as u8
    } else if open(answer.egress) && open(answer.ingress) {
        PassReason::Open as u8
    } else {
        PassReason::Rule as u8
    }
}

/// What an event says of one direction, where that direction was judged.
fn judged(event: &FlowEvent, direction: Direction) -> Option<(bool, RuleId, RuleSetId)> {
    let (bit, rule, rules) = match direction {
        Direction::Ingress => (FlowEvent::JUDGED_INGRESS, event.ingress_rule, event.ingress_rules),
        Direction::Egress => (FlowEvent::JUDGED_EGRESS, event.egress_rule, event.egress_rules),
    };
    let denied = event.reason == DropReason::PolicyDenied as u8 && event.direction == direction as u8;
    (event.judged & bit != 0).then_some((!denied, rule, rules))
}

#[test]
fn the_kernel_answers_as_the_tables_and_the_specification_do() {
    let mut node = Node::new();
    let mut dice = Dice(7);
    let mut number = 0;
    let (mut allowed, mut denied) = (0, 0);
    for round in 0..WORLDS {
        let world = world(&mut dice, &node);
        let tables = compile(&world).tables;
        let steps = plan(node.dataplane.tables(), &tables);
        node.apply(steps);
        assert_eq!(node.dataplane.read().unwrap(), tables, "world {round}");
        let flows: Vec<Flow> = (0..FLOWS).map(|_| flow(&mut dice)).collect();
        let mut events = Vec::new();
        for flow in &flows {
            number += 1;
            let (answer, opinions) = (tables.lookup(flow), oracle::judge(&world, flow));
            for (judgement, opinion) in [(answer.egress, opinions.egress), (answer.ingress, opinions.ingress)]
            {
                assert_eq!(
                    judgement.map(|judgement| judgement.allowed),
                    opinion.map(|opinion| opinion.allowed),
                    "{flow:?} in world {round}"
                );
            }
            let met = send(&mut node, flow, number);
            let expected = reason(flow, &answer);
            let name = DropReason::from_u8(expected).map(DropReason::as_str);
            let name = name.or_else(|| PassReason::from_u8(expected).map(PassReason::as_str)).unwrap();
            assert_eq!(met.reason(), name, "{flow:?} in world {round}");
            assert_eq!(met.passed(), answer.allowed(), "{flow:?} in world {round}");
            if answer.allowed() { allowed += 1 } else { denied += 1 }
        }
        while events.len() < flows.len() {
            events.extend(node.events());
        }
        for (flow, event) in flows.iter().zip(&events) {
            let answer = tables.lookup(flow);
            assert_eq!(event.reason, reason(flow, &answer), "{flow:?} in world {round}");
            assert_eq!((event.source.to_ip(), event.destination.to_ip()), (flow.source, flow.destination));
            let both = [(Direction::Egress, answer.egress), (Direction::Ingress, answer.ingress)];
            let mut both = both.into_iter().filter(|_| flow.source != flow.destination);
            let egress_denied = answer.egress.is_some_and(|judgement| !judgement.allowed);
            assert!(
                both.all(|(direction, judgement)| {
                    let expected = judgement
                        // Nobody asks whether it may come in if it may not go out.
                        .filter(|_| direction == Direction::Egress || !egress_denied)
                        .map(|judgement| (judgement.allowed, judgement.rule, judgement.rule_set));
                    judged(event, direction) == expected
                }),
                "{flow:?} in world {round}: {event:?} against {answer:?}"
            );
        }
    }
    // The worlds are worth looking at.
    assert!(allowed > 300 && denied > 300, "{allowed} allowed, {denied} denied");
}
