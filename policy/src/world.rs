//! Everything one node has been told: what the API holds, and what its own runtime has attached.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::object::{Object, ObjectKey};
use crate::warning::Warning;

/// The pod as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    /// Absent where the runtime does not say; a static pod's is not its mirror pod's.
    pub uid: Option<String>,
}

/// One interface that the runtime gave to a container on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub container_id: String,
    pub ifname: String,
    /// Absent for containers that are no Kubernetes pods: such endpoints are never selected.
    pub pod: Option<PodRef>,
    /// The host's side of the veth pair.
    pub ifindex: u32,
    pub ips: Vec<IpAddr>,
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: String,
    pub ips: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
}

/// Pure state; one per agent.
#[derive(Clone, Debug)]
pub struct World {
    node: String,
    nodes: Vec<NodeFacts>,
}

impl World {
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), nodes: Vec::new() }
    }

    pub fn apply(&mut self, _object: Object, _unknown_fields: &[Warning]) {}

    pub fn delete(&mut self, _key: &ObjectKey) {}

    /// Replaces everything that came from the source; attachments stay.
    pub fn reset(&mut self, _objects: Vec<(Object, Vec<Warning>)>) {}

    pub fn attach(&mut self, _attachment: Attachment) {}

    /// Whether it was attached.
    pub fn detach(&mut self, _container_id: &str, _ifname: &str) -> bool {
        false
    }

    /// Whether the API has shown this very pod: its labels are known.
    pub fn knows_pod(&self, _namespace: &str, _name: &str, _uid: Option<&str>) -> bool {
        false
    }

    /// The node that this world is for, once the API has shown it.
    pub fn node(&self) -> Option<&NodeFacts> {
        self.nodes.iter().find(|facts| facts.name == self.node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeFacts> {
        self.nodes.iter()
    }

    /// `namespace/name` of the live pod with this address, `node/NAME` for a node's.
    pub fn pod_name_of(&self, _ip: IpAddr) -> Option<String> {
        None
    }
}
