//! The names of a cluster, as the Kubernetes DNS specification (1.1) has them. Pure: a cast in, records out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::{Cast, Pod, PodIps, Service};

/// Every name with its records. Names are lower case, whole, without the last dot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Zone(BTreeMap<String, Vec<Record>>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(String),
    Srv { port: u16, target: String },
}

impl From<IpAddr> for Record {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::A(ip),
            IpAddr::V6(ip) => Self::Aaaa(ip),
        }
    }
}

/// What the zone knows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    Records(&'a [Record]),
    /// Nothing by itself, but it has names below it.
    Empty,
    Unknown,
}

impl Zone {
    pub fn of(cast: &Cast, ips: &PodIps) -> Self {
        let mut zone = Self::default();
        for service in &cast.services {
            let name = format!("{}.{}.svc.{}", service.name, service.namespace, Cast::CLUSTER_DOMAIN);
            if let Some(target) = &service.external_name {
                zone.add(name, Record::Cname(target.trim_end_matches('.').to_ascii_lowercase()));
            } else if service.headless {
                zone.headless(cast, ips, service, &name);
            } else {
                for ip in &service.cluster_ips {
                    zone.add(name.clone(), (*ip).into());
                }
                for port in &service.ports {
                    if let Some(label) = &port.name {
                        let srv = Record::Srv { port: port.port, target: name.clone() };
                        zone.add(format!("_{label}._{}.{name}", port.protocol), srv);
                    }
                }
            }
        }
        zone
    }

    /// A headless Service leads to its pods themselves, each under a name of its own too.
    fn headless(&mut self, cast: &Cast, ips: &PodIps, service: &Service, name: &str) {
        for pod in cast.pods.iter().filter(|pod| service.selects(pod)) {
            let addresses = ips.get(&pod.key()).map(Vec::as_slice).unwrap_or_default();
            let own = own_label(service, pod, addresses).map(|label| format!("{label}.{name}"));
            for ip in addresses {
                self.add(name.to_owned(), (*ip).into());
                if let Some(own) = &own {
                    self.add(own.clone(), (*ip).into());
                }
            }
            for port in &service.ports {
                if let (Some(label), Some(target), Some(port_of_pod)) =
                    (&port.name, &own, port.target_on(pod))
                {
                    let srv = Record::Srv { port: port_of_pod, target: target.clone() };
                    self.add(format!("_{label}._{}.{name}", port.protocol), srv);
                }
            }
        }
        if service.selector.is_empty() {
            for ip in cast.endpoint_slices.iter().flat_map(|slice| addresses_of(slice, service)) {
                self.add(name.to_owned(), ip.into());
            }
        }
    }

    fn add(&mut self, name: String, record: Record) {
        let records = self.0.entry(name.to_ascii_lowercase()).or_default();
        if !records.contains(&record) {
            records.push(record);
        }
    }

    /// What `name` (any case, with or without the last dot) stands for.
    pub fn answer(&self, name: &str) -> Answer<'_> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(records) = self.0.get(&name) {
            return Answer::Records(records);
        }
        let below = |known: &String| known.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.'));
        if self.0.keys().any(below) { Answer::Empty } else { Answer::Unknown }
    }
}

/// The label that a pod has below a headless Service: its hostname if it asks for that, else its first address.
fn own_label(service: &Service, pod: &Pod, addresses: &[IpAddr]) -> Option<String> {
    if pod.subdomain.as_ref() == Some(&service.name) {
        return Some(pod.hostname.clone());
    }
    addresses.first().map(|ip| ip.to_string().replace(['.', ':'], "-"))
}

fn addresses_of(slice: &Value, service: &Service) -> Vec<IpAddr> {
    let text = |pointer| slice.pointer(pointer).and_then(Value::as_str);
    if text("/metadata/namespace").unwrap_or("default") != service.namespace
        || text("/metadata/labels/kubernetes.io~1service-name") != Some(&service.name)
    {
        return Vec::new();
    }
    let endpoints = slice.get("endpoints").and_then(Value::as_array).into_iter().flatten();
    endpoints
        .filter_map(|endpoint| endpoint.get("addresses")?.as_array())
        .flatten()
        .filter_map(|address| address.as_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Port, Protocol, ServicePort, Target};

    fn pod(name: &str, subdomain: Option<&str>) -> Pod {
        Pod {
            namespace: "shop".into(),
            name: name.into(),
            uid: name.into(),
            workload: format!("Pod shop/{name}"),
            node: 0,
            labels: [("app".to_owned(), "db".to_owned())].into(),
            annotations: BTreeMap::new(),
            ports: vec![Port { name: Some("sql".into()), port: 5432, protocol: Protocol::Tcp }],
            listen: Vec::new(),
            host_network: false,
            system: false,
            hostname: name.into(),
            subdomain: subdomain.map(str::to_owned),
            object: Value::Null,
        }
    }

    fn service(name: &str) -> Service {
        Service {
            namespace: "shop".into(),
            name: name.into(),
            cluster_ips: Vec::new(),
            ports: vec![ServicePort {
                name: Some("sql".into()),
                port: 80,
                protocol: Protocol::Tcp,
                target: Target::Name("sql".into()),
            }],
            selector: [("app".to_owned(), "db".to_owned())].into(),
            headless: false,
            external_name: None,
            system: false,
            object: Value::Null,
        }
    }

    fn zone() -> Zone {
        let cluster = Service { cluster_ips: vec!["10.96.0.1".parse().unwrap()], ..service("web") };
        let headless = Service { headless: true, ..service("db") };
        let external = Service { external_name: Some("Example.org.".into()), ..service("out") };
        let cast = Cast {
            services: vec![cluster, headless, external],
            pods: vec![pod("db-0", Some("db")), pod("loose", None)],
            ..Cast::default()
        };
        let ips = [
            ("shop/db-0".to_owned(), vec!["10.244.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]),
            ("shop/loose".to_owned(), vec!["10.244.0.3".parse().unwrap()]),
        ];
        Zone::of(&cast, &ips.into())
    }

    #[track_caller]
    fn check(name: &str, expected: &str) {
        let zone = zone();
        assert_eq!(format!("{:?}", zone.answer(name)), expected, "{name}");
    }

    #[test]
    fn a_service_is_its_cluster_ip_in_any_case() {
        check("web.shop.svc.cluster.local", "Records([A(10.96.0.1)])");
        check("WEB.shop.svc.cluster.local.", "Records([A(10.96.0.1)])");
    }

    #[test]
    fn a_headless_service_is_its_pods() {
        check("db.shop.svc.cluster.local", "Records([A(10.244.0.2), Aaaa(fd00::2), A(10.244.0.3)])");
        check("db-0.db.shop.svc.cluster.local", "Records([A(10.244.0.2), Aaaa(fd00::2)])");
        check("10-244-0-3.db.shop.svc.cluster.local", "Records([A(10.244.0.3)])");
    }

    #[test]
    fn named_ports_have_srv_records() {
        check(
            "_sql._tcp.web.shop.svc.cluster.local",
            "Records([Srv { port: 80, target: \"web.shop.svc.cluster.local\" }])",
        );
        check(
            "_sql._tcp.db.shop.svc.cluster.local",
            "Records([Srv { port: 5432, target: \"db-0.db.shop.svc.cluster.local\" }, \
             Srv { port: 5432, target: \"10-244-0-3.db.shop.svc.cluster.local\" }])",
        );
    }

    #[test]
    fn an_external_name_is_an_alias() {
        check("out.shop.svc.cluster.local", "Records([Cname(\"example.org\")])");
    }

    #[test]
    fn names_between_are_empty_and_others_unknown() {
        check("shop.svc.cluster.local", "Empty");
        check("nobody.shop.svc.cluster.local", "Unknown");
        check("hop.svc.cluster.local", "Unknown");
    }
}
