//! What was measured: [`Report`] serialises to the object that `weir sandbox -o json` prints.
//!
//! Ends of a probe are written `namespace/pod`, `node/NAME` or `outside`. `by` is `null` where the kernel said nothing
//! (an allowed probe that no policy looked at).

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::VerdictKind;
use serde::{Deserialize, Serialize};

use crate::plan::{Cast, PodIps, Port, Protocol};

/// The end that stands for a host beyond the underlay.
pub const OUTSIDE: &str = "outside";

/// The end that stands for a node itself.
pub fn node_end(name: &str) -> String {
    format!("node/{name}")
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub nodes: Vec<Host>,
    pub outside: Outside,
    pub pods: Vec<PodFacts>,
    pub probes: Vec<Probe>,
    pub services: Vec<ServiceProbe>,
    pub timings: Timings,
    pub warnings: Vec<String>,
}

impl Report {
    /// The part that is known before a probe ran: nodes and pods (those of the system only if `all`).
    pub fn of(cast: &Cast, ips: &PodIps, all: bool) -> Self {
        let host = |node: &crate::plan::Node| Host { name: node.name.clone(), ips: node.ips.clone() };
        let facts = |pod: &crate::plan::Pod| PodFacts {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            workload: pod.workload.clone(),
            node: cast.nodes.get(pod.node).map(|node| node.name.clone()).unwrap_or_default(),
            labels: pod.labels.clone(),
            ips: ips.get(&pod.key()).cloned().unwrap_or_default(),
            ports: pod.ports.clone(),
        };
        Self {
            nodes: cast.nodes.iter().map(host).collect(),
            pods: cast.shown(all).map(facts).collect(),
            warnings: cast.warnings.clone(),
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub ips: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    pub ips: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFacts {
    pub namespace: String,
    pub name: String,
    /// `Deployment shop/web`.
    pub workload: String,
    pub node: String,
    pub labels: BTreeMap<String, String>,
    pub ips: Vec<IpAddr>,
    pub ports: Vec<Port>,
}

/// One connection that was tried, from where to where, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub from: String,
    pub to: String,
    pub ip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub verdict: VerdictKind,
    pub by: Option<By>,
}

/// What the kernel said about a probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct By {
    /// `ingress` or `egress`; `null` where the packet was dropped before any direction was judged.
    pub direction: Option<String>,
    /// `namespace/name`: the one whose rule allowed, or for a default deny every policy that isolates.
    pub policies: Vec<String>,
    /// `spec.ingress[0]`; `null` for a default deny.
    pub rule: Option<String>,
    /// `common::verdict::{DropReason, PassReason}::as_str`, or `timeout` where a probe got no answer and no node saw a
    /// drop.
    pub reason: String,
}

/// One connection to a Service's virtual address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceProbe {
    pub namespace: String,
    pub name: String,
    pub ip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub from: String,
    pub verdict: VerdictKind,
    /// The pod that answered, by its own word.
    pub backend: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// From the start until the last pod was wired and the last agent had its policy in force.
    pub up_ms: u64,
    pub probe_ms: u64,
}
