//! What a sandbox is asked for ([`Options`]) and what is to be brought up ([`Cast`]): plain values, no I/O.
//!
//! [`crate::assemble::cast`] makes a `Cast` out of `Options`; the runtime carries it out and answers with a
//! [`crate::report::Report`]. Once addresses are known, [`crate::object::objects`] says what the agents shall read.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the user typed behind `weir sandbox`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Files and folders of manifests; `-` is standard input.
    pub files: Vec<PathBuf>,
    pub nodes: usize,
    /// At most this many copies of each workload. Absent: as many as the manifest says.
    pub replicas: Option<usize>,
    /// The cluster's ranges, at most one a family. A node gets the i-th /24 (IPv4) or /64 (IPv6) of each.
    pub pod_cidrs: Vec<IpNet>,
    /// A file of who must and must not reach whom.
    pub expect: Option<PathBuf>,
    /// Where to write the page of who reaches whom and why.
    pub report: Option<PathBuf>,
    pub output: Output,
    pub routing: Routing,
    pub watch: bool,
    pub keep: bool,
    pub flows: bool,
    /// Shows kube-dns and the like in the table too.
    pub all: bool,
}

impl Options {
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            nodes: 2,
            replicas: None,
            pod_cidrs: Self::default_pod_cidrs(),
            expect: None,
            report: None,
            output: Output::Table,
            routing: Routing::Direct,
            watch: false,
            keep: false,
            flows: false,
            all: false,
        }
    }

    pub fn default_pod_cidrs() -> Vec<IpNet> {
        let cidr = |address: IpAddr, bits| IpNet::new_assert(address, bits);
        vec![
            cidr(Ipv4Addr::new(10, 244, 0, 0).into(), 16),
            cidr(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0).into(), 48),
        ]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    Table,
    Json,
}

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// As they are, over the one link that all nodes are on.
    #[default]
    Direct,
    /// As the agents find out, over the same.
    Auto,
    /// In VXLAN: each node is on a link of its own, and a router is between them.
    Vxlan,
}

impl Routing {
    /// As agents are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Auto => "auto",
            Self::Vxlan => "vxlan",
        }
    }
}

/// Everything that is to be brought up. The same manifests always give the same cast.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cast {
    pub nodes: Vec<Node>,
    /// Namespace objects, those that nobody declared included, with `kubernetes.io/metadata.name`.
    pub namespaces: Vec<Value>,
    /// Sorted by namespace and name. The DNS pod is among them ([`Pod::system`]).
    pub pods: Vec<Pod>,
    pub services: Vec<Service>,
    /// NetworkPolicy objects as they were given, so that unknown fields are still seen by the compiler.
    pub policies: Vec<Value>,
    #[serde(default)]
    pub routing: Routing,
    /// EndpointSlices out of the manifests, for Services without a selector.
    pub endpoint_slices: Vec<Value>,
    /// `Kind namespace/name: field: message`, and what was skipped.
    pub warnings: Vec<String>,
}

impl Cast {
    /// The namespace of the resolver's pod and Service.
    pub const DNS_NAMESPACE: &str = "kube-system";
    /// The resolver's Service, and the workload of its pod.
    pub const DNS_NAME: &str = "kube-dns";
    pub const CLUSTER_DOMAIN: &str = "cluster.local";

    pub fn pod(&self, key: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.key() == key)
    }

    /// The pod in which the resolver runs.
    pub fn dns_pod(&self) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.system)
    }

    /// The addresses that pods have as nameservers.
    pub fn dns_ips(&self) -> &[IpAddr] {
        self.services
            .iter()
            .find(|service| service.namespace == Self::DNS_NAMESPACE && service.name == Self::DNS_NAME)
            .map_or(&[], |service| &service.cluster_ips)
    }

    /// The pods that the table is about: all but those of the system, unless `all`.
    pub fn shown(&self, all: bool) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| all || !pod.system)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `node-0` …
    pub name: String,
    /// On the underlay: IPv4, then IPv6.
    pub ips: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
}

impl Node {
    /// The underlay that node addresses lie in.
    pub const UNDERLAY_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 30, 0, 0), 24);
    pub const UNDERLAY_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0), 64);

    /// The addresses of node `index`: `172.30.0.10` and `fd00:30::10` for the first. Requires `index < 240`.
    pub fn addresses(index: usize) -> Vec<IpAddr> {
        // Nodes are counted by `assemble`, which refuses more than 240.
        let offset = u16::try_from(index).unwrap_or(u16::MAX);
        let [a, b, c, _] = Self::UNDERLAY_V4.0.octets();
        let mut words = Self::UNDERLAY_V6.0.segments();
        words[7] = 0x10 + offset;
        vec![
            Ipv4Addr::new(a, b, c, 10 + u8::try_from(offset).unwrap_or(u8::MAX - 10)).into(),
            Ipv6Addr::from(words).into(),
        ]
    }
}

/// One pod, named and placed.
///
/// With `--watch`, a pod whose `uid` differs from before is another pod (delete, then create); one with the same uid
/// may have new `labels`, `annotations` and `listen` ports, which change in place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    /// Derived from namespace, name and template: the same input gives the same uid.
    pub uid: String,
    /// `Deployment shop/web`, or `Pod shop/web` for a pod without an owner.
    pub workload: String,
    /// Index into [`Cast::nodes`].
    pub node: usize,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// What the containers (sidecar init containers included) declare.
    pub ports: Vec<Port>,
    /// Where the stub listens: the declared ports, and each `targetPort` with which a Service selects this pod.
    pub listen: Vec<Listen>,
    pub host_network: bool,
    /// One of ours (kube-dns), which the manifests do not name: out of the table unless `--all`.
    pub system: bool,
    /// `spec.hostname` and `spec.subdomain`, by which a headless Service names the pod.
    pub hostname: String,
    pub subdomain: Option<String>,
    /// The Pod object without `status`, as the API server would show it.
    pub object: Value,
}

impl Pod {
    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Absent means TCP, as in Kubernetes.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP" | "tcp") => Some(Self::Tcp),
            Some("UDP" | "udp") => Some(Self::Udp),
            Some("SCTP" | "sctp") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// IANA's number, as it stands in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A declared containerPort.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    pub name: Option<String>,
    pub port: u16,
    pub protocol: Protocol,
}

/// A port on which the stub answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Listen {
    pub port: u16,
    pub protocol: Protocol,
}

/// A Service with its addresses given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// IPv4 and IPv6 as the Service's families say; empty for headless and ExternalName Services.
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// Empty: endpoints come from the manifests' EndpointSlices, if at all.
    pub selector: BTreeMap<String, String>,
    pub headless: bool,
    /// The name that DNS answers with (CNAME), for `type: ExternalName`.
    pub external_name: Option<String>,
    pub system: bool,
    /// The Service object with its `clusterIPs`, as the API server would show it.
    pub object: Value,
}

impl Service {
    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether the selector picks this pod. A Service without a selector picks none.
    pub fn selects(&self, pod: &Pod) -> bool {
        self.namespace == pod.namespace
            && !self.selector.is_empty()
            && self.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub name: Option<String>,
    pub port: u16,
    pub protocol: Protocol,
    pub target: Target,
}

impl ServicePort {
    /// The port of `pod` that this leads to; `None` where the pod has no port of that name.
    pub fn target_on(&self, pod: &Pod) -> Option<u16> {
        match &self.target {
            Target::Number(port) => Some(*port),
            Target::Name(name) => pod
                .ports
                .iter()
                .find(|port| port.name.as_ref() == Some(name) && port.protocol == self.protocol)
                .map(|port| port.port),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Target {
    Number(u16),
    Name(String),
}

/// Pod addresses by [`Pod::key`], once the CNI plugin has given them.
pub type PodIps = BTreeMap<String, Vec<IpAddr>>;
