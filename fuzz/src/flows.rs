//! The flows worth asking about: between the pods of a world and addresses at the edges of its blocks, to ports at the
//! edges of its ranges.

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::net::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};
use ipnet::IpNet;
use policy::Flow;
use policy::manifest::Document;
use serde_json::Value;

/// Asking takes longer than compiling; beyond this the fuzzer had better change the policy.
const MOST: usize = 240;
const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

/// Flows that have at least one of `local` at one end, the other may be one of `others`.
pub fn between(documents: &[Document], local: &[IpAddr], others: &[IpAddr]) -> Vec<Flow> {
    let mut edges = Edges::default();
    for document in documents.iter().filter(|document| document.kind == "NetworkPolicy") {
        edges.collect(&document.value);
    }
    for document in documents.iter().filter(|document| document.kind == "Pod") {
        edges.collect_ports(&document.value);
    }
    let outside = OUTSIDE.iter().filter_map(|ip| ip.parse::<IpAddr>().ok());
    let others: BTreeSet<IpAddr> = others.iter().copied().chain(outside).chain(edges.ips).collect();
    let mut flows = Vec::new();
    for here in local {
        for there in others.iter().filter(|there| there.is_ipv4() == here.is_ipv4()) {
            for (source, destination) in [(*here, *there), (*there, *here)] {
                let flow =
                    |protocol, destination_port| Flow { source, destination, destination_port, protocol };
                flows.push(flow(if source.is_ipv4() { ICMP } else { ICMPV6 }, 0));
                for protocol in [TCP, UDP, SCTP] {
                    flows.extend(edges.ports.iter().map(|port| flow(protocol, *port)));
                }
            }
        }
    }
    // Evenly, so that no end and no port is left out for good.
    let step = flows.len().div_ceil(MOST).max(1);
    flows.into_iter().step_by(if step > 1 { step | 1 } else { 1 }).collect()
}

/// Numbers and blocks that stand in an object, and their neighbours.
struct Edges {
    ips: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Default for Edges {
    fn default() -> Self {
        Self { ips: BTreeSet::new(), ports: BTreeSet::from([0, 80, u16::MAX]) }
    }
}

impl Edges {
    fn collect(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => fields.values().for_each(|value| self.collect(value)),
            Value::Array(items) => items.iter().for_each(|value| self.collect(value)),
            Value::String(text) if self.ips.len() < 16 => {
                if let Ok(net) = text.parse::<IpNet>() {
                    self.ips.extend([net.network(), net.broadcast()]);
                    self.ips.extend([before(net.network()), after(net.broadcast())].into_iter().flatten());
                }
            }
            value => self.port(value),
        }
    }

    fn collect_ports(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match name.as_str() {
                "containerPort" => self.port(value),
                _ => self.collect_ports(value),
            }),
            Value::Array(items) => items.iter().for_each(|value| self.collect_ports(value)),
            _ => {}
        }
    }

    fn port(&mut self, value: &Value) {
        let Some(port) = value.as_u64().and_then(|number| u16::try_from(number).ok()) else { return };
        if self.ports.len() < 12 {
            self.ports.extend([port.saturating_sub(1), port, port.saturating_add(1)]);
        }
    }
}

fn before(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_sub(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(ip) => ip.to_bits().checked_sub(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

fn after(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}
