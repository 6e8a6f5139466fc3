//! Random small clusters, the same ones each time: two pods of this node, two of another, a few policies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::net::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};
use policy::{Attachment, Flow, PodRef, World, manifest};

use crate::node::{A, B, FAMILIES, Node, OTHER_NODE, Party, REMOTE, STRANGER};

/// Another pod of the other node.
pub const REMOTE_TOO: Party =
    Party { v4: Ipv4Addr::new(10, 244, 1, 10), v6: Ipv6Addr::new(0xfd00, 0x244, 0, 1, 0, 0, 0, 0xa) };

const PODS: [(&str, Party); 4] = [("a", A), ("b", B), ("remote", REMOTE), ("remote-too", REMOTE_TOO)];
const NAMESPACES: [&str; 2] = ["one", "two"];
const PORTS: [u16; 6] = [0, 79, 80, 81, 1024, 65535];
const BLOCKS: [(&str, &str); 6] = [
    ("0.0.0.0/0", "10.244.0.0/16"),
    ("10.244.0.0/16", "10.244.1.9/32"),
    ("10.244.1.8/31", ""),
    ("::/0", "fd00:244::/32"),
    ("fd00:244:0:1::/64", "fd00:244:0:1::8/125"),
    ("172.30.0.0/24", ""),
];

/// Numbers that look random (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// True so many times of a hundred.
    pub fn happens(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Mostly some, up to `most` things, as the members of a JSON list.
    fn list(&mut self, most: usize, mut thing: impl FnMut(&mut Self) -> String) -> String {
        let count = if self.happens(15) { 0 } else { 1 + self.below(most) };
        let things: Vec<String> = (0..count).map(|_| thing(self)).collect();
        format!("[{}]", things.join(","))
    }
}

/// A cluster as the test's node sees it.
pub fn world(dice: &mut Dice, node: &Node) -> World {
    let mut world = World::new("node-0");
    let mut objects = Vec::new();
    for name in NAMESPACES {
        let labels = labels(dice);
        objects.push(format!(
            r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}","labels":{labels}}}}}"#
        ));
    }
    for (name, party) in PODS {
        let (namespace, labels, port) = (dice.pick(&NAMESPACES), labels(dice), dice.pick(&PORTS[1..]));
        let here = party == A || party == B;
        objects.push(format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"{namespace}","uid":"{name}",
            "labels":{labels}}},"spec":{{"nodeName":"node-{}","containers":[{{"name":"c",
            "ports":[{{"name":"http","containerPort":{port},"protocol":"TCP"}}]}}]}},
            "status":{{"phase":"Running","podIP":"{}","podIPs":[{{"ip":"{}"}},{{"ip":"{}"}}]}}}}"#,
            u8::from(!here),
            party.v4,
            party.v4,
            party.v6,
        ));
        if here {
            world.attach(Attachment {
                container_id: name.to_owned(),
                ifname: "eth0".to_owned(),
                pod: Some(PodRef {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    uid: Some(name.to_owned()),
                }),
                ifindex: node.ifindex(party),
                ips: FAMILIES.map(|family| party.on(family)).to_vec(),
            });
        }
    }
    for number in 0..1 + dice.below(5) {
        objects.push(policy(dice, number));
    }
    for document in manifest::documents("worlds", &objects.join("\n---\n")).expect("JSON is YAML") {
        let (object, warnings) =
            manifest::object(&document).expect("a valid object").expect("of a known kind");
        world.apply(object, &warnings);
    }
    world
}

fn labels(dice: &mut Dice) -> String {
    format!(r#"{{"app":"{}","tier":"{}"}}"#, dice.pick(&["x", "y"]), dice.pick(&["p", "q"]))
}

fn selector(dice: &mut Dice) -> String {
    match dice.below(4) {
        0 => "{}".to_owned(),
        1 => format!(r#"{{"matchLabels":{{"app":"{}"}}}}"#, dice.pick(&["x", "y"])),
        2 => format!(r#"{{"matchLabels":{}}}"#, labels(dice)),
        _ => {
            let operator = dice.pick(&["In", "NotIn"]);
            format!(r#"{{"matchExpressions":[{{"key":"tier","operator":"{operator}","values":["p"]}}]}}"#)
        }
    }
}

/// One of namespace `one` or `two`, whose pods have labels `app: x|y` and `tier: p|q`.
pub fn policy(dice: &mut Dice, number: usize) -> String {
    let (namespace, selected) = (dice.pick(&NAMESPACES), selector(dice));
    let types = dice.pick(&[r#""Ingress""#, r#""Egress""#, r#""Ingress","Egress""#]);
    let ingress = rules(dice, "from");
    let egress = rules(dice, "to");
    format!(
        r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"name":"p{number}",
        "namespace":"{namespace}"}},"spec":{{"podSelector":{selected},"policyTypes":[{types}],
        "ingress":{ingress},"egress":{egress}}}}}"#
    )
}

fn rules(dice: &mut Dice, peers: &str) -> String {
    dice.list(3, |dice| format!(r#"{{"{peers}":{},"ports":{}}}"#, dice.list(2, peer), dice.list(2, port)))
}

fn peer(dice: &mut Dice) -> String {
    match dice.below(4) {
        0 => format!(r#"{{"podSelector":{}}}"#, selector(dice)),
        1 => format!(r#"{{"namespaceSelector":{}}}"#, selector(dice)),
        2 => format!(r#"{{"namespaceSelector":{},"podSelector":{}}}"#, selector(dice), selector(dice)),
        _ => {
            let (cidr, except) = dice.pick(&BLOCKS);
            let except =
                if except.is_empty() || dice.happens(50) { String::new() } else { format!("\"{except}\"") };
            format!(r#"{{"ipBlock":{{"cidr":"{cidr}","except":[{except}]}}}}"#)
        }
    }
}

fn port(dice: &mut Dice) -> String {
    let protocol = dice.pick(&["TCP", "TCP", "UDP", "SCTP"]);
    let first = dice.pick(&PORTS[1..]);
    match dice.below(8) {
        0 => format!(r#"{{"protocol":"{protocol}"}}"#),
        1 => format!(r#"{{"protocol":"{protocol}","port":"http"}}"#),
        2 => format!(
            r#"{{"protocol":"{protocol}","port":{first},"endPort":{}}}"#,
            dice.pick(&PORTS).max(first)
        ),
        _ => format!(r#"{{"protocol":"{protocol}","port":{first}}}"#),
    }
}

/// A connection with at least one end on this node.
pub fn flow(dice: &mut Dice) -> Flow {
    let others = [A, B, REMOTE, REMOTE_TOO, OTHER_NODE, STRANGER];
    let family = dice.pick(&FAMILIES);
    let ends: [IpAddr; 2] = [dice.pick(&[A, B]).on(family), dice.pick(&others).on(family)];
    let [source, destination] = if dice.happens(50) { ends } else { [ends[1], ends[0]] };
    let icmp = if source.is_ipv4() { ICMP } else { ICMPV6 };
    let protocol = dice.pick(&[TCP, TCP, UDP, SCTP, icmp]);
    let destination_port = if protocol == icmp { 0 } else { dice.pick(&PORTS) };
    Flow { source, destination, destination_port, protocol }
}
