//! Kubernetes objects trimmed on arrival to what the compiler needs.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Container, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::protocol_number;
use crate::selector::Labels;
use crate::warning::Warning;

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: String,
    pub ips: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// By which the kubelet knew a static pod before the API did.
    pub static_uids: Box<[String]>,
    /// Seconds since 1970; tells an address's new owner from its old one.
    pub created: i64,
    pub labels: Labels,
    pub ips: Box<[IpAddr]>,
    pub ports: Box<[NamedPort]>,
    /// It is to run on the node that the world is for.
    pub is_here: bool,
    /// Lives on its node's addresses: no endpoint, and no selector matches it.
    pub host_network: bool,
    /// `Succeeded` or `Failed`: its address may be another pod's by now.
    pub finished: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NamedPort {
    pub name: String,
    pub protocol: u8,
    pub number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    /// Every virtual address, whatever kind it is of.
    pub ips: Vec<IpAddr>,
    pub ports: Vec<NamedPort>,
    /// 0: none.
    pub affinity_s: u32,
    /// `internalTrafficPolicy: Local`.
    pub local: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    pub namespace: String,
    pub service: String,
    pub ports: Vec<NamedPort>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub ip: IpAddr,
    pub node: Option<String>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

/// Gathers warnings about one object.
struct Notes<'a> {
    object: &'a str,
    warnings: Vec<Warning>,
}

impl Notes<'_> {
    fn warn(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Warning {
            object: self.object.to_owned(),
            field: field.into(),
            message: message.into(),
        });
    }

    fn ip(&mut self, field: impl Into<String>, text: &str) -> Option<IpAddr> {
        let ip = text.parse().ok();
        if ip.is_none() {
            self.warn(
                field,
                format!("{text:?} is no address: expected for example 10.0.0.1 or fd00::1; it is left out"),
            );
        }
        ip
    }

    fn port(
        &mut self,
        field: &str,
        name: Option<&str>,
        protocol: Option<&str>,
        number: i32,
    ) -> Option<NamedPort> {
        let protocol_name = protocol.filter(|name| !name.is_empty()).unwrap_or("TCP");
        let Some(protocol) = protocol_number(protocol_name) else {
            self.warn(
                format!("{field}.protocol"),
                format!(
                    "unknown protocol {protocol_name:?}: expected TCP, UDP or SCTP; the port is left out"
                ),
            );
            return None;
        };
        let Some(number) = u16::try_from(number).ok().filter(|number| *number != 0) else {
            self.warn(field, format!("no port number {number}: expected 1 to 65535; the port is left out"));
            return None;
        };
        Some(NamedPort { name: name.unwrap_or_default().to_owned(), protocol, number })
    }
}

impl NodeFacts {
    pub(crate) fn new(object: &str, node: &Node) -> (Self, Vec<Warning>) {
        let mut notes = Notes { object, warnings: Vec::new() };
        let mut ips = Vec::new();
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        for (index, address) in addresses.enumerate() {
            if ["InternalIP", "ExternalIP"].contains(&address.type_.as_str()) {
                ips.extend(notes.ip(format!("status.addresses[{index}].address"), &address.address));
            }
        }
        let mut pod_cidrs: Vec<IpNet> = Vec::new();
        if let Some(spec) = &node.spec {
            let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
            for (index, text) in all.enumerate() {
                match text.parse::<IpNet>() {
                    Ok(cidr) if pod_cidrs.contains(&cidr.trunc()) => {}
                    Ok(cidr) => pod_cidrs.push(cidr.trunc()),
                    Err(_) => notes.warn(
                        format!("spec.podCIDRs[{index}]"),
                        format!("{text:?} is no block of addresses: expected for example 10.244.0.0/24; it is left out"),
                    ),
                }
            }
        }
        let name = node.metadata.name.clone().unwrap_or_default();
        (Self { name, ips, pod_cidrs }, notes.warnings)
    }
}

impl PodFacts {
    pub(crate) fn new(object: &str, namespace: &str, node: &str, pod: &Pod) -> (Self, Vec<Warning>) {
        let mut notes = Notes { object, warnings: Vec::new() };
        let mut ips: Vec<IpAddr> = Vec::new();
        let mut phase = "";
        if let Some(status) = &pod.status {
            phase = status.phase.as_deref().unwrap_or_default();
            let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
            for text in all.filter(|text| !text.is_empty()) {
                ips.extend(notes.ip("status.podIPs", text).filter(|ip| !ips.contains(ip)));
            }
        }
        let mut ports = Vec::new();
        let mut host_network = false;
        if let Some(spec) = &pod.spec {
            host_network = spec.host_network == Some(true);
            // An init container that is restarted always is a sidecar: it serves as long as the pod lives.
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .enumerate()
                .filter(|(_, container)| container.restart_policy.as_deref() == Some("Always"))
                .map(|(index, container)| (format!("spec.initContainers[{index}]"), container));
            let containers = spec
                .containers
                .iter()
                .enumerate()
                .map(|(index, container)| (format!("spec.containers[{index}]"), container));
            for (path, container) in containers.chain(sidecars) {
                named_ports(&mut notes, &path, container, &mut ports);
            }
        }
        // There are as many of these as there are pods in the cluster.
        ips.shrink_to_fit();
        ports.shrink_to_fit();
        let metadata = &pod.metadata;
        let annotations = metadata.annotations.iter().flatten();
        let facts = Self {
            namespace: namespace.to_owned(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            static_uids: annotations
                .filter(|(key, _)| {
                    ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"].contains(&key.as_str())
                })
                .map(|(_, value)| value.clone())
                .collect(),
            created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            labels: metadata.labels.clone().unwrap_or_default().into(),
            ips: ips.into(),
            ports: ports.into(),
            is_here: pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node),
            host_network,
            finished: ["Succeeded", "Failed"].contains(&phase),
        };
        (facts, notes.warnings)
    }

    /// Whether the runtime means this very pod. Where one of the two has no UID (files need not), the name has to do.
    pub(crate) fn has_uid(&self, uid: Option<&str>) -> bool {
        self.uid.is_empty()
            || uid.is_none_or(|uid| self.uid == uid || self.static_uids.iter().any(|known| known == uid))
    }

    pub(crate) fn is_peer(&self) -> bool {
        !self.host_network && !self.finished
    }

    /// The number of the first container port of this name and protocol.
    pub(crate) fn port(&self, name: &str, protocol: u8) -> Option<u16> {
        self.ports.iter().find(|port| port.name == name && port.protocol == protocol).map(|port| port.number)
    }
}

fn named_ports(notes: &mut Notes<'_>, path: &str, container: &Container, ports: &mut Vec<NamedPort>) {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let field = format!("{path}.ports[{index}]");
        let named = notes.port(&field, port.name.as_deref(), port.protocol.as_deref(), port.container_port);
        ports.extend(named.filter(|port| !port.name.is_empty()));
    }
}

impl ServiceFacts {
    /// What kube-proxy's default is where `sessionAffinity: ClientIP` says no more.
    const AFFINITY_S: i32 = 10_800;

    /// `None`: it has no virtual address that would be ours to translate (headless, ExternalName, none given yet).
    pub(crate) fn new(object: &str, service: &Service) -> (Option<Self>, Vec<Warning>) {
        let mut notes = Notes { object, warnings: Vec::new() };
        let Some(spec) = &service.spec else { return (None, Vec::new()) };
        let cluster_ips = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let cluster_ips: Vec<&String> = cluster_ips.filter(|ip| !ip.is_empty()).collect();
        if spec.type_.as_deref() == Some("ExternalName") || cluster_ips.iter().any(|ip| *ip == "None") {
            return (None, Vec::new());
        }
        let external = spec.external_ips.iter().flatten();
        let balancer = service
            .status
            .iter()
            .filter_map(|status| status.load_balancer.as_ref())
            .flat_map(|balancer| balancer.ingress.iter().flatten())
            // A balancer that is a proxy wants to see the traffic itself.
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip.as_ref());
        let all = (cluster_ips.into_iter().map(|ip| ("spec.clusterIPs", ip)))
            .chain(external.map(|ip| ("spec.externalIPs", ip)))
            .chain(balancer.map(|ip| ("status.loadBalancer.ingress", ip)));
        let mut ips = Vec::new();
        for (field, text) in all {
            ips.extend(notes.ip(field, text).filter(|ip| !ips.contains(ip)));
        }
        let mut ports = Vec::new();
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let field = format!("spec.ports[{index}]");
            ports.extend(notes.port(&field, port.name.as_deref(), port.protocol.as_deref(), port.port));
        }
        let affinity_s = match spec.session_affinity.as_deref() {
            None | Some("" | "None") => 0,
            Some("ClientIP") => {
                let config =
                    spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
                let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(Self::AFFINITY_S);
                u32::try_from(seconds).unwrap_or(0)
            }
            Some(other) => {
                notes.warn(
                    "spec.sessionAffinity",
                    format!("unknown affinity {other:?}: expected None or ClientIP; clients are spread as without it"),
                );
                0
            }
        };
        let local = spec.internal_traffic_policy.as_deref() == Some("Local");
        (Some(Self { ips, ports, affinity_s, local }), notes.warnings)
    }
}

impl SliceFacts {
    /// The label that says whose slice it is.
    const SERVICE: &str = "kubernetes.io/service-name";

    /// `None`: it belongs to no Service.
    pub(crate) fn new(object: &str, namespace: &str, slice: &EndpointSlice) -> (Option<Self>, Vec<Warning>) {
        let mut notes = Notes { object, warnings: Vec::new() };
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(Self::SERVICE));
        let Some(service) = service else { return (None, Vec::new()) };
        if !["IPv4", "IPv6"].contains(&slice.address_type.as_str()) {
            return (None, Vec::new()); // FQDN: names, for others to resolve
        }
        let mut ports = Vec::new();
        for (index, port) in slice.ports.iter().flatten().enumerate() {
            // Without a number the slice does not restrict ports: there is nothing to translate to.
            if let Some(number) = port.port {
                let field = format!("ports[{index}]");
                ports.extend(notes.port(&field, port.name.as_deref(), port.protocol.as_deref(), number));
            }
        }
        let mut endpoints = Vec::new();
        for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            // Several addresses are fungible: consumers take the first.
            let Some(text) = endpoint.addresses.first() else { continue };
            let Some(ip) = notes.ip(format!("endpoints[{index}].addresses[0]"), text) else { continue };
            endpoints.push(SliceEndpoint {
                ip,
                node: endpoint.node_name.clone(),
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
            });
        }
        let (namespace, service) = (namespace.to_owned(), service.clone());
        (Some(Self { namespace, service, ports, endpoints }), notes.warnings)
    }
}
