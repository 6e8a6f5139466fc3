//! What the API server adds to a Service: defaults and virtual addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{Service as ServiceObject, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy::Object;
use policy::manifest::{Document, object};
use serde_json::json;

use crate::manifest::{Error, Manifest};
use crate::name;
use crate::plan::{Cast, Protocol, Service, ServicePort, Target};

/// 10.96.0.0/16 and fd00:96::/112: the low sixteen bits tell Services apart, the same in both families.
const NETWORK_V4: [u8; 2] = [10, 96];
const NETWORK_V6: [u16; 7] = [0xfd00, 0x96, 0, 0, 0, 0, 0];
/// Where kube-dns is.
const DNS_OFFSET: u16 = 10;
/// Below this, addresses are given only to who asks for them, as Kubernetes does it.
const FIRST_OFFSET: u16 = 0x100;

/// The families that pods have addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Families {
    pub v4: bool,
    pub v6: bool,
}

/// Gives each Service its addresses. The same Services always get the same ones.
pub(crate) struct Allocator {
    families: Families,
    taken: BTreeSet<u16>,
}

impl Allocator {
    pub(crate) fn new(families: Families) -> Self {
        Self { families, taken: BTreeSet::from([DNS_OFFSET]) }
    }

    fn address(offset: u16, v4: bool) -> IpAddr {
        let [a, b] = NETWORK_V4;
        let [c, d] = offset.to_be_bytes();
        let [p, q, r, s, t, u, v] = NETWORK_V6;
        if v4 { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::new(p, q, r, s, t, u, v, offset).into() }
    }

    fn offset(address: IpAddr) -> Option<u16> {
        match address {
            IpAddr::V4(address) => match address.octets() {
                [a, b, c, d] if [a, b] == NETWORK_V4 => Some(u16::from_be_bytes([c, d])),
                _ => None,
            },
            IpAddr::V6(address) => match address.segments() {
                [network @ .., offset] if network == NETWORK_V6 => Some(offset),
                _ => None,
            },
        }
    }

    /// The offset that `key` hashes to, or the next free one.
    fn free(&mut self, key: &str) -> u16 {
        let span = u64::from(u16::MAX - FIRST_OFFSET);
        // A remainder of a u16 span fits a u16.
        let mut offset = FIRST_OFFSET + u16::try_from(name::hash(&[key]) % span).unwrap_or_default();
        while !self.taken.insert(offset) {
            offset = if offset >= u16::MAX - 1 { FIRST_OFFSET } else { offset + 1 };
        }
        offset
    }
}

/// Reads one Service. Addresses come later, in [`assign`]: explicit ones go first.
pub(crate) fn read(item: &Manifest, warnings: &mut Vec<String>) -> Result<(Service, ServiceObject), Error> {
    let document = Document {
        origin: item.at.clone(),
        line: 0,
        kind: item.kind.clone(),
        api_version: "v1".into(),
        value: item.value.clone(),
    };
    let (mut object, unknown) = match object(&document) {
        Ok(Some((Object::Service(object), unknown))) => (*object, unknown),
        Err(warning) => return Err(item.error(&warning.field, warning.message)),
        Ok(_) => return Err(item.error("spec", "not read as a Service")),
    };
    warnings.extend(unknown.iter().map(ToString::to_string));
    object.metadata.namespace = Some(item.namespace.clone());
    object.metadata.name = Some(item.name.clone());
    let spec = object.spec.get_or_insert_default();
    let kind = spec.type_.get_or_insert_with(|| "ClusterIP".into()).clone();
    if kind == "ExternalName" && spec.external_name.is_none() {
        warnings.push(format!("{}: spec.externalName: missing: the name resolves to nothing", item.title()));
    }
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
        let target = port.target_port.get_or_insert(IntOrString::Int(port.port)).clone();
        let protocol = Protocol::parse(port.protocol.as_deref());
        port.protocol.get_or_insert_with(|| "TCP".into());
        let number = |port: i32| u16::try_from(port).ok().filter(|&port| port != 0);
        let target = match target {
            IntOrString::Int(port) => number(port).map(Target::Number),
            // A quoted number is a name that no port can have.
            IntOrString::String(name) if name.bytes().all(|byte| byte.is_ascii_digit()) => None,
            IntOrString::String(name) => Some(Target::Name(name)),
        };
        match (number(port.port), protocol, target) {
            (Some(number), Some(protocol), Some(target)) => {
                ports.push(ServicePort { name: port.name.clone(), port: number, protocol, target });
            }
            (number, protocol, _) => {
                let (field, message) = match (number, protocol) {
                    (None, _) => ("port", format!("{} is no port (1 to 65535)", port.port)),
                    (_, None) => ("protocol", "none of TCP, UDP, SCTP".to_owned()),
                    _ => ("targetPort", "neither a number from 1 to 65535 nor a port's name".to_owned()),
                };
                warnings.push(format!("{}: spec.ports[{index}].{field}: {message}", item.title()));
            }
        }
    }
    let service = Service {
        namespace: item.namespace.clone(),
        name: item.name.clone(),
        cluster_ips: Vec::new(),
        ports,
        selector: spec.selector.clone().filter(|_| kind != "ExternalName").unwrap_or_default(),
        headless: kind != "ExternalName" && spec.cluster_ip.as_deref() == Some("None"),
        external_name: spec.external_name.clone().filter(|_| kind == "ExternalName"),
        system: false,
        object: serde_json::Value::Null,
    };
    Ok((service, object))
}

/// Gives addresses to all: first to those who name theirs, then to the others in order of name.
pub(crate) fn assign(
    services: Vec<(Service, ServiceObject)>,
    allocator: &mut Allocator,
    warnings: &mut Vec<String>,
) -> Vec<Service> {
    let mut services = services;
    services.sort_by_key(|(service, _)| service.key());
    for (service, object) in &mut services {
        let spec = object.spec.get_or_insert_default();
        service.cluster_ips = explicit(service, spec, allocator, warnings);
    }
    for (service, object) in &mut services {
        let spec = object.spec.get_or_insert_default();
        let families = families(spec, allocator.families, &service.cluster_ips);
        let takes_addresses = !service.headless && service.external_name.is_none() && !is_external(spec);
        if takes_addresses && service.cluster_ips.is_empty() {
            let offset = allocator.free(&service.key());
            service.cluster_ips =
                families.iter().map(|family| Allocator::address(offset, *family == "IPv4")).collect();
        }
        if !is_external(spec) {
            spec.ip_families = Some(families.iter().map(ToString::to_string).collect());
        }
        if takes_addresses {
            spec.cluster_ips = Some(service.cluster_ips.iter().map(ToString::to_string).collect());
            spec.cluster_ip = service.cluster_ips.first().map(ToString::to_string);
        }
        service.object = serde_json::to_value(&*object).unwrap_or_default();
    }
    services.into_iter().map(|(service, _)| service).collect()
}

fn is_external(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

/// The addresses that the Service asks for by number, where they can be had.
fn explicit(
    service: &Service,
    spec: &ServiceSpec,
    allocator: &mut Allocator,
    warnings: &mut Vec<String>,
) -> Vec<IpAddr> {
    if service.headless || is_external(spec) {
        return Vec::new();
    }
    let listed = spec.cluster_ips.iter().flatten().map(|address| ("spec.clusterIPs", address));
    let single = spec.cluster_ip.iter().map(|address| ("spec.clusterIP", address));
    let asked = if spec.cluster_ips.as_ref().is_some_and(|list| !list.is_empty()) {
        listed.collect::<Vec<_>>()
    } else {
        single.collect()
    };
    let mut given = Vec::new();
    let mut offsets = BTreeSet::new();
    for (field, text) in asked {
        if text.is_empty() {
            continue;
        }
        let offset = text.parse::<IpAddr>().ok().and_then(|ip| Some((ip, Allocator::offset(ip)?)));
        let message = match offset {
            Some((ip, offset)) if offsets.contains(&offset) || allocator.taken.insert(offset) => {
                offsets.insert(offset);
                given.push(ip);
                continue;
            }
            Some(_) => "belongs to another Service",
            None => "not in the sandbox's Service ranges, 10.96.0.0/16 and fd00:96::/112",
        };
        warnings.push(format!("Service {}: {field}: {text}: {message}; it gets another", service.key()));
        return Vec::new();
    }
    given
}

/// The families of a Service, first the primary one. Without a word, both: the sandbox is dual-stack.
fn families(spec: &ServiceSpec, pods: Families, given: &[IpAddr]) -> Vec<&'static str> {
    if !given.is_empty() {
        return given.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    }
    let listed =
        spec.ip_families.iter().flatten().map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" });
    let mut families: Vec<_> = listed.collect();
    let policy = spec.ip_family_policy.as_deref();
    let dual = matches!(policy, Some("PreferDualStack" | "RequireDualStack"));
    for family in ["IPv4", "IPv6"] {
        if !families.contains(&family) && (dual || families.is_empty() || spec.ip_families.is_none()) {
            families.push(family);
        }
    }
    families.retain(|family| if *family == "IPv4" { pods.v4 } else { pods.v6 });
    if policy == Some("SingleStack") {
        families.truncate(1);
    }
    families
}

/// The resolver's own Service.
pub(crate) fn dns(families: Families) -> Service {
    let addresses = [(families.v4, true), (families.v6, false)];
    let cluster_ips: Vec<_> =
        addresses.iter().filter(|(has, _)| *has).map(|(_, v4)| Allocator::address(DNS_OFFSET, *v4)).collect();
    let port = |name: &str, protocol| ServicePort {
        name: Some(name.into()),
        port: 53,
        protocol,
        target: Target::Number(53),
    };
    let ip_families: Vec<_> =
        cluster_ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    Service {
        namespace: Cast::DNS_NAMESPACE.into(),
        name: Cast::DNS_NAME.into(),
        ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
        selector: [("k8s-app".to_owned(), Cast::DNS_NAME.to_owned())].into(),
        headless: false,
        external_name: None,
        system: true,
        object: json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "namespace": Cast::DNS_NAMESPACE, "name": Cast::DNS_NAME, "labels": { "k8s-app": Cast::DNS_NAME } },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": cluster_ips.first(),
                "clusterIPs": cluster_ips,
                "ipFamilies": ip_families,
                "selector": { "k8s-app": Cast::DNS_NAME },
                "ports": [
                    { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
                    { "name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53 },
                ],
            },
        }),
        cluster_ips,
    }
}
