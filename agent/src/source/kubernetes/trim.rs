//! Objects as the API server sends them, without what the compiler does not read: most of a Pod, and everybody's
//! `managedFields`, are skipped while the text is read.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Namespace, Node, NodeAddress, NodeSpec, NodeStatus, Pod, PodIP, PodSpec,
    PodStatus, Service, ServiceSpec, ServiceStatus,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use policy::manifest::{self, Document};
use policy::{Kind, Object, Warning};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    creation_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct AnyNamespace {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct AnyNode {
    metadata: Metadata,
    spec: Option<AnyNodeSpec>,
    status: Option<AnyNodeStatus>,
}

#[derive(Deserialize)]
struct AnyNodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct AnyNodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Deserialize)]
struct AnyPod {
    metadata: Metadata,
    spec: Option<AnyPodSpec>,
    status: Option<AnyPodStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyPodSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    #[serde(default)]
    containers: Vec<AnyContainer>,
    init_containers: Option<Vec<AnyContainer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyContainer {
    ports: Option<Vec<ContainerPort>>,
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
struct AnyPodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIP>>,
}

#[derive(Deserialize)]
struct AnyService {
    metadata: Metadata,
    spec: Option<ServiceSpec>,
    status: Option<ServiceStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnySlice {
    metadata: Metadata,
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<EndpointPort>>,
}

/// The object of this kind that `text` is.
pub(super) fn object(kind: Kind, text: &str) -> Result<(Object, Vec<Warning>), String> {
    let read = match kind {
        Kind::Namespace => serde_json::from_str(text).map(|any: AnyNamespace| Object::from(any)),
        Kind::Node => serde_json::from_str(text).map(|any: AnyNode| Object::from(any)),
        Kind::Pod => serde_json::from_str(text).map(|any: AnyPod| Object::from(any)),
        Kind::Service => serde_json::from_str(text).map(|any: AnyService| Object::from(any)),
        Kind::EndpointSlice => serde_json::from_str(text).map(|any: AnySlice| Object::from(any)),
        Kind::NetworkPolicy => return policy(text),
    };
    read.map(|object| (object, Vec::new())).map_err(|error| error.to_string())
}

/// Policies are few, and what a newer API says in them that we do not understand must not be lost without a word: they
/// are read as those in files are.
fn policy(text: &str) -> Result<(Object, Vec<Warning>), String> {
    let kind = Kind::NetworkPolicy;
    let document = Document::of_api_server(kind.as_str(), kind.api_version(), text);
    let document = document.map_err(|error| error.to_string())?;
    match manifest::object(&document) {
        Ok(read) => read.ok_or_else(|| "no NetworkPolicy".to_owned()),
        Err(warning) => Err(format!("{}: {}", warning.field, warning.message)),
    }
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        let Metadata { name, namespace, uid, creation_timestamp, labels, annotations } = metadata;
        Self { name, namespace, uid, creation_timestamp, labels, annotations, ..Self::default() }
    }
}

impl From<AnyNamespace> for Object {
    fn from(any: AnyNamespace) -> Self {
        Namespace { metadata: any.metadata.into(), ..Namespace::default() }.into()
    }
}

impl From<AnyNode> for Object {
    fn from(any: AnyNode) -> Self {
        let spec = any.spec.map(|spec| NodeSpec {
            pod_cidr: spec.pod_cidr,
            pod_cidrs: spec.pod_cidrs,
            ..NodeSpec::default()
        });
        let status =
            any.status.map(|status| NodeStatus { addresses: status.addresses, ..NodeStatus::default() });
        Node { metadata: any.metadata.into(), spec, status }.into()
    }
}

impl From<AnyPod> for Object {
    fn from(any: AnyPod) -> Self {
        let container = |any: AnyContainer| Container {
            ports: any.ports,
            restart_policy: any.restart_policy,
            ..Container::default()
        };
        let containers = |all: Vec<AnyContainer>| all.into_iter().map(container).collect();
        let spec = any.spec.map(|spec| PodSpec {
            node_name: spec.node_name,
            host_network: spec.host_network,
            containers: containers(spec.containers),
            init_containers: spec.init_containers.map(containers),
            ..PodSpec::default()
        });
        let status = any.status.map(|status| PodStatus {
            phase: status.phase,
            pod_ip: status.pod_ip,
            pod_ips: status.pod_ips,
            ..PodStatus::default()
        });
        Pod { metadata: any.metadata.into(), spec, status }.into()
    }
}

impl From<AnyService> for Object {
    fn from(any: AnyService) -> Self {
        Service { metadata: any.metadata.into(), spec: any.spec, status: any.status }.into()
    }
}

impl From<AnySlice> for Object {
    fn from(any: AnySlice) -> Self {
        EndpointSlice {
            metadata: any.metadata.into(),
            address_type: any.address_type,
            endpoints: any.endpoints,
            ports: any.ports,
        }
        .into()
    }
}
