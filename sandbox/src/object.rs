//! What the agents read: the objects that an API server would show once pods have addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::plan::{Cast, Node, Pod, PodIps, Service};

/// Everything that goes into the agents' folder. Pods that have no address yet are `Pending`.
pub fn objects(cast: &Cast, ips: &PodIps) -> Vec<Value> {
    let mut objects = cast.namespaces.clone();
    objects.extend(cast.nodes.iter().map(node));
    objects.extend(cast.pods.iter().map(|object| pod(cast, object, ips)));
    objects.extend(cast.services.iter().map(|service| service.object.clone()));
    objects.extend(cast.policies.iter().cloned());
    objects.extend(cast.endpoint_slices.iter().cloned());
    // Typed values of strings and numbers: nothing that JSON could not hold.
    objects.extend(endpoint_slices(cast, ips).iter().filter_map(|slice| serde_json::to_value(slice).ok()));
    objects
}

fn node(node: &Node) -> Value {
    let mut addresses: Vec<_> =
        node.ips.iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
    addresses.push(json!({ "type": "Hostname", "address": node.name }));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": { "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux" },
        },
        "spec": { "podCIDR": node.pod_cidrs.first(), "podCIDRs": node.pod_cidrs },
        "status": { "addresses": addresses, "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

/// The addresses of a pod: its own, or its node's where it has no network of its own.
pub fn addresses<'a>(cast: &'a Cast, pod: &Pod, ips: &'a PodIps) -> &'a [IpAddr] {
    let node = cast.nodes.get(pod.node).filter(|_| pod.host_network).map(|node| node.ips.as_slice());
    node.or_else(|| ips.get(&pod.key()).map(Vec::as_slice)).unwrap_or_default()
}

fn pod(cast: &Cast, pod: &Pod, ips: &PodIps) -> Value {
    let mut object = pod.object.clone();
    let addresses = addresses(cast, pod, ips);
    let host: &[IpAddr] = cast.nodes.get(pod.node).map_or(&[], |node| &node.ips);
    let list = |ips: &[IpAddr]| ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>();
    object["status"] = json!({ "phase": "Pending" });
    if let Some(first) = addresses.first() {
        object["status"] = json!({
            "phase": "Running",
            "hostIP": host.first(),
            "hostIPs": list(host),
            "podIP": first,
            "podIPs": list(addresses),
            "conditions": [{ "type": "Ready", "status": "True" }],
        });
    }
    object
}

/// What the EndpointSlice controller would write: for each Service with a selector one slice a family, and one more
/// wherever pods give a port's name another number.
pub fn endpoint_slices(cast: &Cast, ips: &PodIps) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for service in &cast.services {
        for family in families(service) {
            let mut groups: BTreeMap<Vec<Option<u16>>, Vec<Endpoint>> = BTreeMap::new();
            for pod in cast.pods.iter().filter(|pod| service.selects(pod)) {
                let has_family = |ip: &&IpAddr| ip.is_ipv4() == (family == "IPv4");
                let Some(ip) = addresses(cast, pod, ips).iter().find(has_family) else { continue };
                let targets = service.ports.iter().map(|port| port.target_on(pod)).collect();
                groups.entry(targets).or_default().push(endpoint(cast, service, pod, *ip));
            }
            for (index, (targets, endpoints)) in groups.into_iter().enumerate() {
                slices.push(slice(service, family, index, &targets, endpoints));
            }
        }
    }
    slices
}

/// As the Service object says, which has been given its families by then.
fn families(service: &Service) -> Vec<&'static str> {
    let families = service.object.pointer("/spec/ipFamilies").and_then(Value::as_array);
    let names = families.into_iter().flatten().filter_map(Value::as_str);
    names.map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect()
}

fn endpoint(cast: &Cast, service: &Service, pod: &Pod, ip: IpAddr) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        hostname: (pod.subdomain.as_ref() == Some(&service.name)).then(|| pod.hostname.clone()),
        node_name: cast.nodes.get(pod.node).map(|node| node.name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn slice(
    service: &Service,
    family: &str,
    index: usize,
    targets: &[Option<u16>],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let ports = service.ports.iter().zip(targets).filter_map(|(port, target)| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(i32::from((*target)?)),
            protocol: Some(port.protocol.as_str().into()),
            ..EndpointPort::default()
        })
    });
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        metadata: ObjectMeta {
            namespace: Some(service.namespace.clone()),
            name: Some(format!("{}-{}-{index}", service.name, family.to_lowercase())),
            labels: Some(
                [
                    ("endpointslice.kubernetes.io/managed-by", "weir-sandbox"),
                    ("kubernetes.io/service-name", &service.name),
                ]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ),
            ..ObjectMeta::default()
        },
        ports: Some(ports.collect()),
    }
}

#[cfg(test)]
mod tests;
