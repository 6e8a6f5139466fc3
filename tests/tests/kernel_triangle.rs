//! The specification, the tables, the kernel and the compiler that remembers give one answer. Small here, and the same each
//! time; `cargo xtask prove` goes on for as long as it is told to.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::rules::RuleRow;
use common::verdict::Direction;
use policy::tables::MapOp;
use serde_json::json;
use tests::dice::Dice;
use tests::judges::{Agreed, Judges};
use tests::node::{A, B, FAMILIES};
use tests::prove::{prove, smallest};
use tests::scene::{Scene, attachment};
use tests::worlds;

const SCENES: usize = 80;
const FLOWS: usize = 50;

#[test]
fn the_kernel_answers_as_the_tables_and_the_specification_do() {
    let mut judges = Judges::new();
    let mut dice = Dice(7);
    let (mut judged, mut allowed) = (0, 0);
    let mut scene = worlds::scene(&mut dice);
    for number in 0..SCENES {
        let turned = judges.turn_to(&scene).unwrap_or_else(|dissent| panic!("{dissent}\n{}", scene.yaml()));
        assert!(turned, "objects that are none:\n{}", scene.yaml());
        let flows = worlds::flows(&mut dice, &scene, FLOWS);
        let agreed = judges.ask(&flows).unwrap_or_else(|dissent| panic!("{dissent}\n{}", scene.yaml()));
        (judged, allowed) = (judged + agreed.flows, allowed + agreed.allowed);
        if number % 8 == 7 {
            scene = worlds::scene(&mut dice);
        } else {
            worlds::happen(&mut dice, &mut scene);
        }
    }
    // The worlds are worth looking at.
    let denied = judged - allowed;
    assert!(allowed > 500 && denied > 500, "{allowed} allowed, {denied} denied");
}

/// Somebody turns every verdict for port 80 around.
fn spoil(judges: &mut Judges) {
    let rules = judges.node().dataplane.tables().rules.clone();
    let of_port_80 = rules.into_iter().filter(|(prefix, _)| prefix.key.port.to_host() == 80);
    let turned =
        of_port_80.map(|(prefix, row)| MapOp::PutRule(prefix, RuleRow { action: 1 - row.action, ..row }));
    let turned: Vec<_> = turned.collect();
    judges.node().apply(turned);
}

#[test]
fn a_kernel_that_is_wrong_is_found_and_shown_in_the_smallest_world() {
    let mut scene = Scene::default();
    for (name, namespace, party) in [("a", "one", A), ("b", "two", B)] {
        scene.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": {"app": "x"}},
            "spec": {"nodeName": "node-0", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": party.v4}, {"ip": party.v6}]},
        }));
        let ips = FAMILIES.map(|family| party.on(family));
        scene.put(attachment(name, json!({"namespace": namespace, "name": name, "uid": name}), &ips));
    }
    scene.put(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "two"},
        "spec": {"podSelector": {"matchLabels": {"app": "x"}}, "ingress": [
            {"from": [{"namespaceSelector": {}}, {"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 80}, {"port": 81}]},
        ]},
    }));
    let mut judges = Judges::new();
    judges.turn_to(&scene).unwrap();
    let flow = policy::Flow {
        source: A.v4.into(),
        destination: B.v4.into(),
        destination_port: 80,
        protocol: common::net::protocol::TCP,
    };
    assert_eq!(judges.ask(&[flow]).unwrap(), Agreed { flows: 1, allowed: 1 });
    spoil(&mut judges);
    let dissent = judges.ask(&[flow]).unwrap_err();
    assert!(dissent.to_string().contains("kernel: Drop, policy_denied"), "{dissent}");
    let (smallest, dissent) = smallest(&mut judges, &scene, &dissent, spoil).unwrap();
    assert_eq!(dissent.flow, Some(flow));
    // The one that is reached and what is wired of it, and a policy that says no more than it must.
    let kinds: Vec<_> = smallest.objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Pod", "Attachment", "NetworkPolicy"], "{}", smallest.yaml());
    let rules = &smallest.objects[2]["spec"][Direction::Ingress.as_str()];
    assert_eq!(rules, &json!([{"ports": [{"port": 80}]}]), "{}", smallest.yaml());
}

#[test]
fn a_proof_that_is_called_off_ends_with_the_series_at_hand() {
    let tally = prove(1, Duration::from_secs(3600), 2, &AtomicBool::new(true), |_| {}).unwrap();
    assert!(tally.pairs > 0, "{tally:?}");
}

#[test]
fn a_proof_counts_what_it_judged() {
    let tally = prove(1, Duration::from_secs(1), 2, &AtomicBool::new(false), |_| {}).unwrap();
    assert!(tally.pairs >= 1000 && tally.worlds * 100 > tally.pairs, "{tally:?}");
    assert!(tally.allowed > 0 && tally.allowed < tally.pairs, "{tally:?}");
}
