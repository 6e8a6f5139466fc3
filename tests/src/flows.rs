//! Random connections that are worth asking about: between the pods of [`crate::worlds`], and at the edges of whatever
//! blocks of addresses and ranges of ports a scene speaks of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::net::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};
use ipnet::IpNet;
use policy::Flow;
use serde_json::Value;

use crate::dice::Dice;
use crate::node::{A, B, FAMILIES};
use crate::scene::Scene;
use crate::worlds::{OTHERS, PLACES, WIRED};

/// A protocol without ports that no policy can name.
pub const GRE: u8 = 47;
const PORTS: [u16; 13] = [0, 1, 53, 79, 80, 81, 1023, 1024, 8080, 32767, 32768, 65534, 65535];

/// Connections with at least one end on this node: between addresses and to ports that the scene's own words make worth
/// asking about.
pub fn flows(dice: &mut Dice, scene: &Scene, count: usize) -> Vec<Flow> {
    let mut edges = Edges::default();
    scene.objects.iter().for_each(|object| edges.find(object));
    (0..count).map(|_| edges.flow(dice)).collect()
}

/// The same without a scene.
pub fn flow(dice: &mut Dice) -> Flow {
    Edges::default().flow(dice)
}

/// Where answers may differ: first and last of blocks and ranges, and their neighbours outside.
#[derive(Default)]
struct Edges {
    ips: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Edges {
    fn find(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
                    match (name.as_str(), port, value.as_str().and_then(|text| text.parse::<IpNet>().ok())) {
                        ("port" | "endPort" | "containerPort", Some(port), _) => {
                            self.ports.extend([port.wrapping_sub(1), port, port.wrapping_add(1)]);
                        }
                        (_, _, Some(block)) => self.block(block),
                        _ => self.find(value),
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    match item.as_str().and_then(|text| text.parse().ok()) {
                        Some(block) => self.block(block),
                        None => self.find(item),
                    }
                }
            }
            _ => {}
        }
    }

    fn block(&mut self, block: IpNet) {
        let (first, last) = (block.network(), block.broadcast());
        self.ips.extend([beside(first, -1), first, last, beside(last, 1)]);
    }

    fn flow(&self, dice: &mut Dice) -> Flow {
        let family = dice.pick(&FAMILIES);
        let local = if dice.happens(80) { dice.pick(&[A, B]) } else { dice.pick(&WIRED).1 }.on(family);
        let edges: Vec<IpAddr> =
            self.ips.iter().copied().filter(|ip| ip.is_ipv4() == local.is_ipv4()).collect();
        let other = match dice.below(12) {
            0..=2 => dice.pick(&WIRED).1.on(family),
            3..=6 => dice.pick(&PLACES).on(family),
            7 | 8 => dice.pick(&OTHERS).on(family),
            _ if edges.is_empty() => dice.pick(&PLACES).on(family),
            _ => dice.pick(&edges),
        };
        let [source, destination] = if dice.happens(50) { [local, other] } else { [other, local] };
        let icmp = if source.is_ipv4() { ICMP } else { ICMPV6 };
        let protocol = dice.pick(&[TCP, TCP, TCP, UDP, UDP, SCTP, SCTP, icmp, icmp, GRE]);
        let destination_port = match protocol {
            TCP | UDP | SCTP if !self.ports.is_empty() && dice.happens(50) => dice.pick(&self.ports),
            TCP | UDP | SCTP => dice.pick(&PORTS),
            _ => 0,
        };
        Flow { source, destination, destination_port, protocol }
    }
}

/// The address before or after another, around the end if need be. None that IPv6 uses for IPv4 (`::ffff:0:0/96`).
fn beside(ip: IpAddr, step: i32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add_signed(step)).into(),
        IpAddr::V6(ip) => {
            let beside = Ipv6Addr::from_bits(ip.to_bits().wrapping_add_signed(step.into()));
            if beside.to_ipv4_mapped().is_some() { ip.into() } else { beside.into() }
        }
    }
}
