//! Flows with names put back on numbers.

use std::net::IpAddr;

use common::net::protocol;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictKind {
    Allowed,
    Denied,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEnd {
    pub ip: IpAddr,
    /// 0 for protocols without ports.
    pub port: u16,
    /// `namespace/name` of the pod with this address, `node/NAME` for a node's own, else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The policy that decided one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRef {
    /// `ingress` or `egress`, the pod's view.
    pub direction: String,
    /// `namespace/name`: the one whose rule allowed, or for a default deny every policy that isolates the pod.
    pub policies: Vec<String>,
    /// Which rule of the policy allowed, as a path: `spec.ingress[0]`. Absent for a default deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// A protocol as [`Flow::protocol`] has it.
pub fn protocol_name(number: u8) -> String {
    protocol::name(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// One new connection or one drop, as one node saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// RFC 3339, UTC, microseconds.
    pub time: String,
    pub node: String,
    pub from: FlowEnd,
    pub to: FlowEnd,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, else the number.
    pub protocol: String,
    pub verdict: VerdictKind,
    /// `ingress` or `egress` (the pod's view): where it was decided; absent where nothing was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// `common::verdict::{DropReason, PassReason}::as_str`.
    pub reason: String,
    /// What decided: for a drop the one that denied, for a new connection each direction judged on this node.
    #[serde(default)]
    pub by: Vec<PolicyRef>,
    pub bytes: u32,
}

/// One line of a stream of flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowLine {
    Flow(Box<Flow>),
    /// In the place of flows that did not reach this reader: it was too slow, or the kernel's ring was full.
    Lost {
        lost: u64,
    },
}

/// Which flows to show. All given conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowQuery {
    /// Go on with live flows after those kept.
    pub follow: bool,
    /// How many of the flows kept to show at most, the newest; absent: all that the agent has kept.
    pub last: Option<usize>,
    /// `name` or `namespace/name` of either end.
    pub pod: Option<String>,
    /// Namespace of either end.
    pub namespace: Option<String>,
    pub verdict: Option<VerdictKind>,
    /// Destination port.
    pub port: Option<u16>,
    /// As in [`Flow::protocol`], any case.
    pub protocol: Option<String>,
}

impl FlowQuery {
    /// Whether `flow` meets every condition.
    pub fn matches(&self, flow: &Flow) -> bool {
        let ends = || [&flow.from, &flow.to].into_iter().filter_map(|end| end.name.as_deref());
        let pod = |wanted: &String| {
            ends().any(|name| name == wanted || name.rsplit_once('/').is_some_and(|(_, pod)| pod == wanted))
        };
        let namespace = |wanted: &String| {
            ends().any(|name| name.split_once('/').is_some_and(|(namespace, _)| namespace == wanted))
        };
        self.pod.as_ref().is_none_or(pod)
            && self.namespace.as_ref().is_none_or(namespace)
            && self.verdict.is_none_or(|verdict| flow.verdict == verdict)
            && self.port.is_none_or(|port| flow.to.port == port)
            && self.protocol.as_ref().is_none_or(|protocol| protocol.eq_ignore_ascii_case(&flow.protocol))
    }
}
