//! Where the kernel program's frames come from and go to: two pods of this node, strangers, and a few policies.
//!
//! Each input has pods of its own, with addresses that nobody had before: so nothing that the programs keep in mind
//! (connections, fragments, shortcuts) passes from one input to the next, whatever tables they keep it in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::{Attachment, PodRef, Tables, World, compile, manifest, plan};
use tests::node::{NODE, Node, OTHER_NODE, Party, REMOTE, STRANGER};
use tests::worlds::REMOTE_TOO;

/// So many inputs have the same node: beyond that its tables of connections might fill up.
const INPUTS: u32 = 20_000;

const OBJECTS: &str = r#"
{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"one","labels":{"team":"one"}}}
{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"two","labels":{"team":"two"}}}
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"one","uid":"a","labels":{"app":"a"}},
 "spec":{"nodeName":"node-0","containers":[{"name":"c","ports":[{"name":"http","containerPort":80}]}]}}
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b","namespace":"one","uid":"b","labels":{"app":"b"}},
 "spec":{"nodeName":"node-0","containers":[{"name":"c","ports":[{"name":"http","containerPort":80}]}]}}
"#;

/// Pods of the other node, whose addresses are always the same.
const REMOTES: [(&str, &str, Party); 2] = [("remote", "one", REMOTE), ("remote-too", "two", REMOTE_TOO)];

/// What may hold, one after the other: nothing is isolated; all are, and nobody is let in or out; some are let in, and out;
/// addresses and ports at the edges.
pub const POLICIES: [&[&str]; 4] = [
    &[],
    &[r#"{"podSelector":{},"policyTypes":["Ingress","Egress"]}"#],
    &[
        r#"{"podSelector":{"matchLabels":{"app":"b"}},"ingress":[
            {"from":[{"podSelector":{}}],"ports":[{"port":"http"},{"port":53,"protocol":"UDP"}]},
            {"from":[{"namespaceSelector":{"matchLabels":{"team":"two"}}}],"ports":[{"port":1024,"endPort":2047,"protocol":"SCTP"}]}]}"#,
        r#"{"podSelector":{"matchLabels":{"app":"a"}},"policyTypes":["Egress"],"egress":[
            {"ports":[{"port":53,"protocol":"UDP"}]},
            {"to":[{"podSelector":{"matchLabels":{"app":"b"}}}]}]}"#,
    ],
    &[
        r#"{"podSelector":{"matchLabels":{"app":"a"}},"ingress":[
            {"from":[{"ipBlock":{"cidr":"0.0.0.0/0","except":["10.244.0.0/16"]}},{"ipBlock":{"cidr":"fd00::/8"}}],
             "ports":[{"port":80},{"port":65535}]}]}"#,
        r#"{"podSelector":{"matchLabels":{"app":"b"}},"policyTypes":["Ingress","Egress"],
            "ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"a"}}}]}],
            "egress":[{"to":[{"ipBlock":{"cidr":"198.51.100.0/24"}}]}]}"#,
    ],
];

/// The node and everybody around it.
pub struct Town {
    pub node: Node,
    pub pods: [Party; 2],
    inputs: u32,
    policies: usize,
}

impl Town {
    /// Needs root.
    pub fn new() -> Self {
        let mut town = Self { node: Node::new(), pods: [REMOTE; 2], inputs: 0, policies: 0 };
        town.begin(0);
        town
    }

    /// A new input: other pods, and these policies.
    pub fn begin(&mut self, policies: usize) {
        if self.inputs >= INPUTS {
            *self = Self { node: Node::new(), pods: [REMOTE; 2], inputs: 0, policies };
        }
        let place = |end: u32| {
            let number = self.inputs * 2 + end;
            let [_, high, middle, low] = number.to_be_bytes();
            Party {
                v4: Ipv4Addr::new(10, 128 | high, middle, low),
                v6: Ipv6Addr::from((0xfd00_0128 << 96) | u128::from(number)),
            }
        };
        self.pods = [place(0), place(1)];
        self.inputs += 1;
        self.put_in_force(policies);
    }

    /// Other policies hold from now on.
    pub fn put_in_force(&mut self, policies: usize) {
        self.policies = policies % POLICIES.len();
        let tables = compile(&self.world()).tables;
        let steps = plan(self.node.dataplane.tables(), &tables);
        self.node.apply(steps);
    }

    pub fn tables(&self) -> &Tables {
        self.node.dataplane.tables()
    }

    /// One of the two pods here.
    pub fn pod(&self, number: usize) -> Party {
        self.pods[number % 2]
    }

    /// The interface of a pod here.
    pub fn ifindex(&self, number: usize) -> u32 {
        [self.node.ifindex_a, self.node.ifindex_b][number % 2]
    }

    /// Anybody, the pods first.
    pub fn party(&self, number: usize) -> Party {
        let parties =
            [self.pods[0], self.pods[1], REMOTE, REMOTE_TOO, NODE, OTHER_NODE, STRANGER, LINK_LOCAL];
        parties[number % parties.len()]
    }

    fn world(&self) -> World {
        let mut world = World::new("node-0");
        let mut texts = vec![OBJECTS.to_owned()];
        for (name, namespace, party) in REMOTES {
            texts.push(format!(
                r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"{namespace}"}},
                "spec":{{"nodeName":"node-1","containers":[{{"name":"c"}}]}},
                "status":{{"phase":"Running","podIPs":[{{"ip":"{}"}},{{"ip":"{}"}}]}}}}"#,
                party.v4, party.v6
            ));
        }
        for (number, spec) in POLICIES[self.policies].iter().enumerate() {
            texts.push(format!(
                r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy",
                "metadata":{{"name":"p{number}","namespace":"one"}},"spec":{spec}}}"#
            ));
        }
        for document in manifest::documents("town", &texts.join("\n")).expect("JSON") {
            let (object, warnings) = manifest::object(&document).expect("valid").expect("of a known kind");
            assert!(warnings.is_empty(), "{warnings:?}");
            world.apply(object, &warnings);
        }
        for (name, (number, party)) in ["a", "b"].into_iter().zip(self.pods.iter().enumerate()) {
            world.attach(Attachment {
                container_id: name.to_owned(),
                ifname: "eth0".to_owned(),
                pod: Some(PodRef {
                    namespace: "one".to_owned(),
                    name: name.to_owned(),
                    uid: Some(name.to_owned()),
                }),
                ifindex: self.ifindex(number),
                ips: vec![IpAddr::from(party.v4), IpAddr::from(party.v6)],
            });
        }
        world
    }
}

impl Default for Town {
    fn default() -> Self {
        Self::new()
    }
}

/// What every interface has, and a multicast address's neighbour.
const LINK_LOCAL: Party =
    Party { v4: Ipv4Addr::new(169, 254, 1, 1), v6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1) };
