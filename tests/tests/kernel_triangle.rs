//! The specification, the tables, the kernel and the compiler that remembers give one answer. Small here, and the same each
//! time; `cargo xtask prove` goes on for as long as it is told to.

use common::rules::RuleRow;
use common::verdict::Direction;
use policy::tables::MapOp;
use serde_json::json;
use tests::dice::Dice;
use tests::judges::Judges;
use tests::node::{A, B};
use tests::prove::{prove, smallest};
use tests::scene::Scene;
use tests::worlds;

const SCENES: usize = 80;
const FLOWS: usize = 50;

#[test]
fn the_kernel_answers_as_the_tables_and_the_specification_do() {
    let mut judges = Judges::new();
    let mut dice = Dice(7);
    let mut allowed = 0;
    let mut scene = worlds::scene(&mut dice);
    for number in 0..SCENES {
        judges.turn_to(&scene).unwrap_or_else(|dissent| panic!("{dissent}\n{}", scene.yaml()));
        let flows: Vec<_> = (0..FLOWS).map(|_| worlds::flow(&mut dice)).collect();
        allowed += judges.ask(&flows).unwrap_or_else(|dissent| panic!("{dissent}\n{}", scene.yaml()));
        if number % 8 == 7 {
            scene = worlds::scene(&mut dice);
        } else {
            worlds::happen(&mut dice, &mut scene);
        }
    }
    // The worlds are worth looking at.
    let denied = SCENES * FLOWS - allowed;
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
    let mut dice = Dice(11);
    let mut scene = Scene { homes: ["one", "two"], objects: worlds::scene(&mut dice).objects };
    scene.objects.retain(|object| object["kind"] != "Pod" && object["kind"] != "NetworkPolicy");
    for (name, namespace, party) in [("a", "one", A), ("b", "two", B)] {
        scene.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": {"app": "x"}},
            "spec": {"nodeName": "node-0", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": party.v4}, {"ip": party.v6}]},
        }));
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
    assert_eq!(judges.ask(&[flow]).unwrap(), 1);
    spoil(&mut judges);
    let dissent = judges.ask(&[flow]).unwrap_err();
    assert!(dissent.to_string().contains("kernel: Drop"), "{dissent}");
    let (smallest, dissent) = smallest(&mut judges, &scene, &dissent, spoil).unwrap();
    assert_eq!(dissent.flow, Some(flow));
    // The two ends (who is not known to the API may not speak), and a policy that says no more than it must.
    let kinds: Vec<_> = smallest.objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Pod", "Pod", "NetworkPolicy"], "{}", smallest.yaml());
    let rules = &smallest.objects[2]["spec"][Direction::Ingress.as_str()];
    assert_eq!(rules, &json!([{"ports": [{"port": 80}]}]), "{}", smallest.yaml());
}

#[test]
fn a_proof_counts_what_it_judged() {
    let tally = prove(1, std::time::Duration::from_secs(1), 2, |_| {}).unwrap();
    assert!(tally.pairs >= 1000 && tally.worlds * 100 == tally.pairs, "{tally:?}");
    assert!(tally.allowed > 0 && tally.allowed < tally.pairs, "{tally:?}");
}
