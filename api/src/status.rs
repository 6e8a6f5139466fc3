//! What `weir status` shows of one node.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub node: String,
    pub version: String,
    pub pid: u32,
    /// The first complete list of every kind has arrived and is in force, and the plugin's configuration is written.
    pub ready: bool,
    /// What is missing before it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
    /// How many plans have been carried out since the pins were made.
    pub generation: u64,
    pub epoch: u32,
    /// This agent took over the pins of an earlier one.
    pub adopted: bool,
    /// [`crate::source_revision`] of the directory source whose objects are in force; absent for other sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_revision: Option<String>,
    pub endpoints: Vec<EndpointStatus>,
    /// How the pods of each other node are reached.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    pub rule_sets: Vec<RuleSetStatus>,
    pub maps: Vec<MapFill>,
    pub counters: Vec<Counter>,
    /// Where the desired state comes from, and whether anything is heard of it.
    #[serde(default)]
    pub source: SourceStatus,
    /// What is wrong with this node or with its way to the source, and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Pods of this node that another plugin has wired: `namespace/name (address)`. No policy of theirs is enforced until they
    /// are deleted and come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmanaged: Vec<String>,
    /// What of the desired state could not be honoured: `Kind namespace/name: field: what would be right`.
    pub warnings: Vec<String>,
    /// Why the last plan was refused or failed, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What somebody else had changed on the node since this agent began, and was put right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Drift>,
}

/// Where the desired state comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `API server` or `folder`.
    pub kind: String,
    /// It answers.
    pub connected: bool,
    /// How long ago the last change came from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change_s: Option<u64>,
}

/// How often things of one kind were put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// `program`, `row`, `route`, `link`, `neighbour`, `setting`, `conflist`, `nft` or `leak`.
    pub kind: String,
    pub repaired: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// `namespace/name`, or the container's id where it is no pod.
    pub name: String,
    pub ips: Vec<IpAddr>,
    pub ifname: String,
    pub ifindex: u32,
    /// The pod's network namespace, as the runtime named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// `open`, or the rule set's number.
    pub ingress: String,
    pub egress: String,
}

/// One pod CIDR of another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub node: String,
    pub pods: IpNet,
    /// The address of the node that packets go to; absent where there is no way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// `direct`, `vxlan`, or why there is no way.
    pub way: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSetStatus {
    pub id: String,
    pub direction: String,
    /// The policies that isolate.
    pub policies: Vec<String>,
    pub rows: usize,
    /// How many endpoints share it.
    pub endpoints: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    pub name: String,
    pub entries: u64,
    pub capacity: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub name: String,
    pub packets: u64,
    pub bytes: u64,
}
