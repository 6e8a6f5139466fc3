//! What the programs may do with a frame: the second parser and [`Tables::lookup`], and a memory of what began before.
//!
//! Where the answer depends on nothing but the frame and the tables it is exact. Where it depends on connections it is a
//! bound: a packet passes as part of a connection only if that was allowed when it began and is allowed now. And what answers
//! the first packet of a connection, which was allowed all the time, must pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ::tests::frame::{ACK, FIN, RST, SYN};
use common::net::protocol::{ICMPV6, has_ports};
use common::net::{Addr, protocol};
use common::verdict::{DropReason, PassReason};
use policy::{Flow, Tables};

use crate::reference::{self, Part, Said, Silence};
use crate::script::Place;

/// A reason, to drop or to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Drop(DropReason),
    Pass(PassReason),
}

use DropReason::{
    ForbiddenDiscovery, FragmentBeforeFirst, Malformed, NotIp, PolicyDenied, Spoofed, UnknownEndpoint,
};
use PassReason::{Discovery, Established, Foreign, Itself, Node, Open, Related, Rule};
use Reason::{Drop, Pass};

impl Reason {
    /// By the name of its counter.
    pub fn named(name: &str) -> Option<Self> {
        let drop = DropReason::ALL.iter().find(|reason| reason.as_str() == name);
        let pass = PassReason::ALL.iter().find(|reason| reason.as_str() == name);
        drop.map(|reason| Drop(*reason)).or(pass.map(|reason| Pass(*reason)))
    }
}

/// Two ends, in an order that both directions agree on, and a protocol.
type Connection = ([(Addr, u16); 2], u8);

/// Source, destination, identification, and in IPv4 the protocol.
type Datagram = (Addr, Addr, u32, u8);

/// What its first fragment carries: the protocol, and both ports.
type Ports = (u8, u16, u16);

/// How a connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beginning {
    flow: Flow,
    source_port: u16,
    from_node: bool,
}

impl Beginning {
    /// Whether the packet goes the other way.
    fn is_answered_by(&self, said: &Said) -> bool {
        let [source, destination] = [said.source, said.destination].map(Addr::from);
        let [from, to] = [self.flow.source, self.flow.destination].map(Addr::from);
        let ports = (said.source_port, said.destination_port);
        from != to
            && (source, destination) == (to, from)
            && ports == (self.flow.destination_port, self.source_port)
    }
}

/// What is remembered of one input.
#[derive(Default)]
pub struct Model {
    begun: BTreeMap<Connection, Vec<Beginning>>,
    /// Those that nothing has ended or cut: how each began last.
    live: BTreeMap<Connection, Beginning>,
    fragments: BTreeMap<Datagram, Ports>,
}

impl Model {
    /// Every reason that may be given, and what is known of the packet if it begins a connection.
    pub fn may(&mut self, tables: &Tables, pods: &Pods, place: Place, frame: &[u8]) -> Allowed {
        let said = match reference::read(frame) {
            Ok(said) => said,
            Err(silence) => return Allowed::only(of_silence(silence, place)),
        };
        let Some(said) = self.whole(said) else {
            return orphan(tables, place, &said);
        };
        if let (Place::FromPod(_), Some(reason)) = (place, discovery(&said)) {
            return Allowed::only(reason);
        }
        let endpoint = |ip: IpAddr| tables.endpoints.get(&Addr::from(ip)).map(|row| row.ifindex);
        let (from, to) = (endpoint(said.source), endpoint(said.destination));
        match place {
            Place::FromPod(pod) if from != Some(pods.ifindex(pod)) => {
                // A connection that is known is judged once more before anybody asks where the packet came from.
                return Allowed::of([Drop(Spoofed), Drop(PolicyDenied)]).of_connection(&said);
            }
            Place::FromNode(pod) if to != Some(pods.ifindex(pod)) => {
                return Allowed::of([Pass(Node), Drop(PolicyDenied)]).of_connection(&said);
            }
            Place::Forwarded(pod) if to != Some(pods.ifindex(pod)) => {
                return Allowed::of([Drop(UnknownEndpoint), Drop(PolicyDenied)]).of_connection(&said);
            }
            Place::FromNet if to.is_none() => {
                return Allowed::of([Pass(Foreign), Drop(PolicyDenied)]).of_connection(&said);
            }
            Place::FromNet if from.is_some() => {
                return Allowed::of([Drop(Spoofed), Drop(PolicyDenied)]).of_connection(&said);
            }
            _ => {}
        }
        self.judged(tables, place, frame, &said)
    }

    /// A packet from where it may come from, to where it may go to.
    fn judged(&self, tables: &Tables, place: Place, frame: &[u8], said: &Said) -> Allowed {
        let beginning = Beginning {
            flow: flow(said),
            source_port: said.source_port,
            from_node: matches!(place, Place::FromNode(_)),
        };
        if self.must_pass(tables, place, said) {
            return Allowed::only(Pass(Established)).of_connection(said);
        }
        let begun = self.begun.get(&connection(said)).map(Vec::as_slice).unwrap_or_default();
        let mut reasons = BTreeSet::new();
        if allows(tables, &beginning) {
            let itself = Addr::from(said.source) == Addr::from(said.destination);
            reasons.extend(match (beginning.from_node, itself) {
                (true, _) => vec![Pass(Node)],
                (false, true) => vec![Pass(Itself)],
                (false, false) => vec![Pass(Open), Pass(Rule)],
            });
        } else {
            reasons.insert(Drop(PolicyDenied));
        }
        if begun.iter().any(|beginning| allows(tables, beginning)) {
            reasons.insert(Pass(Established));
        }
        if begun.iter().any(|beginning| !allows(tables, beginning)) {
            reasons.insert(Drop(PolicyDenied));
        }
        if let Some(quoted) = reference::quoted(frame, said)
            && Addr::from(quoted.source) == Addr::from(said.destination)
            && self.begun.contains_key(&connection(&quoted))
        {
            reasons.insert(Pass(Related));
        }
        Allowed { reasons, begins: Some((connection(said), beginning)), ends: None }.of_connection(said)
    }

    /// A whole packet that answers the first of a live connection, where such packets come from.
    fn must_pass(&self, tables: &Tables, place: Place, said: &Said) -> bool {
        let goes_on = match said.protocol {
            protocol::TCP => said.tcp_flags & (SYN | FIN | RST) == 0 || said.tcp_flags == SYN | ACK,
            protocol::UDP => true,
            _ => false,
        };
        let is_at_its_place = matches!(place, Place::FromPod(_) | Place::FromNet);
        let live = self.live.get(&connection(said));
        goes_on
            && is_at_its_place
            && said.part == Part::Whole
            && live.is_some_and(|live| live.is_answered_by(said) && allows(tables, live))
    }

    /// The frame met this reason.
    pub fn met(&mut self, allowed: Allowed, reason: Reason) {
        if let (Some((connection, beginning)), Pass(Open | Rule | Itself | Node)) = (allowed.begins, reason) {
            self.begun.entry(connection).or_default().push(beginning);
            self.live.insert(connection, beginning);
        }
        if let Some((connection, at_once)) = allowed.ends
            && (at_once || matches!(reason, Drop(_)))
        {
            self.live.remove(&connection);
        }
    }

    /// A later fragment has the protocol and the ports of its first, which is remembered; `None` if there was none.
    fn whole(&mut self, mut said: Said) -> Option<Said> {
        let (Part::First(id) | Part::Later(id)) = said.part else { return Some(said) };
        let (source, destination) = (Addr::from(said.source), Addr::from(said.destination));
        let key = (source, destination, id, if source.is_v4() { said.protocol } else { 0 });
        if matches!(said.part, Part::First(_)) {
            self.fragments.insert(key, (said.protocol, said.source_port, said.destination_port));
        } else {
            (said.protocol, said.source_port, said.destination_port) = *self.fragments.get(&key)?;
        }
        Some(said)
    }
}

/// The interfaces of the pods here.
pub struct Pods(pub [u32; 2]);

impl Pods {
    fn ifindex(&self, number: usize) -> u32 {
        self.0[number % 2]
    }
}

/// The reasons that a frame may meet.
#[derive(Debug)]
pub struct Allowed {
    pub reasons: BTreeSet<Reason>,
    begins: Option<(Connection, Beginning)>,
    /// The connection that the packet belongs to; true: it says goodbye.
    ends: Option<(Connection, bool)>,
}

impl Allowed {
    fn only(reason: Reason) -> Self {
        Self::of([reason])
    }

    fn of(reasons: impl IntoIterator<Item = Reason>) -> Self {
        Self { reasons: reasons.into_iter().collect(), begins: None, ends: None }
    }

    fn of_connection(self, said: &Said) -> Self {
        let is_goodbye = said.protocol == protocol::TCP && said.tcp_flags & (FIN | RST) != 0;
        Self { ends: Some((connection(said), is_goodbye)), ..self }
    }
}

fn of_silence(silence: Silence, place: Place) -> Reason {
    match (silence, place) {
        (_, Place::FromNet) => Pass(Foreign),
        (Silence::Malformed, _) => Drop(Malformed),
        (Silence::NotIp(0x0806), Place::FromPod(_)) => Pass(Discovery),
        (Silence::NotIp(_), Place::FromPod(_)) => Drop(NotIp),
        (Silence::NotIp(_), Place::Forwarded(_) | Place::FromNode(_)) => Pass(Discovery),
    }
}

/// A later fragment without its first. Of strangers, an earlier input may have sent the first.
fn orphan(tables: &Tables, place: Place, said: &Said) -> Allowed {
    let is_here = |ip: IpAddr| tables.endpoints.contains_key(&Addr::from(ip));
    if place == Place::FromNet && !is_here(said.destination) {
        return Allowed::only(Pass(Foreign));
    }
    if is_here(said.source) || is_here(said.destination) {
        return Allowed::only(Drop(FragmentBeforeFirst));
    }
    let had_it_come = match place {
        Place::FromPod(_) => Drop(Spoofed),
        Place::Forwarded(_) => Drop(UnknownEndpoint),
        Place::FromNode(_) => Pass(Node),
        Place::FromNet => Pass(Foreign),
    };
    Allowed::of([Drop(FragmentBeforeFirst), had_it_come])
}

/// semantics.md, NetworkPolicy 10.
fn discovery(said: &Said) -> Option<Reason> {
    if said.protocol != ICMPV6 {
        return None;
    }
    let bounded = match said.icmp_type {
        133 | 135 | 136 => said.hop_limit == 255,
        130..=132 | 143 => said.hop_limit == 1,
        134 | 137 => false,
        _ => return None,
    };
    let IpAddr::V6(source) = said.source else { return None };
    let near = source.is_unspecified() || source.is_unicast_link_local();
    Some(if bounded && near { Pass(Discovery) } else { Drop(ForbiddenDiscovery) })
}

fn flow(said: &Said) -> Flow {
    Flow {
        source: said.source,
        destination: said.destination,
        destination_port: if has_ports(said.protocol) { said.destination_port } else { 0 },
        protocol: said.protocol,
    }
}

fn connection(said: &Said) -> Connection {
    let is_echo = matches!(said.protocol, protocol::ICMP | protocol::ICMPV6);
    let port = |port: u16| if has_ports(said.protocol) || is_echo { port } else { 0 };
    let mut ends = [
        (said.source.into(), port(said.source_port)),
        (said.destination.into(), port(said.destination_port)),
    ];
    ends.sort();
    (ends, said.protocol)
}

/// Whether the connection may begin, or go on. The node itself may always reach its own pods.
fn allows(tables: &Tables, beginning: &Beginning) -> bool {
    let answer = tables.lookup(&beginning.flow);
    let yes = |judgement: Option<policy::Judgement>| judgement.is_none_or(|judgement| judgement.allowed);
    yes(answer.egress) && (beginning.from_node || yes(answer.ingress))
}

#[cfg(test)]
mod tests {
    use ::tests::frame::{self, PSH};
    use ::tests::node::{A, REMOTE};
    use common::endpoint::EndpointRow;
    use common::id::RuleSetId;

    use super::*;

    fn reasons(model: &mut Model, place: Place, frame: &[u8]) -> Vec<Reason> {
        let mut tables = Tables::default();
        for addr in A.addrs() {
            let open = RuleSetId::OPEN;
            let row = EndpointRow { ifindex: 7, flags: 0, ingress: open, egress: open };
            tables.endpoints.insert(addr, row);
        }
        let allowed = model.may(&tables, &Pods([7, 8]), place, frame);
        let reasons: Vec<Reason> = allowed.reasons.iter().copied().collect();
        model.met(allowed, reasons[0]);
        reasons
    }

    #[test]
    fn what_answers_a_live_connection_must_pass_until_somebody_says_goodbye() {
        let (mut model, flow) = (Model::default(), frame::tcp(A.v4.into(), REMOTE.v4.into(), 80));
        let segment = |flow: frame::Flow, flags: u8| flow.tcp_packet(flags).frame();
        assert_eq!(
            reasons(&mut model, Place::FromNet, &segment(flow.back(), PSH | ACK)),
            [Pass(Rule), Pass(Open)]
        );
        let mut model = Model::default();
        assert_eq!(reasons(&mut model, Place::FromPod(0), &segment(flow, SYN)), [Pass(Rule), Pass(Open)]);
        for flags in [SYN | ACK, ACK, PSH | ACK] {
            let only = reasons(&mut model, Place::FromNet, &segment(flow.back(), flags));
            assert_eq!(only, [Pass(Established)], "{flags}");
        }
        reasons(&mut model, Place::FromPod(0), &segment(flow, FIN | ACK));
        assert!(reasons(&mut model, Place::FromNet, &segment(flow.back(), ACK)).len() > 1);
    }
}
