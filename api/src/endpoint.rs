//! How the CNI plugin hands an endpoint to the agent and takes it back.

use std::fmt;
use std::net::IpAddr;

use common::net::protocol;
use serde::{Deserialize, Serialize};

use crate::flow::protocol_name;

/// The pod as the runtime names it (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    /// Absent where the runtime does not say; a static pod's is not its mirror pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    /// As IP headers have it.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Sctp => protocol::SCTP,
        }
    }
}

/// A port of the node that leads to a port of the endpoint (the CNI capability `portMappings`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Transport,
    /// The address of the node for which it holds; `0.0.0.0` and `::` stand for all of their family, absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    /// Whether both speak of one port of one address.
    pub fn clashes_with(&self, other: &Self) -> bool {
        let addresses_meet = match (self.host_ip, other.host_ip) {
            (Some(one), Some(other)) => {
                one == other
                    || one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
            }
            _ => true,
        };
        self.host_port == other.host_port && self.protocol == other.protocol && addresses_meet
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host_port, protocol_name(self.protocol.number()))?;
        match self.host_ip {
            Some(ip) => write!(f, " at {ip}"),
            None => Ok(()),
        }
    }
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
    /// Ports of the node that lead to the endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// What is for the endpoint must take the queue of the host's side of the pair, which limits it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ingress_limited: bool,
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
