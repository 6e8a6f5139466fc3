//! Random small clusters, the same ones for the same seed: two pods of the test's node, some of others, a few policies with
//! every field there is. Small, so that things meet: few names and labels, addresses at the edges of the blocks, ports at
//! the edges of the ranges; and a slip now and then (an unknown operator, a block outside its block, a range upside down).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Value, json};

pub use crate::dice::Dice;
pub use crate::flows::{flow, flows};
use crate::node::{A, B, FAMILIES, NODE, OTHER_NODE, Party, STRANGER};
use crate::scene::{Scene, attachment, key};

const fn party(v4: [u8; 4], v6: [u16; 8]) -> Party {
    let [a, b, c, d] = v4;
    let [s, t, u, v, w, x, y, z] = v6;
    Party { v4: Ipv4Addr::new(a, b, c, d), v6: Ipv6Addr::new(s, t, u, v, w, x, y, z) }
}

/// Another pod of the other node.
pub const REMOTE_TOO: Party = party([10, 244, 1, 10], [0xfd00, 0x244, 0, 1, 0, 0, 0, 0xa]);

/// Where pods of other nodes may be: first and last of the blocks below, and just outside of them.
pub(crate) const PLACES: [Party; 8] = [
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
pub(crate) const OTHERS: [Party; 5] = [
    NODE,
    OTHER_NODE,
    STRANGER,
    party([127, 255, 255, 255], [0x7fff, 0xffff, 0, 0, 0, 0, 0, 1]),
    party([128, 0, 0, 0], [0x8000, 0, 0, 0, 0, 0, 0, 0]),
];
const NAMESPACES: [&str; 3] = ["one", "two", "undeclared"];
const PORTS: [u16; 11] = [1, 79, 80, 81, 1023, 1024, 8080, 32767, 32768, 65534, 65535];
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

/// The node's own: what is wired under which name, and where.
pub(crate) const WIRED: [(&str, Party); 4] = [
    ("a", A),
    ("b", B),
    ("a-2", party([10, 244, 0, 127], [0xfd00, 0x244, 0, 0, 0x7fff, 0xffff, 0xffff, 0xffff])),
    ("b-2", party([10, 244, 0, 128], [0xfd00, 0x244, 0, 0, 0x8000, 0, 0, 0])),
];
const REMOTE_PODS: [&str; 6] = ["r0", "r1", "r2", "r3", "r4", "host"];

/// A cluster out of nothing.
pub fn scene(dice: &mut Dice) -> Scene {
    let mut scene = Scene::default();
    for name in &NAMESPACES[..2] {
        scene.put(namespace(dice, name));
    }
    for (name, place) in WIRED {
        if dice.happens(80) {
            arrive(dice, &mut scene, name, place);
        }
    }
    for name in REMOTE_PODS {
        if dice.happens(60) {
            let pod = remote_pod(dice, name);
            scene.put(pod);
        }
    }
    for _ in 0..dice.below(6) {
        let policy = some_policy(dice);
        scene.put(policy);
    }
    scene
}

/// One thing happens.
pub fn happen(dice: &mut Dice, scene: &mut Scene) {
    match dice.below(20) {
        0..2 => {
            let name = dice.pick(&NAMESPACES[..2]);
            if dice.happens(85) {
                scene.put(namespace(dice, name));
            } else {
                scene.remove(|object| object["kind"] == "Namespace" && object["metadata"]["name"] == name);
            }
        }
        2..4 => {
            let pods: Vec<Value> = scene.of_kind("Pod").cloned().collect();
            if let Some(mut pod) = some_of(dice, &pods) {
                pod["metadata"]["labels"] = labels(dice);
                scene.put(pod);
            }
        }
        4..6 => {
            let (name, place) = dice.pick(&WIRED);
            leave(dice, scene, name);
            if dice.happens(75) {
                arrive(dice, scene, name, place);
            }
        }
        6..9 => {
            let name = dice.pick(&REMOTE_PODS);
            scene.remove(|object| object["kind"] == "Pod" && object["metadata"]["name"] == name);
            if dice.happens(75) {
                let pod = remote_pod(dice, name);
                scene.put(pod);
            }
        }
        9 => {
            // Gone from the API, and still running; or the other way round.
            let all: Vec<Value> = scene.of_kind("Pod").chain(scene.of_kind("Attachment")).cloned().collect();
            if let Some(gone) = some_of(dice, &all) {
                scene.remove(|object| key(object) == key(&gone));
            }
        }
        10..13 => {
            let policies: Vec<Value> = scene.of_kind("NetworkPolicy").cloned().collect();
            if let Some(gone) = some_of(dice, &policies) {
                scene.remove(|object| key(object) == key(&gone));
            }
        }
        _ => {
            let policy = some_policy(dice);
            scene.put(policy);
        }
    }
}

fn some_of(dice: &mut Dice, objects: &[Value]) -> Option<Value> {
    (!objects.is_empty()).then(|| objects[dice.below(objects.len())].clone())
}

/// A pod is wired here. Mostly the API shows it, and as the same one.
fn arrive(dice: &mut Dice, scene: &mut Scene, name: &str, place: Party) {
    let (namespace, uid) = (dice.pick(&NAMESPACES), uid(dice, name));
    let mut ips: Vec<IpAddr> = FAMILIES.map(|family| place.on(family)).to_vec();
    match dice.below(20) {
        0 => drop(ips.pop()),
        1 => drop(ips.remove(0)),
        // One that somebody else has, or should have.
        2 => ips.push(dice.pick(&WIRED).1.v4.into()),
        _ => {}
    }
    if !dice.happens(5) {
        let mut pod = pod(dice, name, namespace, "node-0", &ips);
        pod["metadata"]["uid"] = json!(uid);
        scene.put(pod);
    }
    let reference = match dice.below(20) {
        0 => Value::Null,
        1 => json!({"namespace": namespace, "name": name, "uid": "another"}),
        2 => json!({"namespace": namespace, "name": name}),
        _ => json!({"namespace": namespace, "name": name, "uid": uid}),
    };
    if !dice.happens(5) {
        scene.put(attachment(name, reference, &ips));
    }
}

fn leave(dice: &mut Dice, scene: &mut Scene, name: &str) {
    scene.remove(|object| object["kind"] == "Pod" && object["metadata"]["name"] == name);
    // A new container of the same name is wired in place of the old one, or after it.
    if dice.happens(70) {
        scene.remove(|object| object["kind"] == "Attachment" && object["metadata"]["name"] == name);
    }
}

fn uid(dice: &mut Dice, name: &str) -> String {
    format!("{name}-{}", dice.below(3))
}

fn remote_pod(dice: &mut Dice, name: &str) -> Value {
    let (namespace, mut place) = (dice.pick(&NAMESPACES), dice.pick(&PLACES));
    let mut node = "node-1";
    if name == "host" {
        (node, place) = dice.pick(&[("node-0", NODE), ("node-1", OTHER_NODE)]);
    }
    let mut pod = pod(dice, name, namespace, node, &FAMILIES.map(|family| place.on(family)));
    if name == "host" {
        pod["spec"]["hostNetwork"] = json!(true);
    } else if dice.happens(12) {
        pod["status"]["phase"] = json!(dice.pick(&["Succeeded", "Failed", "Pending"]));
    }
    pod
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

fn pod(dice: &mut Dice, name: &str, namespace: &str, node: &str, ips: &[IpAddr]) -> Value {
    let mut ports = Vec::new();
    for _ in 0..dice.below(4) {
        ports.push(json!({
            "name": dice.pick(&PORT_NAMES[..2]),
            "containerPort": number(dice),
            "protocol": dice.pick(&["TCP", "UDP", "SCTP"]),
        }));
    }
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": uid(dice, name), "labels": labels(dice)},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIPs": ips.iter().map(|ip| json!({"ip": ip})).collect::<Value>()},
    });
    // Who is younger has an address that two have.
    if dice.happens(30) {
        pod["metadata"]["creationTimestamp"] = json!(format!("2026-01-0{}T00:00:00Z", 1 + dice.below(3)));
    }
    pod
}

fn some_policy(dice: &mut Dice) -> Value {
    let (name, namespace) = (format!("p{}", dice.below(6)), dice.pick(&NAMESPACES));
    let mut policy = policy_of(dice, &name, namespace);
    if dice.happens(10) {
        policy["metadata"]["annotations"] = json!({"weir.dev/established": "keep"});
    }
    policy
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
    if dice.happens(25) {
        return any_block(dice);
    }
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

/// A block of any length around an address, not always written by its first, and perhaps a smaller one cut out of it.
fn any_block(dice: &mut Dice) -> Value {
    let place = if dice.happens(70) { dice.pick(&PLACES) } else { dice.pick(&WIRED).1 };
    let ip = place.on(dice.pick(&FAMILIES));
    let width = if ip.is_ipv4() { 32 } else { 128 };
    let bits = dice.below(width + 1);
    let block =
        |bits: usize| IpNet::new(ip, u8::try_from(bits).expect("at most 128")).expect("at most the width");
    let outer = if dice.happens(80) { block(bits).trunc() } else { block(bits) };
    let inner = bits + 1 + dice.below(8);
    if inner <= width && dice.happens(50) {
        json!({"cidr": outer, "except": [block(inner).trunc()]})
    } else {
        json!({"cidr": outer})
    }
}

/// Of a port.
fn number(dice: &mut Dice) -> u16 {
    if dice.happens(85) { dice.pick(&PORTS) } else { 1 + dice.below(65535) as u16 }
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
            let (one, other) = (number(dice), number(dice));
            let upside_down = dice.happens(4);
            let (first, last) =
                if upside_down { (one.max(other), one.min(other)) } else { (one.min(other), one.max(other)) };
            port["port"] = json!(first);
            port["endPort"] = json!(last);
        }
        _ => port["port"] = json!(number(dice)),
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
