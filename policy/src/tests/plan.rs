//! What holds between the writes of a plan.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::arbitrary::{Description, config, description, event, flows};
use super::world::Cluster;
use crate::compile::compile;
use crate::lookup::Flow;
use crate::plan::plan;
use crate::tables::{MapOp, Tables};

fn tables(description: &Description) -> Tables {
    compile(&description.cluster().world("node-0")).tables
}

fn carry_out(tables: &mut Tables, ops: &[MapOp]) {
    for op in ops {
        tables.apply(op);
    }
}

/// Of each direction, egress first.
fn verdicts(tables: &Tables, flow: &Flow) -> [Option<bool>; 2] {
    let answer = tables.lookup(flow);
    [answer.egress, answer.ingress].map(|judgement| judgement.map(|judgement| judgement.allowed))
}

/// As below, of the plan between the two.
fn no_third_answer(before: &Tables, after: &Tables, flows: &[Flow]) -> Result<(), TestCaseError> {
    no_third_answer_of(&plan(before, after), before, after, flows)
}

/// Each direction's answer, at every point, is that of `before` or that of `after`; and it never goes back.
pub(super) fn no_third_answer_of(
    ops: &[MapOp],
    before: &Tables,
    after: &Tables,
    flows: &[Flow],
) -> Result<(), TestCaseError> {
    // Flows that change are the ones to watch; of the others a few.
    let (changing, constant): (Vec<&Flow>, Vec<&Flow>) =
        flows.iter().partition(|flow| verdicts(before, flow) != verdicts(after, flow));
    let watched = changing.into_iter().take(40).chain(constant.into_iter().take(25));
    let watched: Vec<_> = watched.map(|flow| (flow, verdicts(before, flow), verdicts(after, flow))).collect();
    let mut now = before.clone();
    let mut epoch_due = false;
    for (index, op) in ops.iter().enumerate() {
        now.apply(op);
        for (flow, old, new) in &watched {
            let found = verdicts(&now, flow);
            for direction in 0..2 {
                prop_assert!(
                    [old[direction], new[direction]].contains(&found[direction]),
                    "{:?} after write {} of {}, {:?}: {:?}, neither {:?} nor {:?}\n{:#?}",
                    flow,
                    index,
                    ops.len(),
                    op,
                    found,
                    old,
                    new,
                    ops
                );
            }
            // A connection that there was must be judged once more.
            epoch_due |= (0..2).any(|way| old[way].is_some() && new[way].is_some() && old[way] != new[way]);
            let late = ops[..=index].contains(&MapOp::AdvanceEpoch);
            prop_assert!(!late || found == *new, "the epoch goes on before {flow:?} is final");
        }
    }
    prop_assert!(!epoch_due || ops.contains(&MapOp::AdvanceEpoch));
    prop_assert_eq!(&now, after);
    Ok(())
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn every_prefix_of_one_events_plan_answers_as_before_or_as_after(
        description in description(), event in event(), flows in flows(150),
    ) {
        let before = tables(&description);
        let mut changed = description;
        changed.happen(&event);
        no_third_answer(&before, &tables(&changed), &flows)?;
    }

    /// A flow between two things that changed may meet one of them changed and the other not; never more than that.
    #[test]
    fn every_prefix_of_several_events_plan_answers_as_if_some_of_them_had_happened(
        description in description(), events in vec(event(), 2..4), flows in flows(150),
    ) {
        let some_happened: Vec<Tables> = (0..1_usize << events.len())
            .map(|chosen| {
                let mut changed = description.clone();
                let happened = events.iter().enumerate().filter(|(index, _)| chosen >> index & 1 == 1);
                happened.for_each(|(_, event)| changed.happen(event));
                tables(&changed)
            })
            .collect();
        let (before, after) = (&some_happened[0], &some_happened[some_happened.len() - 1]);
        let mut now = before.clone();
        let ops = plan(before, after);
        for (index, op) in ops.iter().enumerate() {
            now.apply(op);
            for flow in flows.iter().take(60) {
                let possible = some_happened.iter().map(|tables| verdicts(tables, flow));
                let possible: Vec<_> = possible.collect();
                for (direction, found) in verdicts(&now, flow).iter().enumerate() {
                    prop_assert!(
                        possible.iter().any(|answer| answer[direction] == *found),
                        "{:?} after write {} of {}, {:?}: {:?}, none of {:?}\n{:#?}",
                        flow,
                        index,
                        ops.len(),
                        op,
                        found,
                        possible,
                        ops
                    );
                }
            }
            let final_from_here = ops[..=index].contains(&MapOp::AdvanceEpoch);
            let is_final = |flow: &Flow| verdicts(&now, flow) == verdicts(after, flow);
            prop_assert!(!final_from_here || flows.iter().all(is_final), "the epoch goes on before all is final");
        }
    }

    #[test]
    fn a_plan_that_was_cut_short_is_taken_up_and_ends_the_same(
        description in description(), first in event(), second in event(), cut in any::<Index>(), flows in flows(60),
    ) {
        let mut now = tables(&description);
        let mut changed = description;
        changed.happen(&first);
        let after = tables(&changed);
        let ops = plan(&now, &after);
        carry_out(&mut now, &ops[..cut.index(ops.len() + 1)]);
        no_third_answer(&now, &after, &flows)?;

        // Whatever comes next: it ends where it must.
        changed.happen(&second);
        let after = tables(&changed);
        let ops = plan(&now, &after);
        carry_out(&mut now, &ops);
        prop_assert_eq!(now, after);
    }

    #[test]
    fn where_nothing_changes_there_is_nothing_to_write(description in description()) {
        let tables = tables(&description);
        prop_assert_eq!(plan(&tables, &tables), vec![]);
    }
}

fn plan_between(before: &str, after: &str) -> Vec<MapOp> {
    let tables = |text: &str| compile(&Cluster::new(text).world("node-0")).tables;
    plan(&tables(before), &tables(after))
}

const CLUSTER: &str = "
    ns a
    pod a/web node-0 10.0.0.1 app=web
    pod a/client node-1 10.0.1.1 app=client
    netpol a/p {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]}]}
";

#[test]
fn a_new_pod_of_a_known_class_is_one_write_and_so_is_its_end() {
    let more = format!("{CLUSTER} pod a/client-2 node-1 10.0.1.2 app=client");
    let ops = plan_between(CLUSTER, &more);
    assert!(matches!(ops[..], [MapOp::PutPeer(..), MapOp::AdvanceEpoch]), "{ops:#?}");
    let ops = plan_between(&more, CLUSTER);
    assert!(matches!(ops[..], [MapOp::RemovePeer(..), MapOp::AdvanceEpoch]), "{ops:#?}");
}

#[test]
fn a_changed_rule_writes_its_rows_switches_by_one_write_and_then_removes() {
    let ops = plan_between(CLUSTER, &CLUSTER.replace("port: 80", "port: 81"));
    use MapOp::{AdvanceEpoch, PutEndpoint, PutRule, RemoveRule};
    assert!(matches!(ops[..], [PutRule(..), PutEndpoint(..), AdvanceEpoch, RemoveRule(..)]), "{ops:#?}");
}

#[test]
fn a_changed_selector_moves_addresses_through_a_class_of_old_and_new() {
    let ops = plan_between(CLUSTER, &CLUSTER.replace("{app: client}}}], ports", "{app: other}}}], ports"));
    use MapOp::{AdvanceEpoch, PutEndpoint, PutPeer, PutRule, RemovePeer, RemoveRule};
    let expected = matches!(
        ops[..],
        [
            PutRule(..),
            PutPeer(..),
            PutEndpoint(..),
            RemovePeer(..),
            AdvanceEpoch,
            RemoveRule(..),
            RemoveRule(..)
        ]
    );
    assert!(expected, "{ops:#?}");
}

#[test]
fn where_nobody_has_the_new_class_yet_the_old_rule_set_is_lent_rows_for_it() {
    // What `q` asks for makes it a class of its own that the client has afterwards.
    let before = format!(
        "{} pod a/db node-0 10.0.0.2 app=db
         netpol a/q {{podSelector: {{matchLabels: {{app: db}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{tier: x}}}}}}]}}]}}",
        CLUSTER.replace("app=client", "app=client tier=x")
    );
    let ops = plan_between(&before, &before.replace("{app: client}}}], ports", "{app: other}}}], ports"));
    let count = |of: fn(&MapOp) -> bool| ops.iter().filter(|op| of(op)).count();
    assert_eq!(count(|op| matches!(op, MapOp::PutPeer(..))), 1, "{ops:#?}");
    assert_eq!(count(|op| matches!(op, MapOp::PutEndpoint(..))), 1, "{ops:#?}");
    // Lent: one. Of `q`, for the new class: one for each protocol, and those of ports that no rule names.
    let (put, removed) =
        (count(|op| matches!(op, MapOp::PutRule(..))), count(|op| matches!(op, MapOp::RemoveRule(..))));
    assert_eq!((put, removed), (1 + 4, 1 + 1 + 4), "{ops:#?}");
}

#[test]
fn services_find_their_backends_there_and_leave_them_before_they_go() {
    let service = |backend: &str| {
        format!(
            "yaml
             apiVersion: v1
             kind: Service
             metadata: {{name: s, namespace: a}}
             spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}
             ---
             apiVersion: discovery.k8s.io/v1
             kind: EndpointSlice
             metadata: {{name: s-1, namespace: a, labels: {{kubernetes.io/service-name: s}}}}
             addressType: IPv4
             endpoints: [{{addresses: [{backend}]}}]
             ports: [{{port: 8080}}]"
        )
    };
    let ops = plan_between(&service("10.0.0.1"), &service("10.0.0.2"));
    assert!(
        matches!(ops[..], [MapOp::PutBackend(..), MapOp::PutService(..), MapOp::RemoveBackend(..)]),
        "{ops:#?}"
    );
}

#[test]
fn live_connections_look_again_when_an_endpoint_goes_or_gets_another_interface() {
    let before = compile(&Cluster::new(CLUSTER).world("node-0")).tables;
    let mut gone = before.clone();
    gone.endpoints.clear();
    let mut moved = before.clone();
    moved.endpoints.values_mut().for_each(|row| row.ifindex += 1);
    for after in [&gone, &moved] {
        assert!(plan(&before, after).contains(&MapOp::AdvanceEpoch));
    }
}
