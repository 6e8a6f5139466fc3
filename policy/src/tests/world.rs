//! A cluster as text, and what its nodes answer.
//!
//! ```text
//! ns shop team=a                                    labels
//! node node-0 172.30.0.10
//! pod shop/web node-0 10.244.0.5,fd00::5 app=web http:8080/TCP
//!     options: hostNetwork, Succeeded, uid:U, mirror:U
//! netpol shop/quiet {podSelector: {}}               the spec as YAML; what is indented belongs to it
//! yaml                                              everything to the end of the text, as in a file
//! ```
//! Pods of a node that is judged are attached there; of other nodes, it knows what the API says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::id::RuleSetId;
use common::net::protocol;
use serde_json::{Value, json};

use crate::compile::{Compiled, compile};
use crate::lookup::{Flow, Judgement};
use crate::manifest;
use crate::object::Object;
use crate::oracle::{self, Opinion};
use crate::warning::Warning;
use crate::world::{Attachment, PodRef, World};

const KEYWORDS: [&str; 5] = ["ns", "node", "pod", "netpol", "yaml"];

/// Every node's world and what it compiles to.
#[derive(Default)]
pub(crate) struct Cluster {
    pub objects: Vec<(Object, Vec<Warning>)>,
    pub attachments: Vec<(String, Attachment)>,
    addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl Cluster {
    pub(crate) fn new(text: &str) -> Self {
        let mut cluster = Self::default();
        let mut statements: Vec<String> = Vec::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let word = line.split_whitespace().next().unwrap_or_default();
            if word == "yaml" {
                let rest: Vec<&str> = lines.by_ref().collect();
                cluster.yaml(&dedent(&rest));
            } else if KEYWORDS.contains(&word) {
                statements.push(line.trim().to_owned());
            } else if let Some(statement) = statements.last_mut() {
                statement.push('\n');
                statement.push_str(line);
            }
        }
        for statement in statements {
            let (keyword, rest) = statement.split_once(' ').expect("keyword and more");
            match keyword {
                "ns" => cluster.namespace(rest),
                "node" => cluster.node(rest),
                "pod" => cluster.pod(rest),
                _ => cluster.policy(rest),
            }
        }
        cluster
    }

    pub(crate) fn world(&self, node: &str) -> World {
        let mut world = World::new(node);
        for (object, unknown_fields) in self.objects.clone() {
            world.apply(object, &unknown_fields);
        }
        for (_, attachment) in self.attachments.iter().filter(|(on, _)| on == node) {
            world.attach(attachment.clone());
        }
        world
    }

    fn yaml(&mut self, text: &str) {
        for document in manifest::documents("test", text).expect("valid YAML") {
            self.objects.extend(manifest::object(&document).expect("valid object"));
        }
    }

    fn add(&mut self, kind: &str, api_version: &str, value: Value) {
        let document = manifest::Document {
            origin: "test".to_owned(),
            line: 1,
            kind: kind.to_owned(),
            api_version: api_version.to_owned(),
            value,
        };
        self.objects.extend(manifest::object(&document).expect("valid object"));
    }

    fn namespace(&mut self, rest: &str) {
        let mut words = rest.split_whitespace();
        let name = words.next().expect("a name");
        self.add("Namespace", "v1", json!({"metadata": {"name": name, "labels": labels(words)}}));
    }

    fn node(&mut self, rest: &str) {
        let mut words = rest.split_whitespace();
        let (name, ips) = (words.next().expect("a name"), words.next().expect("addresses"));
        let addresses: Vec<_> =
            ips.split(',').map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        self.addresses
            .insert(name.to_owned(), ips.split(',').map(|ip| ip.parse().expect("an address")).collect());
        self.add("Node", "v1", json!({"metadata": {"name": name}, "status": {"addresses": addresses}}));
    }

    fn pod(&mut self, rest: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let [full_name, node, ips, options @ ..] = words.as_slice() else {
            panic!("pod needs name, node, addresses")
        };
        let (namespace, name) = full_name.split_once('/').expect("namespace/name");
        let (mut ports, mut annotations) = (Vec::new(), BTreeMap::new());
        let (mut uid, mut phase, mut host_network) = (format!("uid of {full_name}"), "Running", false);
        let mut runtime_uid = None;
        for option in options.iter().filter(|option| !option.contains('=')) {
            match *option {
                "hostNetwork" => host_network = true,
                "Succeeded" | "Failed" => phase = option,
                _ => match option.split_once(':').expect("name:port/protocol") {
                    ("uid", value) => uid = value.to_owned(),
                    ("mirror", value) => {
                        runtime_uid = Some(value.to_owned());
                        annotations.insert("kubernetes.io/config.mirror", value);
                    }
                    (name, port) => {
                        let (port, protocol) = port.split_once('/').unwrap_or((port, "TCP"));
                        let port: u16 = port.parse().expect("a port");
                        ports.push(json!({"name": name, "containerPort": port, "protocol": protocol}));
                    }
                },
            }
        }
        let ips: Vec<IpAddr> = ips.split(',').map(|ip| ip.parse().expect("an address")).collect();
        let pod_ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        self.add(
            "Pod",
            "v1",
            json!({
                "metadata": {
                    "name": name, "namespace": namespace, "uid": uid, "annotations": annotations,
                    "labels": labels(options.iter().copied()),
                },
                "spec": {
                    "nodeName": node, "hostNetwork": host_network,
                    "containers": [{"name": "main", "ports": ports}],
                },
                "status": {"phase": phase, "podIPs": pod_ips},
            }),
        );
        self.addresses.insert((*full_name).to_owned(), ips.clone());
        if !host_network && phase == "Running" {
            let pod = PodRef {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: Some(runtime_uid.unwrap_or(uid)),
            };
            let ifindex = 10 + u32::try_from(self.attachments.len()).expect("few");
            let container_id = format!("container of {full_name}");
            let attachment =
                Attachment { container_id, ifname: "eth0".to_owned(), pod: Some(pod), ifindex, ips };
            self.attachments.push(((*node).to_owned(), attachment));
        }
    }

    fn policy(&mut self, rest: &str) {
        let (full_name, spec) = rest.split_once(' ').expect("name and spec");
        let (namespace, name) = full_name.split_once('/').expect("namespace/name");
        self.yaml(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        ));
    }

    /// `shop/web`, `shop/web@6` for its IPv6 address, a node's name, or an address.
    fn address(&self, end: &str) -> IpAddr {
        let (name, v6) = end.strip_suffix("@6").map_or((end, false), |name| (name, true));
        let known = self.addresses.get(name).map(|ips| ips.iter().find(|ip| ip.is_ipv6() == v6));
        match known {
            Some(ip) => *ip.unwrap_or_else(|| panic!("{end} has no such address")),
            None => end.parse().unwrap_or_else(|_| panic!("{end} is neither known nor an address")),
        }
    }
}

fn labels<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, &'a str> {
    words.filter_map(|word| word.split_once('=')).collect()
}

fn dedent(lines: &[&str]) -> String {
    let indent = |line: &&&str| line.len() - line.trim_start().len();
    let margin =
        lines.iter().filter(|line| !line.trim().is_empty()).map(|line| indent(&line)).min().unwrap_or(0);
    lines.iter().map(|line| format!("{}\n", line.get(margin..).unwrap_or_default())).collect()
}

/// Each row is `FROM -> TO PROTOCOL/PORT`, two spaces or more, and what becomes of it: `open`, or for each end that is
/// isolated `egress by POLICY RULE` or `egress denied by POLICIES`. The tables and the oracle must both say so.
#[track_caller]
pub(crate) fn check(cluster: &str, rows: &str) {
    check_warned(cluster, rows, "");
}

/// As [`check`], with the warnings expected, one a line.
#[track_caller]
pub(crate) fn check_warned(cluster: &str, rows: &str, expected_warnings: &str) {
    let cluster = Cluster::new(cluster);
    let worlds: Vec<World> = ["node-0", "node-1"].map(|node| cluster.world(node)).into();
    let compiled: Vec<Compiled> = worlds.iter().map(compile).collect();
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    for row in rows.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let (head, outcome) = row.split_once("  ").unwrap_or_else(|| panic!("no outcome in {row:?}"));
        let flow = flow(&cluster, head);
        let table: Vec<String> =
            worlds.iter().zip(&compiled).flat_map(|(_, c)| by_tables(c, &flow)).collect();
        let second: Vec<String> = worlds.iter().flat_map(|world| by_oracle(world, &flow)).collect();
        assert_eq!(sorted(&table), sorted(&second), "tables and oracle differ on {head}");
        expected.push(format!("{head}  {}", outcome.trim()));
        let isolated: Vec<String> = sorted(&table).into_iter().filter(|text| !text.is_empty()).collect();
        found.push(format!(
            "{head}  {}",
            if isolated.is_empty() { "open".to_owned() } else { isolated.join("; ") }
        ));
    }
    assert_eq!(found.join("\n"), expected.join("\n"), "\n(found on the left, expected on the right)");
    let expected: Vec<&str> =
        expected_warnings.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let found: Vec<String> = compiled[0].warnings.iter().map(ToString::to_string).collect();
    assert_eq!(found.join("\n"), expected.join("\n"), "\n(found on the left, expected on the right)");
}

fn sorted(texts: &[String]) -> Vec<String> {
    let mut texts = texts.to_vec();
    texts.sort();
    texts
}

pub(super) fn flow(cluster: &Cluster, head: &str) -> Flow {
    let words: Vec<&str> = head.split_whitespace().collect();
    let [from, "->", to, service] = words.as_slice() else {
        panic!("expected FROM -> TO PROTOCOL/PORT: {head:?}")
    };
    let (name, port) = service.split_once('/').unwrap_or((service, "0"));
    let protocol = match name {
        "TCP" => protocol::TCP,
        "UDP" => protocol::UDP,
        "SCTP" => protocol::SCTP,
        "ICMP" => protocol::ICMP,
        "ICMPv6" => protocol::ICMPV6,
        other => panic!("unknown protocol {other}"),
    };
    let (source, destination) = (cluster.address(from), cluster.address(to));
    Flow { source, destination, destination_port: port.parse().expect("a port"), protocol }
}

/// One text for each direction judged; empty for open.
fn by_tables(compiled: &Compiled, flow: &Flow) -> Vec<String> {
    let answer = compiled.tables.lookup(flow);
    let text = |direction: &str, judgement: Judgement| {
        if judgement.rule_set == RuleSetId::OPEN {
            return String::new();
        }
        if judgement.allowed {
            let rule = &compiled.names.rules[&judgement.rule];
            format!("{direction} by {} {}", rule.policy, rule.path)
        } else {
            format!(
                "{direction} denied by {}",
                compiled.names.rule_sets[&judgement.rule_set].policies.join(",")
            )
        }
    };
    let egress = answer.egress.map(|judgement| text("egress", judgement));
    egress.into_iter().chain(answer.ingress.map(|judgement| text("ingress", judgement))).collect()
}

fn by_oracle(world: &World, flow: &Flow) -> Vec<String> {
    let opinions = oracle::judge(world, flow);
    let text = |direction: &str, opinion: Opinion| match (opinion.allowed, opinion.rule) {
        (true, None) => String::new(),
        (true, Some(rule)) => format!("{direction} by {} {}", rule.policy, rule.path),
        (false, _) => format!("{direction} denied by {}", opinion.policies.join(",")),
    };
    let egress = opinions.egress.map(|opinion| text("egress", opinion));
    egress.into_iter().chain(opinions.ingress.map(|opinion| text("ingress", opinion))).collect()
}
