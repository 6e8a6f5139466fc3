//! Why one connection passes or does not: what the policies of both its ends say.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::flow::VerdictKind;

/// What `weir explain` asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// An address, `node/NAME`, `outside`, or the name of a pod or a workload: `[KIND/]NAMESPACE/NAME`.
    pub from: String,
    /// As `from`, or a Service.
    pub to: String,
    /// `80`, `53/udp`, the name of a port, `icmp`.
    pub port: String,
}

/// The answer for one pair of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub from: End,
    pub to: End,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, else the number.
    pub protocol: String,
    /// 0 for protocols without ports.
    pub port: u16,
    /// Both directions together: what either of them denies is denied.
    pub verdict: VerdictKind,
    /// What the policies of `from` say.
    pub egress: Side,
    /// What the policies of `to` say.
    pub ingress: Side,
    /// What else should be known: nobody listens there, the last plan is not in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One end of the connection that was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub ip: IpAddr,
    /// `namespace/name` of the pod with this address, `node/NAME` for a node's own, else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// One direction's verdict and what it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    pub verdict: VerdictKind,
    pub reason: Reason,
    /// Every policy that isolates the end in this direction, in order of name.
    pub policies: Vec<PolicyPlace>,
    /// The rule that allows it; the first one where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RulePlace>,
    /// For a denial, the rule that came nearest to allowing it. Absent where the policies have no rule at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<Miss>,
}

/// What a verdict comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A rule of a policy that isolates the pod allows it.
    Rule,
    /// Policies isolate the pod, and no rule of theirs allows it.
    DefaultDeny,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// No pod has the address: policies select pods.
    NotAPod,
    /// The pod lives on its node's addresses, where no policy selects it.
    HostNetwork,
    /// A pod always reaches itself.
    Itself,
    /// A pod's own node always reaches it.
    OwnNode,
    /// A pod of which the API has shown nothing yet: it is closed until its labels are known.
    UnknownPod,
}

/// A policy, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPlace {
    /// `namespace/name`.
    pub name: String,
    /// `FILE:LINE`, where it comes from a file that is at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// One rule of a policy, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulePlace {
    /// `namespace/name`.
    pub policy: String,
    /// `spec.ingress[0]`.
    pub path: String,
    /// `FILE:LINE`, where it comes from a file that is at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// The rule that came nearest to allowing what was denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    pub rule: RulePlace,
    /// `policy shop/allow-web allows port 80, you asked 8080`.
    pub sentence: String,
}

impl fmt::Display for End {
    /// `shop/web (10.244.0.5)`, or the address alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.ip),
            None => write!(f, "{}", self.ip),
        }
    }
}

impl fmt::Display for PolicyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.at.as_ref().map_or(Ok(()), |at| write!(f, " ({at})"))
    }
}

impl fmt::Display for RulePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of policy {}", self.path, self.policy)?;
        self.at.as_ref().map_or(Ok(()), |at| write!(f, " ({at})"))
    }
}

impl fmt::Display for Side {
    /// What the verdict comes from, in words: `spec.ingress[0] of policy shop/web (web.yaml:12) allows it`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reason, &self.rule) {
            (Reason::Rule, Some(rule)) => write!(f, "{rule} allows it"),
            (Reason::Rule, None) => f.write_str("a rule allows it"),
            (Reason::DefaultDeny, _) => {
                let policies: Vec<_> = self.policies.iter().map(ToString::to_string).collect();
                let (isolate, no_rule) = match policies.len() {
                    1 => ("isolates the pod", "no rule of it allows this"),
                    _ => ("isolate the pod", "no rule of theirs allows this"),
                };
                write!(f, "{} {isolate}, and {no_rule}", policies.join(", "))
            }
            (Reason::NotIsolated, _) => f.write_str("no policy isolates the pod in this direction"),
            (Reason::NotAPod, _) => f.write_str("no pod has this address, and policies select pods"),
            (Reason::HostNetwork, _) => {
                f.write_str("the pod lives on its node's network, where no policy selects it")
            }
            (Reason::Itself, _) => f.write_str("a pod always reaches itself"),
            (Reason::OwnNode, _) => f.write_str("a pod's own node always reaches it"),
            (Reason::UnknownPod, _) => {
                f.write_str("the API has not shown this pod yet: it is closed until its labels are known")
            }
        }
    }
}
