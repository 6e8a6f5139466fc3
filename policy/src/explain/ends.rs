//! Whom a name means: a pod, the pods of a workload or behind a Service, a node, an address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ask::Unclear;
use crate::facts::PodFacts;
use crate::spelling;
use crate::world::World;

/// Addresses that nobody has (documentation's own); a sandbox's `outside` has them.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10)),
];

/// The letters and digits of which controllers make names.
const GENERATED: &str = "bcdfghjklmnpqrstvwxz2456789";

/// Every address that one name means; at least one.
pub(super) struct Ends<'a> {
    pub all: Vec<Destination<'a>>,
}

pub(super) struct Destination<'a> {
    pub ip: IpAddr,
    pub pod: Option<&'a PodFacts>,
    /// Where the name is a Service's: its ports, and where they lead on this pod.
    pub service_ports: Option<Vec<ServicePort>>,
    pub note: Option<String>,
}

pub(super) struct ServicePort {
    pub name: String,
    /// The Service's own number; a headless Service has none that is known here.
    pub number: Option<u16>,
    pub protocol: u8,
    pub target: u16,
}

/// A kind that makes pods, as its pods' names show it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Workload {
    Pod,
    Deployment,
    StatefulSet,
    CronJob,
    /// ReplicaSet, ReplicationController, DaemonSet, Job.
    Direct,
    Service,
}

/// A name taken apart.
struct Name<'a> {
    kind: Option<Workload>,
    namespace: Option<&'a str>,
    name: &'a str,
}

impl<'a> Ends<'a> {
    pub(super) fn find(world: &'a World, field: &'static str, text: &str) -> Result<Self, Unclear> {
        let unclear = |message: String| Unclear { field, value: text.to_owned(), message };
        let plain =
            |ips: &[IpAddr]| Self { all: ips.iter().map(|ip| Destination::of_ip(world, *ip)).collect() };
        if let Ok(ip) = text.parse() {
            return Ok(plain(&[ip]));
        }
        if text == "outside" {
            return Ok(plain(&OUTSIDE));
        }
        if let Some(name) = text.strip_prefix("node/") {
            let Some(node) = world.nodes().find(|node| node.name == name) else {
                let names: Vec<_> = world.nodes().map(|node| node.name.as_str()).collect();
                return Err(unclear(format!("no such node: there are {}", names.join(", "))));
            };
            return match node.ips.as_slice() {
                [] => Err(unclear("the node has no address yet".to_owned())),
                ips => Ok(plain(ips)),
            };
        }
        let name = Name::parse(world, text).ok_or_else(|| {
            unclear("expected an address, node/NAME, outside, or [KIND/]NAMESPACE/NAME".to_owned())
        })?;
        let pods = name.pods(world);
        if let Some(first) = pods.first() {
            let namespaces: BTreeSet<&str> = pods.iter().map(|pod| pod.namespace.as_str()).collect();
            if namespaces.len() > 1 {
                let all: Vec<_> = namespaces.iter().map(|ns| format!("{ns}/{}", name.name)).collect();
                return Err(unclear(format!("may be any of {}: say NAMESPACE/NAME", all.join(", "))));
            }
            let ends: Vec<_> = pods.iter().flat_map(|pod| of_pod(world, pod)).collect();
            return match ends.is_empty() {
                true => Err(unclear(format!("{}/{} has no address yet", first.namespace, first.name))),
                false => Ok(Self { all: ends }),
            };
        }
        let behind = name.behind_service(world, text);
        if !behind.is_empty() {
            return Ok(Self { all: behind });
        }
        Err(unclear(name.unknown(world)))
    }
}

impl<'a> Destination<'a> {
    fn of_ip(world: &'a World, ip: IpAddr) -> Self {
        let pod = world.owner(ip).map(|pod| &**pod);
        Self { ip, pod, service_ports: None, note: None }
    }
}

fn of_pod<'a>(world: &'a World, pod: &'a PodFacts) -> Vec<Destination<'a>> {
    let mut ips: Vec<IpAddr> = world.addresses_of(pod).collect();
    ips.sort();
    ips.dedup();
    let is_its = |ip: &IpAddr| pod.host_network || world.owner(*ip).is_some_and(|owner| **owner == *pod);
    let note = pod.host_network.then(|| {
        format!(
            "{}/{} lives on its node's network: no policy selects it, and to others it is its node",
            pod.namespace, pod.name
        )
    });
    let ends = ips.into_iter().filter(is_its);
    ends.map(|ip| Destination { ip, pod: Some(pod), service_ports: None, note: note.clone() }).collect()
}

impl<'a> Name<'a> {
    fn parse(world: &World, text: &'a str) -> Option<Self> {
        // `Deployment shop/web`, as the sandbox writes it, is `Deployment/shop/web`.
        let parts: Vec<&str> = text.split(['/', ' ']).collect();
        if parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        Some(match parts.as_slice() {
            [name] => Self { kind: None, namespace: None, name },
            [kind, namespace, name] => {
                Self { kind: Some(Workload::parse(kind)?), namespace: Some(namespace), name }
            }
            [first, name] => match Workload::parse(first) {
                Some(kind) if world.pods_of(first).next().is_none() => {
                    Self { kind: Some(kind), namespace: None, name }
                }
                _ => Self { kind: None, namespace: Some(first), name },
            },
            _ => return None,
        })
    }

    /// The pod of exactly this name, else the pods whose names controllers make of it.
    fn pods<'w>(&self, world: &'w World) -> Vec<&'w PodFacts> {
        let all = || {
            let pods = world.pods().map(|pod| &**pod).filter(|pod| !pod.finished);
            pods.filter(|pod| self.namespace.is_none_or(|namespace| pod.namespace == namespace))
        };
        let is_pod = matches!(self.kind, None | Some(Workload::Pod));
        let mut found: Vec<_> = all().filter(|pod| is_pod && pod.name == self.name).collect();
        if found.is_empty() {
            found = all().filter(|pod| is_made(&pod.name, self.name, self.kind)).collect();
        }
        found.sort_by_key(|pod| (&pod.namespace, &pod.name));
        found.dedup_by_key(|pod| (&pod.namespace, &pod.name));
        found
    }

    /// The pods behind the Service of this name.
    fn behind_service<'w>(&self, world: &'w World, text: &str) -> Vec<Destination<'w>> {
        if !matches!(self.kind, None | Some(Workload::Service)) {
            return Vec::new();
        }
        let slices = world.slices.values().filter(|slice| {
            slice.service == self.name && self.namespace.is_none_or(|namespace| slice.namespace == namespace)
        });
        let mut found = Vec::new();
        for slice in slices {
            let service = world.services.get(&(slice.namespace.clone(), slice.service.clone()));
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready) {
                let ports = slice.ports.iter().map(|port| {
                    let own = service.and_then(|service| {
                        service
                            .ports
                            .iter()
                            .find(|own| own.name == port.name && own.protocol == port.protocol)
                    });
                    // Without a virtual address nothing is translated: the pod's port is the port.
                    let number =
                        if service.is_some() { own.map(|own| own.number) } else { Some(port.number) };
                    ServicePort {
                        name: port.name.clone(),
                        number,
                        protocol: port.protocol,
                        target: port.number,
                    }
                });
                found.push(Destination {
                    service_ports: Some(ports.collect()),
                    note: Some(format!("{text} is a Service: asked is the pod behind it, on the pod's port")),
                    ..Destination::of_ip(world, endpoint.ip)
                });
            }
        }
        found
    }

    /// What to say where nothing has this name.
    fn unknown(&self, world: &World) -> String {
        if let Some(Workload::Service) = self.kind {
            return "no Service of this name has a pod behind it".to_owned();
        }
        let of_namespace = |pod: &&std::sync::Arc<PodFacts>| {
            self.namespace.is_none_or(|namespace| pod.namespace == namespace)
        };
        if let Some(namespace) = self.namespace
            && world.pods_of(namespace).next().is_none()
        {
            return format!("there is no pod in namespace {namespace}");
        }
        let near = world.pods().filter(of_namespace).find_map(|pod| {
            let stem = stem(&pod.name);
            let near =
                [pod.name.as_str(), stem].into_iter().find(|name| spelling::is_near(name, self.name))?;
            Some(format!("{}/{near}", pod.namespace))
        });
        let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        format!("no pod, workload or Service is called this{near}")
    }
}

impl Workload {
    fn parse(text: &str) -> Option<Self> {
        Some(match text.to_lowercase().as_str() {
            "pod" | "pods" | "po" => Self::Pod,
            "deployment" | "deployments" | "deploy" => Self::Deployment,
            "statefulset" | "statefulsets" | "sts" => Self::StatefulSet,
            "cronjob" | "cronjobs" | "cj" => Self::CronJob,
            "replicaset"
            | "replicasets"
            | "rs"
            | "daemonset"
            | "daemonsets"
            | "ds"
            | "job"
            | "jobs"
            | "replicationcontroller"
            | "replicationcontrollers"
            | "rc" => Self::Direct,
            "service" | "services" | "svc" => Self::Service,
            _ => return None,
        })
    }
}

/// Whether a controller makes pods of this name for a workload of that one.
fn is_made(pod: &str, workload: &str, kind: Option<Workload>) -> bool {
    let Some(rest) = pod.strip_prefix(workload).and_then(|rest| rest.strip_prefix('-')) else { return false };
    let parts: Vec<&str> = rest.split('-').collect();
    let is = |wanted| kind.is_none_or(|kind| kind == wanted);
    match parts.as_slice() {
        [one] => {
            (is(Workload::StatefulSet) && is_number(one))
                || (is(Workload::Direct) && is_generated(one, 5..=5))
        }
        [middle, last] if is_generated(last, 5..=5) => {
            (is(Workload::Deployment) && is_generated(middle, 6..=10))
                // An indexed Job's pods bear their index.
                || ((is(Workload::CronJob) || is(Workload::Direct)) && is_number(middle))
        }
        _ => false,
    }
}

/// The workload's part of a pod's name, as far as the name shows it.
fn stem(pod: &str) -> &str {
    let mut stem = pod;
    for _ in 0..2 {
        match stem.rsplit_once('-') {
            Some((before, last)) if is_number(last) || is_generated(last, 5..=10) => stem = before,
            _ => break,
        }
    }
    stem
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_generated(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.chars().all(|letter| GENERATED.contains(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_told_by_the_names_that_controllers_make() {
        for (pod, workload, kind, made) in [
            ("web-5d8f9c7b6d-x2k4z", "web", None, true),
            ("web-5d8f9c7b6d-x2k4z", "web", Some(Workload::Deployment), true),
            ("web-5d8f9c7b6d-x2k4z", "web", Some(Workload::StatefulSet), false),
            ("web-5d8f9c7b6d-x2k4z", "web-5d8f9c7b6d", Some(Workload::Direct), true),
            ("web-0", "web", None, true),
            ("web-0", "web", Some(Workload::Deployment), false),
            ("web-api-5d8f9c7b6d-x2k4z", "web", None, false),
            ("web-x2k4z", "web", Some(Workload::Direct), true),
            ("web-29382910-x2k4z", "web", Some(Workload::CronJob), true),
            ("web", "web", None, false),
            ("webs-0", "web", None, false),
        ] {
            assert_eq!(is_made(pod, workload, kind), made, "{pod} of {workload}");
        }
        assert_eq!(stem("web-5d8f9c7b6d-x2k4z"), "web");
        assert_eq!(stem("web-0"), "web");
        assert_eq!(stem("web-api"), "web-api");
    }
}
