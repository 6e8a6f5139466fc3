//! Backends: from a Service's port to the addresses of its endpoints.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use hyper::StatusCode;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::IngressBackend;
use policy::Warning;

use super::{Action, Cluster, Protocol, Share, Template, Warner};
use crate::object::{Name, World};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// How the endpoints of a Service are come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    pub protocol: Protocol,
    /// To the Service's own address, whoever translates it.
    pub through_service: bool,
}

impl From<Protocol> for Way {
    fn from(protocol: Protocol) -> Self {
        Self { protocol, through_service: false }
    }
}

/// What a cluster is made from: a Service, the name or number of its port, and how its endpoints are come by.
pub type Place = (Name, String, Way);

/// The same clusters with the endpoints that they have now. `None` where one of them cannot be had any more.
pub(super) fn again(world: &World, places: &[Place]) -> Option<(Vec<Cluster>, Vec<Warning>)> {
    let mut backends = Backends::new(world);
    let clusters = places.iter().map(|(name, port, way)| backends.resolve(name, port, *way).ok());
    let clusters = clusters.collect::<Option<_>>()?;
    Some((clusters, backends.warnings))
}

/// The clusters in use, each once, and how Services lead to endpoints.
pub(super) struct Backends<'a> {
    world: &'a World,
    slices: HashMap<Name, Vec<&'a EndpointSlice>>,
    clusters: Vec<Cluster>,
    places: Vec<Place>,
    known: BTreeMap<Place, Result<usize, String>>,
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let mut slices: HashMap<Name, Vec<&EndpointSlice>> = HashMap::new();
        for (name, slice) in &world.slices {
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
                let service = Name::new(name.namespace.clone(), service.clone());
                slices.entry(service).or_default().push(slice);
            }
        }
        Self {
            world,
            slices,
            clusters: Vec::new(),
            places: Vec::new(),
            known: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// The clusters, and what each was made from.
    pub(super) fn into_clusters(self) -> (Vec<Cluster>, Vec<Place>) {
        (self.clusters, self.places)
    }

    /// Where a backend of an object of `namespace` leads. What cannot be had is warned of and refuses.
    pub(super) fn action(
        &mut self,
        namespace: &str,
        backend: &IngressBackend,
        way: Way,
        field: &str,
        warner: &mut Warner<'_>,
    ) -> Action {
        let refuse = |why: String| Action::Refuse { status: StatusCode::SERVICE_UNAVAILABLE, why };
        if backend.resource.is_some() {
            let message =
                "resource backends are not supported: expected `service`; its requests are answered 503";
            warner.warn(format!("{field}.resource"), message);
            return refuse("the backend is a resource, which is not supported".into());
        }
        let Some(service) = &backend.service else {
            warner.warn(field, "empty: expected `service`; its requests are answered 503");
            return refuse("the rule has no backend".into());
        };
        let port = service.port.as_ref();
        let port = match (port.and_then(|port| port.name.clone()), port.and_then(|port| port.number)) {
            (Some(name), None) => name,
            (None, Some(number)) => number.to_string(),
            (both, _) => {
                let what = if both.is_some() { "both name and number" } else { "neither name nor number" };
                warner.warn(
                    format!("{field}.service.port"),
                    format!("{what}: expected one of them; its requests are answered 503"),
                );
                return refuse("the backend's port is not clear".into());
            }
        };
        match self.cluster(Name::new(namespace, service.name.clone()), port, way) {
            Ok(cluster) => Action::Forward(vec![Share { weight: 1, cluster }]),
            Err(why) => {
                warner.warn(format!("{field}.service"), format!("{why}; its requests are answered 503"));
                refuse(why)
            }
        }
    }

    /// The cluster of a port, by its name or number. The error says why there is none.
    pub(super) fn cluster(&mut self, name: Name, port: String, way: impl Into<Way>) -> Result<usize, String> {
        let way = way.into();
        let key = (name, port, way);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let found = self.resolve(&key.0, &key.1, way).map(|cluster| {
            self.clusters.push(cluster);
            self.places.push(key.clone());
            self.clusters.len() - 1
        });
        self.known.insert(key, found.clone());
        found
    }

    /// The cluster of a Service's first port.
    pub(super) fn first_port(&mut self, name: Name) -> Result<usize, String> {
        let service = self.world.services.get(&name).ok_or_else(|| format!("there is no Service {name}"))?;
        let first = ports(service).first().ok_or_else(|| format!("Service {name} has no ports"))?;
        let port = first.port.to_string();
        self.cluster(name, port, Protocol::Http)
    }

    /// The cluster behind a URL whose host is a Service of this cluster: `http://auth.shop.svc.cluster.local:8080/`.
    pub(super) fn of_url(&mut self, url: &Template) -> Option<usize> {
        let (scheme, rest) = url.origin()?.split_once("://")?;
        let protocol = if scheme == "https" { Protocol::Https } else { Protocol::Http };
        let (host, port) =
            rest.split_once(':').unwrap_or((rest, if scheme == "https" { "443" } else { "80" }));
        let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
        let [service, namespace, rest @ ..] = &labels[..] else { return None };
        if !matches!(rest, [] | ["svc"] | ["svc", "cluster", "local"]) {
            return None;
        }
        let name = Name::new(*namespace, *service);
        self.world.services.contains_key(&name).then(|| self.cluster(name, port.to_owned(), protocol).ok())?
    }

    fn resolve(&mut self, name: &Name, port: &str, way: Way) -> Result<Cluster, String> {
        let service: &Service =
            self.world.services.get(name).ok_or_else(|| format!("there is no Service {name}"))?;
        let spec = service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            return external(
                name,
                spec.and_then(|spec| spec.external_name.as_deref()),
                ports(service),
                port,
                way.protocol,
            );
        }
        let ports = ports(service);
        let number: Option<i32> = port.parse().ok();
        let named = |it: &str| it == port;
        let found = ports.iter().find(|it| match number {
            Some(number) => it.port == number,
            None => it.name.as_deref().is_some_and(named),
        });
        let found = found.ok_or_else(|| {
            let has: Vec<String> = ports
                .iter()
                .map(|it| match &it.name {
                    Some(name) => format!("{} ({name})", it.port),
                    None => it.port.to_string(),
                })
                .collect();
            let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
            format!("Service {name} has no port {port}: expected one of its ports, {has}")
        })?;
        if found.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            return Err(format!("port {port} of Service {name} is not TCP"));
        }
        let own = spec.and_then(|spec| spec.cluster_ip.as_deref()).and_then(|it| it.parse::<IpAddr>().ok());
        let number = u16::try_from(found.port).ok();
        if let (true, Some(address), Some(number)) = (way.through_service, own, number) {
            return Ok(Cluster {
                name: format!("{name}:{port}"),
                protocol: way.protocol,
                external: None,
                endpoints: vec![SocketAddr::new(address, number)],
                draining: Vec::new(),
                empty: None,
            });
        }
        let mut endpoints = self.endpoints(name, found.name.as_deref().unwrap_or_default());
        let empty = endpoints.is_empty().then(|| format!("Service {name} has no endpoint that serves"));
        // Terminating ones are better than none.
        if endpoints.ready.is_empty() {
            endpoints.ready.clone_from(&endpoints.draining);
        }
        Ok(Cluster {
            name: format!("{name}:{port}"),
            protocol: way.protocol,
            external: None,
            endpoints: endpoints.ready,
            draining: endpoints.draining,
            empty,
        })
    }

    fn endpoints(&mut self, service: &Name, port: &str) -> Endpoints {
        let mut found = Endpoints::default();
        for slice in self.slices.get(service).map(Vec::as_slice).unwrap_or_default() {
            if slice.address_type == "FQDN" {
                self.warnings.push(Warning {
                    object: format!("EndpointSlice {}", Name::of(&slice.metadata)),
                    field: "addressType".into(),
                    message: "FQDN is not supported: expected IPv4 or IPv6; its endpoints are left out"
                        .into(),
                });
                continue;
            }
            let ports = slice.ports.as_deref().unwrap_or_default();
            let port = ports.iter().find(|it| {
                it.name.as_deref().unwrap_or_default() == port
                    && it.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
            });
            let number = port.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok());
            let Some(number) = number else { continue };
            for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
                let conditions = endpoint.conditions.as_ref();
                let ready = conditions.and_then(|it| it.ready).unwrap_or(true);
                let serving = conditions.and_then(|it| it.serving).unwrap_or(ready);
                let terminating = conditions.and_then(|it| it.terminating).unwrap_or(false);
                // All addresses of an endpoint are one and the same: the first will do.
                let Some(text) = endpoint.addresses.first() else { continue };
                let Ok(address) = text.parse::<IpAddr>() else {
                    self.warnings.push(Warning {
                        object: format!("EndpointSlice {}", Name::of(&slice.metadata)),
                        field: format!("endpoints[{index}].addresses[0]"),
                        message: format!(
                            "{text:?} is no address: expected for example 10.0.0.1; it is left out"
                        ),
                    });
                    continue;
                };
                let address = SocketAddr::new(address, number);
                if ready {
                    found.ready.push(address);
                } else if serving && terminating {
                    found.draining.push(address);
                }
            }
        }
        found.ready.sort();
        found.ready.dedup();
        found.draining.sort();
        found.draining.dedup();
        found
    }
}

fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// A Service that is another one's name. Its ports need not be written.
fn external(
    name: &Name,
    host: Option<&str>,
    ports: &[ServicePort],
    port: &str,
    protocol: Protocol,
) -> Result<Cluster, String> {
    let host = host.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let is_local = host == "localhost" || host.ends_with(".localhost");
    let is_local = is_local || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback() || it.is_unspecified());
    if host.is_empty() || is_local {
        return Err(format!("Service {name} has externalName {host:?}: expected a DNS name elsewhere"));
    }
    let number = port.parse().ok().or_else(|| {
        let found = ports.iter().find(|it| it.name.as_deref() == Some(port))?;
        u16::try_from(found.port).ok()
    });
    let number = number.ok_or_else(|| format!("Service {name} has no port {port}: expected its number"))?;
    Ok(Cluster {
        name: format!("{name}:{port}"),
        protocol,
        external: Some((host, number)),
        endpoints: Vec::new(),
        draining: Vec::new(),
        empty: None,
    })
}

#[derive(Default)]
struct Endpoints {
    ready: Vec<SocketAddr>,
    draining: Vec<SocketAddr>,
}

impl Endpoints {
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.draining.is_empty()
    }
}
