//! A question as people put it: ends by name, ports by name, and every pair of addresses that is meant.

use api::{ExplainQuery, Explanation, protocol_name};
use common::net::protocol;

use super::ends::{Destination, Ends};
use super::explain;
use crate::facts::PodFacts;
use crate::lookup::Flow;
use crate::model::protocol_number;
use crate::places::Places;
use crate::world::World;

/// Addresses of one end that are looked at; a thousand replicas answer as the first ones do.
const MOST: usize = 16;

/// A question that cannot be answered as it is put.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value}: {message}")]
pub struct Unclear {
    /// `--from`, `--to` or `--port`.
    pub field: &'static str,
    pub value: String,
    pub message: String,
}

/// The port as it was typed.
struct Asked<'a> {
    query: &'a str,
    name: &'a str,
    protocol: Option<u8>,
}

/// The answers for every pair of addresses that the question may mean, each answer once.
pub fn ask(
    world: &World,
    places: &Places,
    query: &ExplainQuery,
) -> Result<Vec<(Flow, Explanation)>, Unclear> {
    let from = Ends::find(world, "--from", &query.from)?;
    let to = Ends::find(world, "--to", &query.to)?;
    let port = Asked::parse(&query.port)?;
    let mut answers: Vec<(Flow, Explanation)> = Vec::new();
    let mut missing = None;
    let mut has_pair = false;
    for source in from.all.iter().take(MOST) {
        for destination in to.all.iter().take(MOST) {
            let same = source.ip == destination.ip;
            if source.ip.is_ipv4() != destination.ip.is_ipv4() || (same && to.all.len() > 2) {
                continue;
            }
            has_pair = true;
            let (protocol, number) = match port.on(destination) {
                Ok(port) => port,
                Err(unclear) => {
                    missing.get_or_insert(unclear);
                    continue;
                }
            };
            let flow =
                Flow { source: source.ip, destination: destination.ip, destination_port: number, protocol };
            let mut answer = explain(world, &flow, places);
            answer.notes.extend(source.note.iter().chain(&destination.note).cloned());
            if !answers.iter().any(|(_, known)| is_same(known, &answer)) {
                answers.push((flow, answer));
            }
        }
    }
    for (field, value, ends) in [("--from", &query.from, &from), ("--to", &query.to, &to)] {
        if ends.all.len() > MOST
            && let Some((_, first)) = answers.first_mut()
        {
            let count = ends.all.len();
            first
                .notes
                .push(format!("{field} {value}: {count} addresses, of which the first {MOST} are looked at"));
        }
    }
    if answers.is_empty() {
        return Err(missing.unwrap_or_else(|| Unclear {
            field: "--to",
            value: query.to.clone(),
            message: match has_pair {
                true => "nothing to ask about".to_owned(),
                false => format!("no address of a family in which {} has one, too", query.from),
            },
        }));
    }
    Ok(answers)
}

/// Whether two answers say the same about different addresses.
fn is_same(one: &Explanation, other: &Explanation) -> bool {
    let side = |a: &api::Side, b: &api::Side| {
        (a.verdict, a.reason, &a.policies, &a.rule) == (b.verdict, b.reason, &b.policies, &b.rule)
            && a.nearest.as_ref().map(|miss| &miss.rule) == b.nearest.as_ref().map(|miss| &miss.rule)
    };
    (one.port, &one.protocol) == (other.port, &other.protocol)
        && side(&one.egress, &other.egress)
        && side(&one.ingress, &other.ingress)
}

impl<'a> Asked<'a> {
    fn parse(query: &'a str) -> Result<Self, Unclear> {
        let (name, protocol) = query.split_once('/').map_or((query, None), |(name, text)| (name, Some(text)));
        let asked = Self { query, name, protocol: None };
        let protocol = match protocol {
            None => None,
            Some(text) => Some(protocol_number(&text.to_uppercase()).ok_or_else(|| {
                asked.unclear(format!("unknown protocol {text:?}: expected tcp, udp or sctp, as in 53/udp"))
            })?),
        };
        if name.is_empty() {
            return Err(asked.unclear("expected for example 80, 53/udp, http or icmp".to_owned()));
        }
        if name.bytes().all(|byte| byte.is_ascii_digit()) && !matches!(name.parse::<u16>(), Ok(1..)) {
            return Err(asked.unclear(format!("no port number {name}: expected 1 to 65535")));
        }
        Ok(Self { protocol, ..asked })
    }

    /// Protocol and port on one destination.
    fn on(&self, destination: &Destination<'_>) -> Result<(u8, u16), Unclear> {
        if self.name.eq_ignore_ascii_case("icmp") && self.protocol.is_none() {
            let number = if destination.ip.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
            return Ok((number, 0));
        }
        if let Some(ports) = &destination.service_ports {
            return self.behind(ports);
        }
        if let Ok(number) = self.name.parse() {
            return Ok((self.protocol.unwrap_or(protocol::TCP), number));
        }
        let Some(pod) = destination.pod else {
            return Err(self.unclear(format!(
                "{} is no pod, and only pods name ports: expected a number",
                destination.ip
            )));
        };
        let named = pod.ports.iter().find(|port| {
            port.name == self.name && self.protocol.is_none_or(|protocol| protocol == port.protocol)
        });
        named.map(|port| (port.protocol, port.number)).ok_or_else(|| self.unclear(no_port_of_name(pod)))
    }

    /// The port of the pod to which the Service's leads.
    fn behind(&self, ports: &[super::ends::ServicePort]) -> Result<(u8, u16), Unclear> {
        let number: Option<u16> = self.name.parse().ok();
        let meant = ports.iter().find(|port| {
            let named = number.map_or(port.name == self.name, |number| port.number == Some(number));
            named && self.protocol.unwrap_or(port.protocol) == port.protocol
        });
        meant.map(|port| (port.protocol, port.target)).ok_or_else(|| {
            let all = ports.iter().map(|port| {
                let number = port.number.map_or_else(|| port.name.clone(), |number| number.to_string());
                format!("{number}/{}", protocol_name(port.protocol))
            });
            self.unclear(format!("the Service has no such port: it has {}", list(all)))
        })
    }

    fn unclear(&self, message: String) -> Unclear {
        Unclear { field: "--port", value: self.query.to_owned(), message }
    }
}

fn no_port_of_name(pod: &PodFacts) -> String {
    let ports = pod.ports.iter();
    let named = ports.map(|port| format!("{} ({}/{})", port.name, port.number, protocol_name(port.protocol)));
    format!("{}/{} has no port of this name: it names {}", pod.namespace, pod.name, list(named))
}

fn list(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<_> = texts.collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}
