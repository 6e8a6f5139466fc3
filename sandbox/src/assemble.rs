//! From the user's options to the cast: load, expand, place, give addresses.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy::manifest::{Document, object};
use serde_json::{Value, json};

use crate::manifest::{self, Error, Manifest, Manifests};
use crate::plan::{Cast, Listen, Node, Options, Pod, Port, Protocol, Service};
use crate::service::{self, Allocator, Families};
use crate::workload::{self, Draft};
use crate::{name, place};

/// As many as node addresses leave room for.
pub const MOST_NODES: usize = 240;

/// Reads what `options` names and says what is to be brought up.
///
/// With `before`, pods that were there stay on their nodes: a new workload must not move its neighbours.
pub fn cast(options: &Options, before: Option<&Cast>) -> Result<Cast, Error> {
    let manifests = manifest::load(&options.files, options.expect.as_deref())?;
    assemble(manifests, options, before)
}

/// The same without reading anything.
pub fn assemble(manifests: Manifests, options: &Options, before: Option<&Cast>) -> Result<Cast, Error> {
    let nodes = nodes(options.nodes, &options.pod_cidrs)?;
    let families = Families {
        v4: options.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv4()),
        v6: options.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6()),
    };
    let Manifests { items, mut warnings } = manifests;
    let items = without_owned(items, &mut warnings);

    let mut drafts: Vec<Draft> = Vec::new();
    let mut services = Vec::new();
    let mut policies = Vec::new();
    let mut endpoint_slices = Vec::new();
    let mut declared = Vec::new();
    for item in &items {
        match item.kind.as_str() {
            kind if workload::is_workload(kind) => {
                drafts.extend(workload::expand(item, nodes.len(), options.replicas, &mut warnings)?);
            }
            "Service" if is_dns(item) => warnings.push(format!(
                "{}: the sandbox's own resolver stands behind this name; the manifest's is left out",
                item.title()
            )),
            "Service" => services.push(service::read(item, &mut warnings)?),
            "NetworkPolicy" => policies.push(checked(item)?),
            "EndpointSlice" => endpoint_slices.push(checked(item)?),
            "Namespace" => declared.push(item),
            _ => {}
        }
    }
    drafts.push(dns_pod(families));
    refuse_namesakes(&drafts)?;

    let mut allocator = Allocator::new(families);
    let mut services = service::assign(services, &mut allocator, &mut warnings);
    services.push(service::dns(families));

    let mut pods = place::place(drafts, &nodes, before, &mut warnings);
    pods.sort_by_key(Pod::key);
    listen_for_services(&mut pods, &services);
    let namespaces = namespaces(&declared, &items, &mut warnings)?;
    let routing = options.routing;
    Ok(Cast { nodes, namespaces, pods, services, policies, routing, endpoint_slices, warnings })
}

fn is_dns(item: &Manifest) -> bool {
    item.namespace == Cast::DNS_NAMESPACE && item.name == Cast::DNS_NAME
}

/// The nodes, each with its part of the cluster's ranges.
fn nodes(count: usize, cluster: &[IpNet]) -> Result<Vec<Node>, Error> {
    if !(1..=MOST_NODES).contains(&count) {
        return Err(Error::Nodes { nodes: count, most: MOST_NODES });
    }
    let error =
        |cidr: &IpNet, message: &str| Error::PodCidr { cidr: cidr.to_string(), message: message.to_owned() };
    for (index, cidr) in cluster.iter().enumerate() {
        if cluster[..index].iter().any(|other| other.addr().is_ipv4() == cidr.addr().is_ipv4()) {
            return Err(error(
                cidr,
                "a second range of this family; give one IPv4 and one IPv6 range at most",
            ));
        }
    }
    let part = |cidr: &IpNet, index: usize| -> Option<IpNet> {
        // Smaller cluster ranges than one /24 or /64 are a single node's.
        match cidr {
            IpNet::V4(net) => {
                let subnets: Ipv4Net = net.trunc();
                subnets.subnets(24.max(net.prefix_len())).ok()?.nth(index).map(IpNet::V4)
            }
            IpNet::V6(net) => {
                let subnets: Ipv6Net = net.trunc();
                subnets.subnets(64.max(net.prefix_len())).ok()?.nth(index).map(IpNet::V6)
            }
        }
    };
    (0..count)
        .map(|index| {
            let pod_cidrs: Result<Vec<_>, _> = cluster
                .iter()
                .map(|cidr| {
                    let too_small =
                        || error(cidr, &format!("holds no {count} node ranges (a /24 or a /64 each)"));
                    part(cidr, index).ok_or_else(too_small)
                })
                .collect();
            Ok(Node { name: format!("node-{index}"), ips: Node::addresses(index), pod_cidrs: pod_cidrs? })
        })
        .collect()
}

/// Leaves out what a controller here makes anyway: `kubectl get -o yaml` shows Deployments, their ReplicaSets and their
/// pods.
fn without_owned(items: Vec<Manifest>, warnings: &mut Vec<String>) -> Vec<Manifest> {
    let titles: BTreeSet<String> = items.iter().map(Manifest::title).collect();
    let is_owned = |item: &Manifest| {
        let owners = item.get("metadata.ownerReferences").and_then(Value::as_array);
        owners.into_iter().flatten().any(|owner| {
            let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
            owner.get("controller") == Some(&Value::Bool(true))
                && titles.contains(&format!("{} {}/{}", text("kind"), item.namespace, text("name")))
        })
    };
    let before = items.len();
    let kept: Vec<_> = items.into_iter().filter(|item| !is_owned(item)).collect();
    if kept.len() < before {
        warnings.push(format!(
            "left out: {} objects whose controller is among the manifests",
            before - kept.len()
        ));
    }
    kept
}

/// Two pods must not share a name, whoever makes them.
fn refuse_namesakes(drafts: &[Draft]) -> Result<(), Error> {
    let mut first: BTreeMap<String, &Draft> = BTreeMap::new();
    for draft in drafts {
        if let Some(other) = first.insert(draft.pod.key(), draft) {
            let origin = |draft: &Draft| format!("{} ({})", draft.pod.workload, draft.at);
            return Err(Error::Twice {
                object: format!("Pod {}", draft.pod.key()),
                first: origin(other),
                second: origin(draft),
            });
        }
    }
    Ok(())
}

/// The object as given, namespace settled, once its types are known to be right.
///
/// The API server would refuse a policy with a wrong type; leaving it out here would open what it should close.
fn checked(item: &Manifest) -> Result<Value, Error> {
    let mut value = item.value.clone();
    value["metadata"]["namespace"] = item.namespace.clone().into();
    value["metadata"]["name"] = item.name.clone().into();
    let api_version = item.text("apiVersion").unwrap_or_default().to_owned();
    let document = Document { origin: item.at.clone(), line: 0, kind: item.kind.clone(), api_version, value };
    match object(&document) {
        Ok(_) => Ok(document.value),
        Err(warning) => Err(item.error(&warning.field, warning.message)),
    }
}

/// The pod in which the resolver runs.
fn dns_pod(families: Families) -> Draft {
    let labels = BTreeMap::from([("k8s-app".to_owned(), Cast::DNS_NAME.to_owned())]);
    let uid = name::uid(&["Pod", Cast::DNS_NAMESPACE, Cast::DNS_NAME, &format!("{families:?}")]);
    let port = |name: &str, protocol| Port { name: Some(name.to_owned()), port: 53, protocol };
    let pod = Pod {
        namespace: Cast::DNS_NAMESPACE.into(),
        name: Cast::DNS_NAME.into(),
        workload: format!("Pod {}/{}", Cast::DNS_NAMESPACE, Cast::DNS_NAME),
        node: 0,
        annotations: BTreeMap::new(),
        ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
        listen: Vec::new(),
        host_network: false,
        system: true,
        hostname: Cast::DNS_NAME.into(),
        subdomain: None,
        object: json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": Cast::DNS_NAMESPACE, "name": Cast::DNS_NAME, "uid": uid, "labels": labels,
            },
            "spec": {
                "containers": [{
                    "name": "dns",
                    "image": "weir-stub",
                    "ports": [
                        { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                        { "name": "dns-tcp", "containerPort": 53, "protocol": "TCP" },
                    ],
                }],
            },
        }),
        labels,
        uid,
    };
    Draft { pod, at: "the sandbox itself".into(), daemon_of: None, wants_node: None }
}

/// Pods answer where Services lead, whether or not their containers declare the port.
fn listen_for_services(pods: &mut [Pod], services: &[Service]) {
    for pod in pods {
        let selecting = services.iter().filter(|service| service.selects(pod));
        let targets: Vec<_> = selecting
            .flat_map(|service| &service.ports)
            .filter_map(|port| Some(Listen { port: port.target_on(pod)?, protocol: port.protocol }))
            .collect();
        pod.listen.extend(targets);
        pod.listen.sort();
        pod.listen.dedup();
    }
}

/// Every namespace that something lives in; those that nobody declared are made, and said.
fn namespaces(
    declared: &[&Manifest],
    items: &[Manifest],
    warnings: &mut Vec<String>,
) -> Result<Vec<Value>, Error> {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for item in declared {
        checked(item)?;
        all.insert(item.name.clone(), item.value.clone());
    }
    for name in ["default", Cast::DNS_NAMESPACE] {
        all.entry(name.to_owned()).or_insert_with(|| json!({ "apiVersion": "v1", "kind": "Namespace" }));
    }
    for item in items.iter().filter(|item| !item.namespace.is_empty()) {
        if !all.contains_key(&item.namespace) {
            warnings.push(format!(
                "Namespace {}: nobody declares it; {} ({}) lives there, so it is made, without labels",
                item.namespace,
                item.title(),
                item.at
            ));
            all.insert(item.namespace.clone(), json!({ "apiVersion": "v1", "kind": "Namespace" }));
        }
    }
    for (name, object) in &mut all {
        let metadata = &mut object["metadata"];
        metadata["name"] = name.clone().into();
        // The API server owns this label and overwrites whatever was given.
        metadata["labels"]["kubernetes.io/metadata.name"] = name.clone().into();
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.remove("namespace");
        }
    }
    Ok(all.into_values().collect())
}

#[cfg(test)]
mod tests;
