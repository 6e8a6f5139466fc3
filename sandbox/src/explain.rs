//! Why a connection between two ends of a [`Cast`] passes or does not: decided from the manifests alone, without
//! bringing anything up, by the code that explains a live agent's world.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::{ExplainQuery, Explanation};
use ipnet::IpNet;
use policy::explain::{Unclear, ask, explain};
use policy::manifest::{Document, object};
use policy::places::Places;
use policy::{Flow, World};
use serde_json::Value;

use crate::object::objects;
use crate::plan::{Cast, Listen, PodIps};

/// A cast as the policies see it.
pub struct Explainer {
    /// Where each pod's stub answers, by the pod's key.
    listening: BTreeMap<String, Vec<Listen>>,
    world: World,
    places: Places,
}

impl Explainer {
    /// `ips` are the pods' addresses, measured or [`planned`]; `places` says where policies are written.
    pub fn new(cast: &Cast, ips: &PodIps, places: Places) -> Self {
        // No node's: nothing is attached, so every pod is known by what the API says of it.
        let mut world = World::new("");
        for value in objects(cast, ips) {
            let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (kind, api_version) = (text("kind"), text("apiVersion"));
            let document = Document { origin: String::new(), line: 0, kind, api_version, value };
            // Every object of a cast has been read in this way before; one that could not be is not in it.
            if let Ok(Some((object, unknown_fields))) = object(&document) {
                world.apply(object, &unknown_fields);
            }
        }
        let listening = cast.pods.iter().map(|pod| (pod.key(), pod.listen.clone())).collect();
        Self { listening, world, places }
    }

    /// The verdict on a new connection, and why. `protocol` is the number in the IP header.
    pub fn explain(&self, from: IpAddr, to: IpAddr, port: u16, protocol: u8) -> Explanation {
        let flow = Flow { source: from, destination: to, destination_port: port, protocol };
        explain(&self.world, &flow, &self.places)
    }

    /// The same for ends and ports by name; each answer once.
    pub fn ask(&self, query: &ExplainQuery) -> Result<Vec<Explanation>, Unclear> {
        let answers = ask(&self.world, &self.places, query)?.into_iter();
        let noted = answers.map(|(flow, mut answer)| {
            answer.notes.extend(self.nobody_listens(&flow, &answer));
            answer
        });
        Ok(noted.collect())
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Policies do not ask whether somebody listens, but who asks about a connection wants to know.
    fn nobody_listens(&self, flow: &Flow, answer: &Explanation) -> Option<String> {
        let name = answer.to.name.as_deref()?;
        let listening = self.listening.get(name)?;
        let is_asked = |listen: &Listen| {
            (listen.port, listen.protocol.number()) == (flow.destination_port, flow.protocol)
        };
        if answer.port == 0 || listening.iter().any(is_asked) {
            return None;
        }
        let ports: Vec<_> =
            listening.iter().map(|listen| format!("{}/{}", listen.port, listen.protocol)).collect();
        let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
        let (port, protocol) = (answer.port, &answer.protocol);
        Some(format!(
            "{name} declares no port {port}/{protocol}: perhaps nobody listens; it declares {ports}"
        ))
    }
}

/// The addresses that the plugin would give if pods came up one after another, in the cast's order.
pub fn planned(cast: &Cast) -> PodIps {
    // The first address of a range is the gateway's.
    let mut next: BTreeMap<usize, u32> = BTreeMap::new();
    let mut ips = PodIps::new();
    for pod in cast.pods.iter().filter(|pod| !pod.host_network) {
        let offset = next.entry(pod.node).or_insert(1);
        *offset += 1;
        let ranges = cast.nodes.get(pod.node).map(|node| node.pod_cidrs.as_slice()).unwrap_or_default();
        ips.insert(pod.key(), ranges.iter().map(|range| nth(*range, *offset)).collect());
    }
    ips
}

fn nth(range: IpNet, offset: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits().saturating_add(offset)).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().saturating_add(offset.into())).into(),
    }
}
