//! Ports that nobody serves.

use api::protocol_name;
use k8s_openapi::api::networking::v1::{NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Look;
use super::hints::shown;
use super::peers::only_pods;
use crate::facts::PodFacts;
use crate::model::protocol_number;

impl Look<'_> {
    pub(super) fn ports(&mut self, spec: &NetworkPolicySpec) {
        let selected = self.selected();
        for (index, rule) in spec.ingress.iter().flatten().enumerate() {
            self.ports_of(&format!("spec.ingress[{index}].ports"), rule.ports.as_deref(), &selected);
        }
        for (index, rule) in spec.egress.iter().flatten().enumerate() {
            // Whoever else is meant may listen on anything.
            let path = format!("spec.egress[{index}]");
            let Some(peers) = only_pods(&format!("{path}.to"), rule.to.as_deref().unwrap_or_default()) else {
                continue;
            };
            let pods: Vec<Vec<&PodFacts>> = peers.iter().map(|peer| self.pods_with(peer)).collect();
            if pods.iter().all(|pods| !pods.is_empty()) {
                self.ports_of(&format!("{path}.ports"), rule.ports.as_deref(), &pods.concat());
            }
        }
    }

    fn ports_of(&mut self, path: &str, ports: Option<&[NetworkPolicyPort]>, pods: &[&PodFacts]) {
        let listening: Vec<&[(u8, u16)]> = pods.iter().map(|pod| self.listening(pod)).collect();
        // A container need not declare what it listens on; one that declares nothing may listen anywhere.
        if pods.is_empty() || listening.iter().any(|ports| ports.is_empty()) {
            return;
        }
        let mut served = listening.concat();
        served.sort_unstable();
        served.dedup();
        for (index, port) in ports.into_iter().flatten().enumerate() {
            let field = format!("{path}[{index}].port");
            let name = port.protocol.as_deref().filter(|name| !name.is_empty()).unwrap_or("TCP");
            let Some(protocol) = protocol_number(name) else { continue };
            match &port.port {
                Some(IntOrString::Int(first)) => {
                    let last = port.end_port.unwrap_or(*first);
                    if let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(last)) {
                        self.number(&field, (protocol, first, last), &served, pods);
                    }
                }
                Some(IntOrString::String(name)) => self.name(&field, name, protocol, pods),
                None => {}
            }
        }
    }

    fn number(
        &mut self,
        field: &str,
        (protocol, first, last): (u8, u16, u16),
        served: &[(u8, u16)],
        pods: &[&PodFacts],
    ) {
        let inside = |port: u16| (first..=last).contains(&port);
        if served.iter().any(|(of, port)| *of == protocol && inside(*port)) {
            return;
        }
        let name = protocol_name(protocol);
        let range = if first == last { first.to_string() } else { format!("{first} to {last}") };
        let wrong = format!("nobody serves {range}/{name}: the pods meant are {}", who(pods));
        let other = served.iter().find(|(_, port)| inside(*port));
        let right = if let Some((other, port)) = other {
            format!("{port} is served over {0}: set protocol: {0}", protocol_name(*other))
        } else if let Some((service, target)) = self.behind_service((protocol, first), pods) {
            format!("{first} is the port of Service {service}: policies see the pod's own port, {target}")
        } else {
            let all = served.iter().map(|(of, port)| format!("{port}/{}", protocol_name(*of))).collect();
            format!("expected one of {}", shown(all))
        };
        self.find("port-unserved", field, wrong, right);
    }

    fn name(&mut self, field: &str, name: &str, protocol: u8, pods: &[&PodFacts]) {
        if pods.iter().any(|pod| pod.port(name, protocol).is_some()) {
            return;
        }
        let mut named: Vec<String> = pods
            .iter()
            .flat_map(|pod| &pod.ports)
            .map(|port| format!("{} ({}/{})", port.name, port.number, protocol_name(port.protocol)))
            .collect();
        named.sort();
        named.dedup();
        let right = if named.is_empty() {
            "they name no port: expected a number, or a name in the container's ports".to_owned()
        } else {
            format!("expected one of {}", shown(named))
        };
        let wrong =
            format!("no {} port is called {name}: the pods meant are {}", protocol_name(protocol), who(pods));
        self.find("port-unserved", field, wrong, right);
    }

    /// The Service of these pods whose own port it is, and the pods' port to which that leads.
    fn behind_service(&self, (protocol, port): (u8, u16), pods: &[&PodFacts]) -> Option<(String, u16)> {
        let world = self.input.world;
        world.slices.values().find_map(|slice| {
            let service = world.services.get(&(slice.namespace.clone(), slice.service.clone()))?;
            let own = service.ports.iter().find(|own| (own.protocol, own.number) == (protocol, port))?;
            let is_theirs =
                slice.endpoints.iter().any(|end| pods.iter().any(|pod| pod.ips.contains(&end.ip)));
            let target = slice.ports.iter().find(|target| target.name == own.name && is_theirs)?;
            Some((format!("{}/{}", slice.namespace, slice.service), target.number))
        })
    }

    fn listening(&self, pod: &PodFacts) -> &[(u8, u16)] {
        let key = format!("{}/{}", pod.namespace, pod.name);
        self.input.listening.get(&key).map(Vec::as_slice).unwrap_or_default()
    }
}

/// `shop/web`, or `shop/web-1 and 2 more`.
fn who(pods: &[&PodFacts]) -> String {
    let first = pods.first().map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default();
    match pods.len() {
        0 | 1 => first,
        many => format!("{first} and {} more", many - 1),
    }
}
