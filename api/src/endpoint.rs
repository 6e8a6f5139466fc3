//! How the CNI plugin hands an endpoint to the agent and takes it back.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The pod as the runtime names it (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    /// Absent where the runtime does not say; a static pod's is not its mirror pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// Take this endpoint in: its link exists and is still down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub container_id: String,
    /// The interface's name in the pod.
    pub ifname: String,
    pub netns: String,
    /// Absent for containers that are no Kubernetes pods: such endpoints are never selected by a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// The host's side of the veth pair, in the agent's network namespace.
    pub host_ifname: String,
    pub host_ifindex: u32,
    pub ips: Vec<IpAddr>,
    /// The pod's own link-layer address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<[u8; 6]>,
}

/// The endpoint's programs are attached and its compiled policy is in the maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub generation: u64,
}

/// What `CHECK` compares with: what the agent has for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub attach: Attach,
    /// The programs are attached to the host's side.
    pub programs_attached: bool,
    /// Every address has its row in the kernel's map, with the right interface.
    pub rows_present: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    pub existed: bool,
}

/// One attachment of the runtime (`cni.dev/valid-attachments`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    pub container_id: String,
    pub ifname: String,
}

/// Everything that is not named here may be taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Valid {
    pub attachments: Vec<Attachment>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    pub removed: Vec<Attachment>,
}
