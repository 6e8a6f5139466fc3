//! Four answers to "may this connection begin?" that must be one: the specification's (`policy::oracle`), the model's
//! (`Tables::lookup`) on what is compiled from nothing, the kernel's, and that of the compiler that remembers, by whose
//! plans the kernel's maps come about.

use std::fmt;
use std::net::IpAddr;

use common::flow::FlowEvent;
use common::id::{RuleId, RuleSetId};
use common::net::protocol::{ICMP, ICMPV6};
use common::verdict::{Direction, DropReason, PassReason};
use dataplane::{Action, Trial};
use policy::oracle::Opinion;
use policy::{Answer, Compiled, Compiler, Flow, Judgement, Tables, World, compile, oracle, plan};

use crate::frame::{self, echo_request};
use crate::node::{A, B, FAMILIES, Node, Party};
use crate::scene::Scene;

/// How many connections one set of judges sees: as many as there are source ports to tell them apart.
const CONNECTIONS: u16 = 60_000;

pub struct Judges {
    node: Node,
    scene: Option<Scene>,
    world: World,
    compiler: Compiler,
    compiled: Compiled,
    /// Tells connections between the same ends apart.
    number: u16,
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
            Some(Flow { source, destination, destination_port, protocol }) => {
                writeln!(f, "flow: {source} -> {destination}, port {destination_port}, protocol {protocol}")?;
            }
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
        Self {
            node,
            scene: None,
            world: World::new("node-0"),
            compiler: Compiler::new(),
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

    /// Goes on to another scene by what differs, as an agent would.
    pub fn turn_to(&mut self, scene: &Scene) -> Result<(), Dissent> {
        match &self.scene {
            Some(before) => {
                scene.follow(before, &mut self.world, &self.node).expect("a scene is made of objects");
            }
            None => self.world = scene.world(&self.node).expect("a scene is made of objects"),
        }
        self.scene = Some(scene.clone());
        let update = self.compiler.update(&mut self.world, self.node.dataplane.tables());
        self.node.apply(update.plan);
        self.compiler.carried_out();
        // Of this very world: it remembers the labels of a pod that is gone from the API and still runs.
        self.compiled = compile(&self.world);
        self.agree_on_tables()
    }

    /// Goes to another scene without what was remembered. False if an object of it is none.
    pub fn start_at(&mut self, scene: &Scene) -> bool {
        let Some(world) = scene.world(&self.node) else { return false };
        self.world = world;
        self.compiler = Compiler::new();
        self.scene = Some(scene.clone());
        self.compiled = compile(&self.world);
        let steps = plan(self.node.dataplane.tables(), &self.compiled.tables);
        self.node.apply(steps);
        true
    }

    fn agree_on_tables(&self) -> Result<(), Dissent> {
        let wanted = &self.compiled.tables;
        let held = self.node.dataplane.read().expect("maps can be read");
        if held == *wanted {
            return Ok(());
        }
        let steps = plan(&held, wanted);
        let between = format!("compiled from nothing, they differ from the kernel's maps by {steps:#?}");
        Err(Dissent { flow: None, between })
    }

    /// Asks all of them about flows, each of which has an end on this node. Returns how many may begin.
    pub fn ask(&mut self, flows: &[Flow]) -> Result<usize, Dissent> {
        let answers: Vec<Answer> = flows.iter().map(|flow| self.compiled.tables.lookup(flow)).collect();
        for (flow, answer) in flows.iter().zip(&answers) {
            self.ask_the_oracle(flow, answer)?;
        }
        let actions: Vec<Action> = flows.iter().map(|flow| self.send(flow)).collect();
        let mut events = Vec::new();
        while events.len() < flows.len() {
            events.extend(self.node.events());
        }
        for (((flow, answer), action), event) in flows.iter().zip(&answers).zip(&actions).zip(&events) {
            if (*action != Action::Drop) != answer.allowed() || !is_said_by(flow, answer, event) {
                return Err(Dissent::on(flow, format!("tables: {answer:?}\nkernel: {action:?}, {event:?}")));
            }
        }
        Ok(answers.iter().filter(|answer| answer.allowed()).count())
    }

    fn ask_the_oracle(&self, flow: &Flow, answer: &Answer) -> Result<(), Dissent> {
        let opinions = oracle::judge(&self.world, flow);
        let both = [(answer.egress, &opinions.egress), (answer.ingress, &opinions.ingress)];
        if both.into_iter().all(|(judgement, opinion)| self.is_the_same(judgement, opinion.as_ref())) {
            return Ok(());
        }
        Err(Dissent::on(flow, format!("oracle: {opinions:?}\ntables: {answer:?}")))
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

    /// The kernel's answer, at the hook where this node meets the packet first.
    fn send(&mut self, flow: &Flow) -> Action {
        self.number += 1;
        let frame = first_packet(flow, self.number);
        let underlay = self.node.underlay;
        let (program, ifindex, ingress_ifindex) = match (local(flow.source), local(flow.destination)) {
            (Some(pod), _) => ("from_pod", self.node.ifindex(pod), self.node.ifindex(pod)),
            (None, Some(_)) if self.number.is_multiple_of(2) => ("from_net", underlay, underlay),
            (None, Some(pod)) => ("to_pod", self.node.ifindex(pod), underlay),
            (None, None) => panic!("{flow:?} has no end here"),
        };
        let trial = Trial { program, frame: &frame, ifindex, ingress_ifindex, repeat: 1 };
        self.node.dataplane.try_out(&trial).expect("a frame can be tried out").action
    }
}

impl Default for Judges {
    fn default() -> Self {
        Self::new()
    }
}

impl Dissent {
    fn on(flow: &Flow, between: String) -> Self {
        Self { flow: Some(*flow), between }
    }
}

fn local(ip: IpAddr) -> Option<Party> {
    [A, B].into_iter().find(|pod| FAMILIES.iter().any(|family| pod.on(*family) == ip))
}

/// A frame that nobody has sent before.
fn first_packet(flow: &Flow, number: u16) -> Vec<u8> {
    if matches!(flow.protocol, ICMP | ICMPV6) {
        return echo_request(flow.source, flow.destination, number).frame();
    }
    let flow = frame::Flow {
        source: flow.source,
        destination: flow.destination,
        source_port: number,
        destination_port: flow.destination_port,
        protocol: flow.protocol,
    };
    flow.frame()
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
            judged(event, direction) == expected
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

/// What an event says of one direction, where that direction was judged.
fn judged(event: &FlowEvent, direction: Direction) -> Option<(bool, RuleId, RuleSetId)> {
    let (bit, rule, rules) = match direction {
        Direction::Ingress => (FlowEvent::JUDGED_INGRESS, event.ingress_rule, event.ingress_rules),
        Direction::Egress => (FlowEvent::JUDGED_EGRESS, event.egress_rule, event.egress_rules),
    };
    let denied = event.reason == DropReason::PolicyDenied as u8 && event.direction == direction as u8;
    (event.judged & bit != 0).then_some((!denied, rule, rules))
}
