//! Four answers to "may this connection begin?" that must be one: the specification's (`policy::oracle`), the model's
//! (`Tables::lookup`) on what is compiled from nothing, the kernel's, and that of the compiler that remembers, by whose
//! plans the kernel's maps come about.

use std::fmt;
use std::net::IpAddr;

use aya::maps::{HashMap, Map, MapData};
use common::conntrack::{CtEntry, CtKey};
use common::flow::FlowEvent;
use common::maps;
use common::net::Addr;
use common::net::protocol::{ICMP, ICMPV6, TCP};
use common::verdict::{Direction, DropReason, PassReason};
use dataplane::{Action, Trial};
use policy::oracle::Opinion;
use policy::{Answer, Compiled, Compiler, Flow, Judgement, Names, Tables, Warning, World};
use policy::{compile, oracle, plan};

use crate::dice::Dice;
use crate::flows::GRE;
use crate::frame::{self, ACK, DESTINATION_OPTIONS, HOP_BY_HOP, PSH, echo_request};
use crate::node::Node;
use crate::scene::Scene;
use crate::words;

/// How many connections one set of judges sees: as many as there are source ports to tell them apart.
const CONNECTIONS: u16 = 60_000;

pub struct Judges {
    node: Node,
    scene: Scene,
    world: World,
    compiler: Compiler,
    /// What the compiler that remembers has said of names and warnings.
    names: Names,
    warnings: Vec<Warning>,
    compiled: Compiled,
    connections: [HashMap<MapData, CtKey, CtEntry>; 2],
    /// Tells connections between the same ends apart.
    number: u16,
}

/// What all judges say alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Flows from or to an endpoint of the node.
    pub flows: usize,
    /// Of those, how many may begin.
    pub allowed: usize,
}

/// Two of the judges do not agree.
#[derive(Clone, Debug)]
pub struct Dissent {
    /// `None`: about the tables as such.
    pub flow: Option<Flow>,
    pub between: String,
}

impl fmt::Display for Dissent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.flow {
            Some(flow) => writeln!(f, "flow: {}", words::flow(flow))?,
            None => writeln!(f, "the tables themselves:")?,
        }
        write!(f, "{}", self.between)
    }
}

impl Judges {
    /// A node of their own, empty.
    pub fn new() -> Self {
        let mut node = Node::new();
        let steps = plan(node.dataplane.tables(), &Tables::default());
        node.apply(steps);
        let pinned = |map| MapData::from_pin(node.map_pin(map)).expect("a pinned map");
        let connections = [Map::HashMap(pinned(maps::CT)), Map::LruHashMap(pinned(maps::CT_HALF))];
        Self {
            connections: connections.map(|map| HashMap::try_from(map).expect("a map of connections")),
            node,
            scene: Scene::default(),
            world: World::new("node-0"),
            compiler: Compiler::new(),
            names: Names::default(),
            warnings: Vec::new(),
            compiled: Compiled::default(),
            number: 0,
        }
    }

    /// Whether so many more connections can be told apart.
    pub fn have_room_for(&self, connections: usize) -> bool {
        usize::from(CONNECTIONS - self.number) >= connections
    }

    pub fn node(&mut self) -> &mut Node {
        &mut self.node
    }

    /// Forgets every world there was: the next comes out of nothing, whatever the maps hold.
    pub fn start_over(&mut self) {
        self.scene = Scene::default();
        self.world = World::new("node-0");
        self.compiler = Compiler::new();
        self.names = Names::default();
        self.warnings = Vec::new();
    }

    /// Goes on to another scene by what differs, as an agent would. False if an object of it is none.
    pub fn turn_to(&mut self, scene: &Scene) -> Result<bool, Dissent> {
        if scene.follow(&self.scene, &mut self.world, &self.node).is_none() {
            return Ok(false);
        }
        self.scene = scene.clone();
        let update = self.compiler.update(&mut self.world, self.node.dataplane.tables());
        self.names.rules.extend(update.names.rules);
        self.names.rule_sets.extend(update.names.rule_sets);
        self.warnings = update.warnings.unwrap_or(std::mem::take(&mut self.warnings));
        self.node.apply(update.plan);
        let retired = self.compiler.carried_out();
        self.names.rules.retain(|id, _| !retired.rules.contains(id));
        self.names.rule_sets.retain(|id, _| !retired.rule_sets.contains(id));
        // Of this very world: it remembers the labels of a pod that is gone from the API and still runs.
        self.compiled = compile(&self.world);
        self.agree_on_tables()?;
        Ok(true)
    }

    fn agree_on_tables(&self) -> Result<(), Dissent> {
        let Compiled { tables, names, warnings } = &self.compiled;
        let held = self.node.dataplane.read().expect("maps can be read");
        let between = if held != *tables {
            let steps = plan(&held, tables);
            format!("compiled from nothing, they differ from the kernel's maps by {steps:#?}")
        } else if self.names != *names {
            format!("names: {:#?}\ncompiled from nothing: {names:#?}", self.names)
        } else if self.warnings != *warnings {
            format!("warnings: {:#?}\ncompiled from nothing: {warnings:#?}", self.warnings)
        } else {
            return Ok(());
        };
        Err(Dissent { flow: None, between })
    }

    /// Asks all of them about flows.
    pub fn ask(&mut self, flows: &[Flow]) -> Result<Agreed, Dissent> {
        let sent: Vec<(Action, bool)> = flows.iter().map(|flow| self.send(flow)).collect();
        let expected = sent.iter().filter(|(_, is_ours)| *is_ours).count();
        let mut events = Vec::new();
        while events.len() < expected {
            events.extend(self.node.events());
        }
        let mut events = events.iter();
        let mut allowed = 0;
        for (flow, (action, is_ours)) in flows.iter().zip(sent) {
            let (answer, opinions) = (self.compiled.tables.lookup(flow), oracle::judge(&self.world, flow));
            let event = if is_ours { events.next() } else { None };
            let kernel_agrees = match event {
                Some(event) => {
                    (action != Action::Drop) == answer.allowed() && is_said_by(flow, &answer, event)
                }
                // Not to or from an endpoint: none of our business, and no event.
                None => action == Action::Next,
            };
            let both = [(answer.egress, &opinions.egress), (answer.ingress, &opinions.ingress)];
            let mut both = both.into_iter();
            if !kernel_agrees
                || !both.all(|(judgement, opinion)| self.is_the_same(judgement, opinion.as_ref()))
            {
                let names = &self.compiled.names;
                let between = format!(
                    "oracle: {}\ntables: {}\nkernel: {}",
                    words::opinions(&opinions),
                    words::answer(&answer, names),
                    words::event(action, event, names)
                );
                return Err(Dissent { flow: Some(*flow), between });
            }
            allowed += usize::from(is_ours && answer.allowed());
        }
        match events.next() {
            None => Ok(Agreed { flows: expected, allowed }),
            Some(event) => {
                let between = format!("the kernel reports a connection that nobody began: {event:?}");
                Err(Dissent { flow: None, between })
            }
        }
    }

    /// Verdict, the rule that decided, and the policies that isolate.
    fn is_the_same(&self, judgement: Option<Judgement>, opinion: Option<&Opinion>) -> bool {
        let (Some(judgement), Some(opinion)) = (judgement, opinion) else {
            return judgement.is_none() && opinion.is_none();
        };
        let names = &self.compiled.names;
        let isolating = names.rule_sets.get(&judgement.rule_set).map_or(&[][..], |set| &set.policies);
        judgement.allowed == opinion.allowed
            && names.rules.get(&judgement.rule) == opinion.rule.as_ref()
            && isolating == opinion.policies
    }

    /// The kernel's answer, at a hook where this node meets the packet first; and whether any endpoint is concerned.
    fn send(&mut self, flow: &Flow) -> (Action, bool) {
        self.number += 1;
        let mix = mix(flow);
        let frame = first_packet(flow, self.number, mix);
        let underlay = self.node.underlay;
        let row = |ip: IpAddr| self.node.dataplane.tables().endpoints.get(&ip.into());
        let (program, ifindex, is_ours) = match (row(flow.source), row(flow.destination)) {
            (Some(row), _) => ("from_pod", row.ifindex, true),
            (None, Some(row)) if mix.is_multiple_of(2) => ("to_pod", row.ifindex, true),
            (None, there) => ("from_net", underlay, there.is_some()),
        };
        let ingress_ifindex = if program == "to_pod" { underlay } else { ifindex };
        let trial = Trial { program, frame: &frame, ifindex, ingress_ifindex, repeat: 1 };
        let action = self.node.dataplane.try_out(&trial).expect("a frame can be tried out").action;
        if flow.protocol == GRE {
            self.forget(flow);
        }
        (action, is_ours)
    }

    /// Without ports a connection between the same ends would be the same.
    fn forget(&mut self, flow: &Flow) {
        let (source, destination, port) = (flow.source.into(), flow.destination.into(), 0.into());
        let mut key = CtKey::EMPTY;
        key.fill(&source, &destination, port, port, flow.protocol);
        for map in &mut self.connections {
            // It may never have been in one of the two, or in either.
            map.remove(&key).unwrap_or_default();
        }
    }
}

impl Default for Judges {
    fn default() -> Self {
        Self::new()
    }
}

/// A number that looks random and is the flow's own: asked once more, it takes the same way in the same dress.
fn mix(flow: &Flow) -> usize {
    let word =
        |ip: IpAddr| Addr::from(ip).0.iter().fold(0, |sum: u64, word| sum.rotate_left(13) ^ u64::from(*word));
    let ends = word(flow.source).rotate_left(32) ^ word(flow.destination);
    Dice(ends ^ u64::from(flow.destination_port) << 16 ^ u64::from(flow.protocol)).below(usize::MAX)
}

/// A frame that nobody has sent before, in one of several dresses.
fn first_packet(flow: &Flow, number: u16, mix: usize) -> Vec<u8> {
    let ports = frame::Flow {
        source: flow.source,
        destination: flow.destination,
        source_port: number,
        destination_port: flow.destination_port,
        protocol: flow.protocol,
    };
    let packet = match flow.protocol {
        ICMP | ICMPV6 => echo_request(flow.source, flow.destination, number),
        // From the middle of a connection that nobody knows: judged like its first.
        TCP if (mix / 2).is_multiple_of(4) => ports.tcp_packet(PSH | ACK),
        _ => ports.packet(),
    };
    match (mix / 8 % 8, flow.source.is_ipv4()) {
        (0, true) => packet.options(3),
        (0, false) => packet.extension(HOP_BY_HOP).extension(DESTINATION_OPTIONS),
        _ => packet,
    }
    .frame()
}

/// Whether the kernel's event is the one that the model expects: ends, reason, and who decided.
fn is_said_by(flow: &Flow, answer: &Answer, event: &FlowEvent) -> bool {
    let itself = flow.source == flow.destination;
    let egress_denied = answer.egress.is_some_and(|judgement| !judgement.allowed);
    let both = [(Direction::Egress, answer.egress), (Direction::Ingress, answer.ingress)];
    (event.source.to_ip(), event.destination.to_ip()) == (flow.source, flow.destination)
        && event.reason == reason(flow, answer)
        && both.into_iter().filter(|_| !itself).all(|(direction, judgement)| {
            let expected = judgement
                // Nobody asks whether it may come in if it may not go out.
                .filter(|_| direction == Direction::Egress || !egress_denied)
                .map(|judgement| (judgement.allowed, judgement.rule, judgement.rule_set));
            words::judged(event, direction) == expected
        })
}

/// The reason that the model expects.
fn reason(flow: &Flow, answer: &Answer) -> u8 {
    let open = |judgement: Option<Judgement>| judgement.is_none_or(|judgement| judgement.rule_set.is_open());
    if flow.source == flow.destination {
        PassReason::Itself as u8
    } else if !answer.allowed() {
        DropReason::PolicyDenied as u8
    } else if open(answer.egress) && open(answer.ingress) {
        PassReason::Open as u8
    } else {
        PassReason::Rule as u8
    }
}
