//! What holds between the writes of a plan, asked of the kernel: each write goes to the real maps by itself, and after it
//! the programs judge connections that are new and connections that live.

use std::collections::BTreeMap;

use common::endpoint::EndpointRow;
use common::flow::FlowEvent;
use common::net::protocol::{ICMP, ICMPV6, TCP};
use common::verdict::{Direction, DropReason, PassReason};
use policy::tables::MapOp;
use policy::{Answer, Attachment, Flow, PodRef, Tables, World, compile, manifest, plan};
use tests::flows::GRE;
use tests::frame;
use tests::node::{A, B, FAMILIES, Node, Party, REMOTE};
use tests::town::{keeping_policy, namespace, pod};
use tests::worlds::{Dice, REMOTE_TOO, flow, policy};

const NAMESPACES: [&str; 2] = ["one", "two"];
/// Name, addresses, namespace: the first two are the pods of the test's node.
const PODS: [(&str, Party, &str); 4] =
    [("a", A, "one"), ("b", B, "two"), ("remote", REMOTE, "one"), ("remote-too", REMOTE_TOO, "two")];
const POLICIES: usize = 5;
/// Flows after each write: mostly such that the plan changes.
const WATCHED: usize = 7;

/// What a world is made of, so that one thing of it can change.
#[derive(Clone)]
struct Town {
    namespace_labels: [String; 2],
    pod_labels: [String; 4],
    /// Of the container port `http`.
    http: [u16; 4],
    policies: BTreeMap<usize, String>,
}

impl Town {
    fn new(dice: &mut Dice) -> Self {
        let mut town = Self {
            namespace_labels: [(); 2].map(|()| labels(dice)),
            pod_labels: [(); 4].map(|()| labels(dice)),
            http: [80; 4],
            policies: BTreeMap::new(),
        };
        for number in 0..1 + dice.below(POLICIES) {
            town.policies.insert(number, any_policy(dice, number));
        }
        town
    }

    /// One event.
    fn happen(&mut self, dice: &mut Dice) {
        match dice.below(10) {
            0..4 => {
                let number = dice.below(POLICIES);
                self.policies.insert(number, any_policy(dice, number));
            }
            4..6 => drop(self.policies.remove(&dice.below(POLICIES))),
            6..8 => self.pod_labels[dice.below(4)] = labels(dice),
            8 => self.namespace_labels[dice.below(2)] = labels(dice),
            _ => self.http[dice.below(4)] = dice.pick(&[79, 80, 81, 1024]),
        }
    }

    fn world(&self, node: &Node) -> World {
        let mut world = World::new("node-0");
        let mut text = String::new();
        for (name, labels) in NAMESPACES.iter().zip(&self.namespace_labels) {
            text += &namespace(name, labels);
        }
        for (index, (name, party, namespace)) in PODS.iter().enumerate() {
            let (key, here) = (format!("{namespace}/{name}"), index < 2);
            text +=
                &pod(&key, u8::from(!here), &self.pod_labels[index], &format!("http={}", self.http[index]));
            text += &format!("status: {{podIPs: [{{ip: \"{}\"}}, {{ip: \"{}\"}}]}}\n", party.v4, party.v6);
            if here {
                let (namespace, name) = ((*namespace).to_owned(), (*name).to_owned());
                world.attach(Attachment {
                    container_id: name.clone(),
                    ifname: "eth0".to_owned(),
                    pod: Some(PodRef { namespace, name, uid: None }),
                    ifindex: node.ifindex(*party),
                    ips: FAMILIES.map(|family| party.on(family)).to_vec(),
                });
            }
        }
        for policy in self.policies.values() {
            text += &format!("---\n{policy}\n");
        }
        for document in manifest::documents("town", &text).expect("valid YAML") {
            let (object, warnings) =
                manifest::object(&document).expect("a valid object").expect("a known kind");
            world.apply(object, &warnings);
        }
        world
    }

    fn tables(&self, node: &Node) -> Tables {
        compile(&self.world(node)).tables
    }
}

fn labels(dice: &mut Dice) -> String {
    format!("app: {}, tier: {}", dice.pick(&["x", "y"]), dice.pick(&["p", "q"]))
}

/// Now and then one that keeps established connections.
fn any_policy(dice: &mut Dice, number: usize) -> String {
    if dice.happens(30) {
        let (namespace, labels) = (dice.pick(&NAMESPACES), dice.pick(&["", "app: x"]));
        keeping_policy(&format!("{namespace}/p{number}"), labels, "ingress: [], egress: []")
    } else {
        policy(dice, number)
    }
}

/// Whether each direction lets a connection begin, egress first; nothing where it was not judged.
type Verdicts = [Option<bool>; 2];

fn verdicts(answer: &Answer) -> Verdicts {
    [answer.egress, answer.ingress].map(|judgement| judgement.map(|judgement| judgement.allowed))
}

/// The kernel's word on frames, each from a port that nobody has used before.
struct Kernel {
    node: Node,
    port: u16,
}

/// A connection that was there before the plan.
struct Live {
    flow: Flow,
    frame: Vec<u8>,
}

impl Kernel {
    fn new() -> Self {
        Self { node: Node::new(), port: 0 }
    }

    fn frame(&mut self, flow: &Flow) -> Vec<u8> {
        self.port += 1;
        let ports = frame::Flow {
            source: flow.source,
            destination: flow.destination,
            source_port: self.port,
            destination_port: flow.destination_port,
            protocol: flow.protocol,
        };
        match flow.protocol {
            ICMP | ICMPV6 => frame::echo_request(flow.source, flow.destination, self.port).frame(),
            // From the middle of a connection: a SYN would begin a live one anew.
            TCP => ports.data(),
            _ => ports.frame(),
        }
    }

    /// Where this node meets the connection's packets first.
    fn send(&mut self, flow: &Flow, frame: &[u8]) -> &'static str {
        let here = |ip| [A, B].into_iter().find(|pod| FAMILIES.iter().any(|family| pod.on(*family) == ip));
        let met = match (here(flow.source), here(flow.destination)) {
            (Some(pod), _) => self.node.from_pod(pod, frame),
            (None, Some(_)) => self.node.from_net(frame),
            (None, None) => panic!("{flow:?} has no end here"),
        };
        let reason = met.reason();
        assert_eq!(met.passed(), reason != DropReason::PolicyDenied.as_str(), "{flow:?}: {met:?}");
        reason
    }

    /// Begins a connection. A direction after the one that denied is not judged.
    fn begin(&mut self, flow: &Flow) -> Verdicts {
        let frame = self.frame(flow);
        let reason = self.send(flow, &frame);
        let event = self.node.last_event();
        let ends = (event.source.to_ip(), event.destination.to_ip());
        assert_eq!(ends, (flow.source, flow.destination), "{flow:?}: {event:?}");
        let denied = (reason == DropReason::PolicyDenied.as_str()).then_some(event.direction);
        let of =
            |direction: Direction, bit| (event.judged & bit != 0).then(|| denied != Some(direction as u8));
        [of(Direction::Egress, FlowEvent::JUDGED_EGRESS), of(Direction::Ingress, FlowEvent::JUDGED_INGRESS)]
    }

    fn open(&mut self, flow: &Flow) -> Live {
        let frame = self.frame(flow);
        self.send(flow, &frame);
        Live { flow: *flow, frame }
    }
}

/// Flows whose answer changes are the ones to watch; of the others a few.
fn watched(dice: &mut Dice, before: &Tables, after: &Tables) -> Vec<Flow> {
    // Between the same ends there is one connection of a protocol without ports, and no other.
    let is_fit = |flow: &Flow| {
        let judged = verdicts(&after.lookup(flow)) != [None, None];
        judged && flow.source != flow.destination && flow.protocol != GRE
    };
    let flows: Vec<Flow> = (0..600).map(|_| flow(dice)).filter(is_fit).collect();
    let changes = |flow: &&Flow| verdicts(&before.lookup(flow)) != verdicts(&after.lookup(flow));
    let (changing, constant): (Vec<&Flow>, Vec<&Flow>) = flows.iter().partition(changes);
    changing.into_iter().take(WATCHED - 2).chain(constant.into_iter().take(2)).copied().collect()
}

/// Whether a live connection outlives the epoch.
fn lives_on(flow: &Flow, after: &Tables) -> bool {
    let row = |ip: std::net::IpAddr| after.endpoints.get(&ip.into());
    let keeps = |ip, flag| row(ip).is_some_and(|row| row.flags & flag != 0);
    match verdicts(&after.lookup(flow)) {
        [Some(false), _] => keeps(flow.source, EndpointRow::KEEP_EGRESS),
        [_, Some(false)] => keeps(flow.destination, EndpointRow::KEEP_INGRESS),
        _ => true,
    }
}

/// What was seen along one plan, so that a test can say that it was worth it.
#[derive(Default)]
struct Seen {
    plans: usize,
    writes: usize,
    changed: usize,
    cut: usize,
    kept: usize,
}

/// Carries the plan out write by write. After each, every direction of every watched flow is answered as in one of
/// `possible`; live connections go on until the epoch does, and then are judged by tables that are final.
fn walk(kernel: &mut Kernel, dice: &mut Dice, possible: &[Tables], context: &str, seen: &mut Seen) {
    let (before, after) = (&possible[0], &possible[possible.len() - 1]);
    assert_eq!(kernel.node.dataplane.tables(), before, "{context}");
    let ops = plan(before, after);
    let flows = watched(dice, before, after);
    let allowed = flows.iter().filter(|flow| before.lookup(flow).allowed());
    let live: Vec<Live> = allowed.copied().collect::<Vec<_>>().iter().map(|flow| kernel.open(flow)).collect();
    let mut epoch_went_on = false;
    for (index, op) in ops.iter().enumerate() {
        kernel.node.apply([*op]);
        epoch_went_on |= *op == MapOp::AdvanceEpoch;
        let context = || format!("{context}, after write {} of {}, {op:?}", index + 1, ops.len());
        for flow in &flows {
            let found = kernel.begin(flow);
            for direction in 0..2 {
                let wanted: Vec<_> =
                    possible.iter().map(|tables| verdicts(&tables.lookup(flow))[direction]).collect();
                let told = found[direction].is_none_or(|_| wanted.contains(&found[direction]));
                assert!(told, "{}: {flow:?} is answered {found:?}, not as in any of {wanted:?}", context());
            }
        }
        for Live { flow, frame } in &live {
            let reason = kernel.send(flow, frame);
            let wanted = if !epoch_went_on || lives_on(flow, after) {
                PassReason::Established.as_str()
            } else {
                DropReason::PolicyDenied.as_str()
            };
            assert_eq!(reason, wanted, "{}: live {flow:?}", context());
        }
    }
    assert_eq!(&kernel.node.dataplane.read().expect("maps that can be read"), after, "{context}");
    for flow in &flows {
        let [egress, ingress] = verdicts(&after.lookup(flow));
        let wanted = [egress, ingress.filter(|_| egress != Some(false))];
        assert_eq!(kernel.begin(flow), wanted, "{context}: {flow:?} when all is done");
    }
    seen.plans += usize::from(!ops.is_empty());
    seen.writes += ops.len();
    seen.changed +=
        flows.iter().filter(|flow| verdicts(&before.lookup(flow)) != verdicts(&after.lookup(flow))).count();
    let denied: Vec<_> = live.iter().filter(|live| !after.lookup(&live.flow).allowed()).collect();
    seen.kept += denied.iter().filter(|live| lives_on(&live.flow, after)).count();
    seen.cut += denied.iter().filter(|live| !lives_on(&live.flow, after)).count();
}

#[test]
fn after_every_write_of_one_events_plan_the_kernel_answers_as_before_or_as_after() {
    let mut seen = Seen::default();
    for seed in 0..4 {
        let (mut kernel, mut dice) = (Kernel::new(), Dice(seed));
        let mut town = Town::new(&mut dice);
        let mut before = town.tables(&kernel.node);
        kernel.node.apply(plan(kernel.node.dataplane.tables(), &before));
        for round in 0..8 {
            town.happen(&mut dice);
            let after = town.tables(&kernel.node);
            walk(
                &mut kernel,
                &mut dice,
                &[before, after.clone()],
                &format!("seed {seed}, event {round}"),
                &mut seen,
            );
            before = after;
        }
    }
    let Seen { plans, writes, changed, cut, kept } = seen;
    eprintln!(
        "{plans} plans of {writes} writes, {changed} answers changed, {cut} connections cut, {kept} kept"
    );
    assert!(plans > 12 && writes > 400 && changed > 40 && cut > 10 && kept > 0);
}

#[test]
fn where_several_events_meet_the_kernel_answers_as_if_some_of_them_had_happened() {
    let mut seen = Seen::default();
    for seed in 100..104 {
        let (mut kernel, mut dice) = (Kernel::new(), Dice(seed));
        let mut town = Town::new(&mut dice);
        let before = town.tables(&kernel.node);
        kernel.node.apply(plan(kernel.node.dataplane.tables(), &before));
        for round in 0..6 {
            // Each event's dice are its own, so that it is the same event whatever else happens.
            let events: Vec<u64> = (0..2 + dice.below(2)).map(|_| dice.below(usize::MAX) as u64).collect();
            let some_happened = |chosen: usize| {
                let mut town = town.clone();
                let happened = events.iter().enumerate().filter(|(index, _)| chosen >> index & 1 == 1);
                happened.for_each(|(_, event)| town.happen(&mut Dice(*event)));
                town
            };
            let all = (1 << events.len()) - 1;
            let possible: Vec<Tables> =
                (0..=all).map(|chosen| some_happened(chosen).tables(&kernel.node)).collect();
            walk(&mut kernel, &mut dice, &possible, &format!("seed {seed}, round {round}"), &mut seen);
            town = some_happened(all);
        }
    }
    let Seen { plans, writes, changed, cut, kept } = seen;
    eprintln!(
        "{plans} plans of {writes} writes, {changed} answers changed, {cut} connections cut, {kept} kept"
    );
    assert!(plans > 12 && writes > 400 && changed > 40 && cut > 10);
}
