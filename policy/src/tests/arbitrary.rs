//! Random clusters, small enough that things meet: few names and labels, addresses at the edges of the blocks, ports at
//! the edges of the ranges. A slip (an unknown operator, a bad block, a port range upside down) is in now and then.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proptest::test_runner::RngSeed;

use super::world::Cluster;
use crate::lookup::Flow;
use crate::world::{Attachment, PodRef};

pub(super) const NAMESPACES: [&str; 3] = ["a", "b", "c"];
/// One pair for each pod that there can be.
pub(super) const POD_IPS: [[&str; 2]; 9] = [
    ["10.0.0.0", "fd00::"],
    ["10.0.0.1", "fd00::1"],
    ["10.0.0.255", "fd00::ffff"],
    ["10.0.1.0", "fd00::1:0"],
    ["10.0.1.1", "fd00::1:1"],
    ["10.0.127.255", "fd00:0:0:7fff:ffff:ffff:ffff:ffff"],
    ["10.0.128.0", "fd00:0:0:8000::"],
    ["10.255.255.255", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
    ["11.0.0.0", "fe00::"],
];
const OTHER_IPS: [&str; 11] = [
    "172.30.0.10",
    "172.30.0.11",
    "fd00:30::10",
    "0.0.0.1",
    "8.8.8.8",
    "9.255.255.255",
    "10.0.2.0",
    "255.255.255.255",
    "::1",
    "fcff:ffff::",
    "2001:db8::1",
];
const CIDRS: [&str; 16] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.1.0/24",
    "10.0.1.0/31",
    "10.0.0.255/32",
    "10.0.128.0/17",
    "172.30.0.0/24",
    "10.0.0.0/33",
    "::/0",
    "fd00::/8",
    "fd00::/112",
    "fd00::1:0/112",
    "fd00::/128",
    "fd00:0:0:8000::/49",
];
const PORTS: [i32; 12] = [0, 1, 79, 80, 81, 1023, 1024, 8080, 9090, 32768, 65534, 65535];
const FLOW_PORTS: [u16; 14] = [0, 1, 53, 79, 80, 81, 1023, 1024, 1025, 8080, 9090, 32767, 32768, 65535];
pub(crate) const PORT_NAMES: [&str; 3] = ["http", "dns", "nobody"];
const PROTOCOLS: [&str; 4] = ["TCP", "UDP", "SCTP", "QUIC"];
const FLOW_PROTOCOLS: [u8; 5] = [6, 17, 132, 1, 58];

/// What a cluster is made of; a test changes it and makes it once more.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub namespaces: [Option<Labels>; 3],
    /// By place: its addresses are those of the place.
    pub pods: Vec<Option<PodDescription>>,
    pub policies: BTreeMap<(usize, usize), net::NetworkPolicySpec>,
}

pub(crate) type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodDescription {
    pub namespace: usize,
    pub local: bool,
    pub labels: Labels,
    pub ports: Vec<(&'static str, i32, &'static str)>,
    pub finished: bool,
}

/// One thing that happens to a cluster.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    RelabelPod(Index, Labels),
    RelabelNamespace(usize, Labels),
    PutPod(Index, PodDescription),
    RemovePod(Index),
    PutPolicy((usize, usize), net::NetworkPolicySpec),
    RemovePolicy(Index),
}

impl Description {
    /// As the first node sees it, where every pod that runs there is attached.
    pub(crate) fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        for (name, labels) in NAMESPACES.iter().zip(&self.namespaces) {
            if let Some(labels) = labels {
                let metadata = metadata(None, name, labels.clone());
                let namespace = core::Namespace { metadata, ..Default::default() };
                cluster.objects.push((namespace.into(), Vec::new()));
            }
        }
        for (place, pod) in self.pods.iter().enumerate() {
            if let Some(pod) = pod {
                pod.add_to(&mut cluster, place);
            }
        }
        for ((namespace, name), spec) in &self.policies {
            let metadata = metadata(Some(NAMESPACES[*namespace]), &format!("p{name}"), Labels::new());
            let policy = net::NetworkPolicy { metadata, spec: Some(spec.clone()) };
            cluster.objects.push((policy.into(), Vec::new()));
        }
        cluster
    }

    pub(crate) fn happen(&mut self, event: &Event) {
        let pods: Vec<usize> = (0..self.pods.len()).filter(|place| self.pods[*place].is_some()).collect();
        match event {
            Event::RelabelPod(which, labels) if !pods.is_empty() => {
                self.pods[*which.get(&pods)].as_mut().expect("those that are").labels = labels.clone();
            }
            Event::RelabelNamespace(which, labels) => self.namespaces[*which] = Some(labels.clone()),
            Event::PutPod(place, pod) => {
                // A pod that is already there would be two events: one goes, one comes.
                let place = place.index(self.pods.len());
                self.pods[place].get_or_insert_with(|| pod.clone());
            }
            Event::RemovePod(which) if !pods.is_empty() => self.pods[*which.get(&pods)] = None,
            Event::PutPolicy(key, spec) => drop(self.policies.insert(*key, spec.clone())),
            Event::RemovePolicy(which) if !self.policies.is_empty() => {
                let key =
                    *self.policies.keys().nth(which.index(self.policies.len())).expect("below the length");
                self.policies.remove(&key);
            }
            Event::RelabelPod(..) | Event::RemovePod(_) | Event::RemovePolicy(_) => {}
        }
    }
}

impl PodDescription {
    fn add_to(&self, cluster: &mut Cluster, place: usize) {
        let (namespace, name, uid) =
            (NAMESPACES[self.namespace], format!("pod-{place}"), format!("uid-{place}"));
        let ips = POD_IPS[place];
        let ports = self.ports.iter().map(|(name, port, protocol)| core::ContainerPort {
            name: Some((*name).to_owned()),
            container_port: *port,
            protocol: Some((*protocol).to_owned()),
            ..Default::default()
        });
        let container = core::Container { ports: Some(ports.collect()), ..Default::default() };
        let mut metadata = metadata(Some(namespace), &name, self.labels.clone());
        metadata.uid = Some(uid.clone());
        let pod = core::Pod {
            metadata,
            spec: Some(core::PodSpec { containers: vec![container], ..Default::default() }),
            status: Some(core::PodStatus {
                phase: Some(if self.finished { "Succeeded" } else { "Running" }.to_owned()),
                pod_ips: Some(ips.iter().map(|ip| core::PodIP { ip: (*ip).to_owned() }).collect()),
                ..Default::default()
            }),
        };
        cluster.objects.push((pod.into(), Vec::new()));
        if self.local && !self.finished {
            let attachment = Attachment {
                container_id: name.clone(),
                ifname: "eth0".to_owned(),
                pod: Some(PodRef { namespace: namespace.to_owned(), name, uid: Some(uid) }),
                ifindex: 10 + u32::try_from(place).expect("few"),
                ips: ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
            };
            cluster.attachments.push(("node-0".to_owned(), attachment));
        }
    }
}

fn metadata(namespace: Option<&str>, name: &str, labels: Labels) -> meta::ObjectMeta {
    meta::ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some(labels),
        ..Default::default()
    }
}

pub(crate) fn description() -> impl Strategy<Value = Description> {
    let namespaces = [weighted(0.9, labels()), weighted(0.9, labels()), weighted(0.5, labels())];
    let pods = vec(weighted(0.7, pod()), POD_IPS.len());
    let policies = proptest::collection::btree_map(policy_key(), policy_spec(), 0..5);
    (namespaces, pods, policies).prop_map(|(namespaces, pods, policies)| Description {
        namespaces,
        pods,
        policies,
    })
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (any::<Index>(), labels()).prop_map(|(which, labels)| Event::RelabelPod(which, labels)),
        1 => (0..3_usize, labels()).prop_map(|(which, labels)| Event::RelabelNamespace(which, labels)),
        1 => (any::<Index>(), pod()).prop_map(|(place, pod)| Event::PutPod(place, pod)),
        1 => any::<Index>().prop_map(Event::RemovePod),
        3 => (policy_key(), policy_spec()).prop_map(|(key, spec)| Event::PutPolicy(key, spec)),
        1 => any::<Index>().prop_map(Event::RemovePolicy),
    ]
}

/// Flows between two addresses of one family, one of them that of a pod that there may be.
pub(crate) fn flows(count: usize) -> impl Strategy<Value = Vec<Flow>> {
    let ends = |v6: usize| {
        let pods: Vec<&str> = POD_IPS.iter().map(|ips| ips[v6]).collect();
        let others: Vec<&str> = OTHER_IPS.into_iter().filter(|ip| ip.contains(':') == (v6 == 1)).collect();
        let any_ip = prop_oneof![3 => select(pods.clone()), 1 => select(others)];
        (select(pods), any_ip)
    };
    let ends = prop_oneof![ends(0), ends(1)];
    let flow = (ends, any::<bool>(), select(FLOW_PORTS.to_vec()), select(FLOW_PROTOCOLS.to_vec()));
    let flow = flow.prop_map(|((pod, other), leaves, destination_port, protocol)| {
        let (source, destination) = if leaves { (ip(pod), ip(other)) } else { (ip(other), ip(pod)) };
        Flow { source, destination, destination_port, protocol }
    });
    vec(flow, count)
}

/// A test that looks at this many cases, always the same: a change makes it fail, and chance does not. With `PROPTEST_CASES`
/// it looks at so many others.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return default;
    }
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(1), ..default }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Few policies, so that a new one is often a change of an old one.
fn policy_key() -> impl Strategy<Value = (usize, usize)> {
    (prop_oneof![3 => Just(0_usize), 1 => Just(1), 1 => Just(2)], 0..3_usize)
}

fn labels() -> impl Strategy<Value = Labels> {
    let value = |values: [&'static str; 2]| weighted(0.8, select(values.to_vec()));
    (value(["x", "y"]), value(["p", "q"])).prop_map(|(app, tier)| {
        let labels = [("app", app), ("tier", tier)];
        labels.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect()
    })
}

fn pod() -> impl Strategy<Value = PodDescription> {
    let ports = subsequence(
        vec![
            ("http", 8080, "TCP"),
            ("http", 9090, "TCP"),
            ("http", 80, "UDP"),
            ("dns", 53, "UDP"),
            ("dns", 53, "TCP"),
        ],
        0..=3,
    );
    (policy_key(), any::<bool>(), labels(), ports, prop::bool::weighted(0.05)).prop_map(
        |((namespace, _), local, labels, ports, finished)| PodDescription {
            namespace,
            local,
            labels,
            ports,
            finished,
        },
    )
}

fn policy_spec() -> impl Strategy<Value = net::NetworkPolicySpec> {
    let types = of(subsequence(vec!["Ingress".to_owned(), "Egress".to_owned()], 0..=2));
    let rules = || of(vec((of(vec(peer(), 0..3)), of(vec(port(), 0..3))), 0..3));
    (of(selector()), types, rules(), rules()).prop_map(|(pod_selector, policy_types, ingress, egress)| {
        let ingress = ingress.map(|rules| {
            rules.into_iter().map(|(from, ports)| net::NetworkPolicyIngressRule { from, ports }).collect()
        });
        let egress = egress.map(|rules| {
            rules.into_iter().map(|(to, ports)| net::NetworkPolicyEgressRule { to, ports }).collect()
        });
        net::NetworkPolicySpec { egress, ingress, pod_selector, policy_types }
    })
}

fn selector() -> impl Strategy<Value = meta::LabelSelector> {
    let operator = prop_oneof![
        10 => select(vec!["In", "NotIn"]),
        5 => select(vec!["Exists", "DoesNotExist"]),
        1 => Just("Like"),
    ];
    let key = select(vec!["app", "tier", "kubernetes.io/metadata.name"]);
    let expression = (key, operator, subsequence(vec!["x", "y", "p", "a"], 1..=3));
    let expression = expression.prop_map(|(key, operator, values)| meta::LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: operator.ends_with("In").then(|| values.into_iter().map(str::to_owned).collect()),
    });
    (weighted(0.4, labels()), weighted(0.4, vec(expression, 0..2)))
        .prop_map(|(match_labels, match_expressions)| meta::LabelSelector { match_expressions, match_labels })
}

fn peer() -> impl Strategy<Value = net::NetworkPolicyPeer> {
    let block = (select(CIDRS.to_vec()), subsequence(CIDRS.to_vec(), 0..3), prop::bool::weighted(0.1));
    let block = block.prop_map(|(cidr, except, careless)| {
        let inside = |inner: &str| {
            let parse = |text: &str| text.parse::<ipnet::IpNet>();
            matches!((parse(cidr), parse(inner)), (Ok(outer), Ok(inner)) if outer != inner && outer.contains(&inner))
        };
        let except = except.into_iter().filter(|inner| careless || inside(inner)).map(str::to_owned).collect();
        net::IPBlock { cidr: cidr.to_owned(), except: Some(except) }
    });
    prop_oneof![
        2 => block.prop_map(|block| net::NetworkPolicyPeer { ip_block: Some(block), ..Default::default() }),
        3 => (of(selector()), of(selector())).prop_map(|(namespace_selector, pod_selector)| {
            net::NetworkPolicyPeer { ip_block: None, namespace_selector, pod_selector }
        }),
    ]
}

fn port() -> impl Strategy<Value = net::NetworkPolicyPort> {
    let number = select(PORTS.to_vec()).prop_map(IntOrString::Int);
    let name = select(PORT_NAMES.to_vec()).prop_map(|name| IntOrString::String(name.to_owned()));
    let port = weighted(0.9, prop_oneof![2 => number, 1 => name]);
    let protocol = of(prop_oneof![20 => select(PROTOCOLS[..3].to_vec()), 1 => Just(PROTOCOLS[3])]);
    (port, weighted(0.3, select(PORTS.to_vec())), protocol).prop_map(|(port, end_port, protocol)| {
        // Mostly the right way round.
        let end_port = end_port
            .filter(|end| !matches!(&port, Some(IntOrString::Int(first)) if end < first && end % 2 == 0));
        let end_port = end_port.filter(|_| matches!(port, Some(IntOrString::Int(_))));
        net::NetworkPolicyPort { end_port, port, protocol: protocol.map(str::to_owned) }
    })
}
