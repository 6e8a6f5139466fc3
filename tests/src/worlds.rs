//! Random small clusters, the same ones for the same seed: two pods of the test's node, some of others, a few policies with
//! every field there is. Small, so that things meet: few names and labels, addresses at the edges of the blocks, ports at
//! the edges of the ranges; and a slip now and then (an unknown operator, a block outside its block, a range upside down).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::net::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};
use ipnet::IpNet;
use policy::Flow;
use serde_json::{Value, json};

pub use crate::dice::Dice;
use crate::node::{A, B, FAMILIES, NODE, OTHER_NODE, Party, STRANGER};
use crate::scene::{Scene, key};

const fn party(v4: [u8; 4], v6: [u16; 8]) -> Party {
    let [a, b, c, d] = v4;
    let [s, t, u, v, w, x, y, z] = v6;
    Party { v4: Ipv4Addr::new(a, b, c, d), v6: Ipv6Addr::new(s, t, u, v, w, x, y, z) }
}

/// Another pod of the other node.
pub const REMOTE_TOO: Party = party([10, 244, 1, 10], [0xfd00, 0x244, 0, 1, 0, 0, 0, 0xa]);

/// Where pods of other nodes may be: first and last of the blocks below, and just outside of them.
const PLACES: [Party; 8] = [
    party([10, 244, 1, 0], [0xfd00, 0x244, 0, 1, 0, 0, 0, 0]),
    party([10, 244, 1, 7], [0xfd00, 0x244, 0, 1, 0, 0, 0, 7]),
    party([10, 244, 1, 8], [0xfd00, 0x244, 0, 1, 0, 0, 0, 8]),
    party([10, 244, 1, 9], [0xfd00, 0x244, 0, 1, 0, 0, 0, 9]),
    party([10, 244, 1, 15], [0xfd00, 0x244, 0, 1, 0, 0, 0, 0xf]),
    party([10, 244, 1, 255], [0xfd00, 0x244, 0, 1, 0xffff, 0xffff, 0xffff, 0xffff]),
    party([10, 244, 2, 0], [0xfd00, 0x244, 0, 2, 0, 0, 0, 0]),
    party([10, 245, 0, 0], [0xfd00, 0x245, 0, 0, 0, 0, 0, 0]),
];
/// Who is nobody's pod.
const OTHERS: [Party; 5] = [
    NODE,
    OTHER_NODE,
    STRANGER,
    party([127, 255, 255, 255], [0x7fff, 0xffff, 0, 0, 0, 0, 0, 1]),
    party([128, 0, 0, 0], [0x8000, 0, 0, 0, 0, 0, 0, 0]),
];
const NAMESPACES: [&str; 3] = ["one", "two", "undeclared"];
const PORTS: [u16; 11] = [1, 79, 80, 81, 1023, 1024, 8080, 32767, 32768, 65534, 65535];
const FLOW_PORTS: [u16; 13] = [0, 1, 53, 79, 80, 81, 1023, 1024, 8080, 32767, 32768, 65534, 65535];
const PORT_NAMES: [&str; 3] = ["http", "dns", "nobody"];
const BLOCKS: [&str; 20] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "10.244.0.0/16",
    "10.244.1.0/24",
    "10.244.1.8/29",
    "10.244.1.8/31",
    "10.244.1.9/32",
    "10.244.0.2/32",
    "172.30.0.0/24",
    "172.30.0.11/32",
    "198.51.100.0/24",
    "::/0",
    "fd00::/8",
    "fd00:244::/32",
    "fd00:244:0:1::/64",
    "fd00:244:0:1::8/125",
    "fd00:244::3/128",
    "fd00:30::/64",
    "2001:db8::7/128",
];

/// A cluster out of nothing.
pub fn scene(dice: &mut Dice) -> Scene {
    let mut scene = Scene { homes: [dice.pick(&NAMESPACES), dice.pick(&NAMESPACES)], objects: Vec::new() };
    for name in &NAMESPACES[..2] {
        scene.objects.push(namespace(dice, name));
    }
    for pod in ["a", "b"] {
        // Now and then the API has not shown a pod that runs.
        if !dice.happens(3) {
            scene.objects.push(pod_of(dice, pod, &scene.homes));
        }
    }
    for name in REMOTE_PODS {
        if dice.happens(60) {
            scene.objects.push(pod_of(dice, name, &scene.homes));
        }
    }
    for _ in 0..dice.below(6) {
        let policy = some_policy(dice);
        scene.put(policy);
    }
    scene
}

const REMOTE_PODS: [&str; 5] = ["r0", "r1", "r2", "r3", "r4"];

/// One thing happens.
pub fn happen(dice: &mut Dice, scene: &mut Scene) {
    match dice.below(6) {
        0 => {
            let name = dice.pick(&NAMESPACES[..2]);
            scene.put(namespace(dice, name));
        }
        1 => {
            let name = dice.pick(&["a", "b"]);
            let pod = pod_of(dice, name, &scene.homes);
            scene.put(pod);
        }
        2 => {
            let name = dice.pick(&REMOTE_PODS);
            let homes = scene.homes;
            scene.objects.retain(|object| !(object["kind"] == "Pod" && object["metadata"]["name"] == name));
            if dice.happens(70) {
                let pod = pod_of(dice, name, &homes);
                scene.put(pod);
            }
        }
        3 => {
            let policies: Vec<_> =
                scene.objects.iter().filter(|object| object["kind"] == "NetworkPolicy").map(key).collect();
            if !policies.is_empty() {
                let gone = &policies[dice.below(policies.len())];
                scene.objects.retain(|object| key(object) != *gone);
            }
        }
        _ => {
            let policy = some_policy(dice);
            scene.put(policy);
        }
    }
}

fn namespace(dice: &mut Dice, name: &str) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    if dice.happens(80) {
        object["metadata"]["labels"] = labels(dice);
    }
    object
}

fn labels(dice: &mut Dice) -> Value {
    let mut labels = json!({});
    for (key, values) in [("app", ["x", "y"]), ("tier", ["p", "q"])] {
        if dice.happens(75) {
            labels[key] = json!(dice.pick(&values));
        }
    }
    labels
}

/// `a` and `b` are this node's, in their homes; the others are of the other node.
fn pod_of(dice: &mut Dice, name: &str, homes: &[&str; 2]) -> Value {
    let (namespace, place, node) = match name {
        "a" => (homes[0], A, "node-0"),
        "b" => (homes[1], B, "node-0"),
        _ => (dice.pick(&NAMESPACES), dice.pick(&PLACES), "node-1"),
    };
    let remote = node == "node-1";
    let mut ports = Vec::new();
    for _ in 0..dice.below(4) {
        ports.push(json!({
            "name": dice.pick(&PORT_NAMES[..2]),
            "containerPort": dice.pick(&PORTS),
            "protocol": dice.pick(&["TCP", "UDP", "SCTP"]),
        }));
    }
    let host_network = remote && dice.happens(10);
    let place = if host_network { OTHER_NODE } else { place };
    let phase = if remote && dice.happens(10) { dice.pick(&["Succeeded", "Failed"]) } else { "Running" };
    let mut spec = json!({"nodeName": node, "containers": [{"name": "c", "ports": ports}]});
    if host_network {
        spec["hostNetwork"] = json!(true);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels(dice)},
        "spec": spec,
        "status": {"phase": phase, "podIP": place.v4, "podIPs": [{"ip": place.v4}, {"ip": place.v6}]},
    })
}

fn some_policy(dice: &mut Dice) -> Value {
    let (name, namespace) = (format!("p{}", dice.below(6)), dice.pick(&NAMESPACES));
    policy_of(dice, &name, namespace)
}

/// One of namespace `one` or `two`, as JSON.
pub fn policy(dice: &mut Dice, number: usize) -> String {
    let namespace = dice.pick(&NAMESPACES[..2]);
    policy_of(dice, &format!("p{number}"), namespace).to_string()
}

fn policy_of(dice: &mut Dice, name: &str, namespace: &str) -> Value {
    let mut spec = json!({"podSelector": selector(dice)});
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        if dice.happens(70) {
            spec[direction] = some(dice, 3, |dice| rule(dice, peers));
        }
    }
    match dice.below(5) {
        0 => {}
        1 => spec["policyTypes"] = json!(["Ingress"]),
        2 => spec["policyTypes"] = json!(["Egress"]),
        _ => spec["policyTypes"] = json!(["Ingress", "Egress"]),
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

/// A list, now and then of nothing.
fn some(dice: &mut Dice, most: usize, mut thing: impl FnMut(&mut Dice) -> Value) -> Value {
    let count = if dice.happens(12) { 0 } else { 1 + dice.below(most) };
    (0..count).map(|_| thing(dice)).collect()
}

fn rule(dice: &mut Dice, peers: &str) -> Value {
    let mut rule = json!({});
    if dice.happens(80) {
        rule[peers] = some(dice, 3, peer);
    }
    if dice.happens(75) {
        rule["ports"] = some(dice, 3, port);
    }
    rule
}

fn peer(dice: &mut Dice) -> Value {
    match dice.below(5) {
        0 => json!({"podSelector": selector(dice)}),
        1 => json!({"namespaceSelector": selector(dice)}),
        2 => json!({"namespaceSelector": selector(dice), "podSelector": selector(dice)}),
        _ => json!({"ipBlock": block(dice)}),
    }
}

fn block(dice: &mut Dice) -> Value {
    let cidr = dice.pick(&BLOCKS);
    let inside = |inner: &str| {
        let [outer, inner]: [IpNet; 2] =
            [cidr, inner].map(|text| text.parse().expect("the blocks are blocks"));
        outer != inner && outer.contains(&inner)
    };
    let careless = dice.happens(3);
    let candidates: Vec<&str> = BLOCKS.into_iter().filter(|inner| careless || inside(inner)).collect();
    let mut block = json!({"cidr": cidr});
    if !candidates.is_empty() && dice.happens(60) {
        let count = 1 + dice.below(2);
        block["except"] = (0..count).map(|_| json!(dice.pick(&candidates))).collect();
    }
    block
}

fn port(dice: &mut Dice) -> Value {
    let mut port = json!({});
    if dice.happens(85) {
        port["protocol"] = json!(dice.pick(&["TCP", "TCP", "UDP", "SCTP"]));
    }
    match dice.below(8) {
        0 => {}
        1 | 2 => port["port"] = json!(dice.pick(&PORT_NAMES)),
        3 | 4 => {
            let (one, other) = (dice.pick(&PORTS), dice.pick(&PORTS));
            let upside_down = dice.happens(4);
            let (first, last) =
                if upside_down { (one.max(other), one.min(other)) } else { (one.min(other), one.max(other)) };
            port["port"] = json!(first);
            port["endPort"] = json!(last);
        }
        _ => port["port"] = json!(dice.pick(&PORTS)),
    }
    port
}

fn selector(dice: &mut Dice) -> Value {
    let mut selector = json!({});
    if dice.happens(45) {
        selector["matchLabels"] = labels(dice);
    }
    if dice.happens(35) {
        selector["matchExpressions"] = some(dice, 2, expression);
    }
    selector
}

fn expression(dice: &mut Dice) -> Value {
    let key = dice.pick(&["app", "tier", "kubernetes.io/metadata.name"]);
    let operator =
        if dice.happens(3) { "Like" } else { dice.pick(&["In", "NotIn", "Exists", "DoesNotExist"]) };
    let mut expression = json!({"key": key, "operator": operator});
    if operator.ends_with("In") {
        let values: Vec<&str> = ["x", "p", "one"].into_iter().filter(|_| dice.happens(60)).collect();
        expression["values"] = json!(if values.is_empty() { vec!["y"] } else { values });
    }
    expression
}

/// A connection with at least one end on this node.
pub fn flow(dice: &mut Dice) -> Flow {
    let family = dice.pick(&FAMILIES);
    let local = dice.pick(&[A, B]);
    let other = match dice.below(10) {
        0..=2 => dice.pick(&[A, B]),
        3..=7 => dice.pick(&PLACES),
        _ => dice.pick(&OTHERS),
    };
    let ends: [IpAddr; 2] = [local.on(family), other.on(family)];
    let [source, destination] = if dice.happens(50) { ends } else { [ends[1], ends[0]] };
    let icmp = if source.is_ipv4() { ICMP } else { ICMPV6 };
    let protocol = dice.pick(&[TCP, TCP, UDP, SCTP, icmp]);
    let destination_port = if protocol == icmp { 0 } else { dice.pick(&FLOW_PORTS) };
    Flow { source, destination, destination_port, protocol }
}
