//! Measures: has the stubs knock, and puts what the kernel said beside what came back.
//!
//! A denied packet vanishes, so silence is the usual sign of a denial and waiting its cost. The agents' flow events cut
//! it short: a probe whose first packet was seen dropped is given a moment more, to be sure that no answer comes all the
//! same, and then given up.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use api::{Flow, FlowLine, VerdictKind};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::plan::Protocol;
use crate::puppet::{Heard, Puppet};
use crate::state::Process;
use crate::stub::protocol::{Order, Outcome, Probe, Said};
use crate::targets::Target;

/// How many probes are under way at once.
const WINDOW: usize = 2000;
/// How long a probe may take whose packets nobody has seen dropped.
const PATIENCE: Duration = Duration::from_millis(1000);
/// The same for one that is tried once more, as nothing at all was heard of it.
const MORE_PATIENCE: Duration = Duration::from_millis(3000);
/// How long an answer may still come after a drop was seen.
const AFTER_DROP: Duration = Duration::from_millis(300);
/// How long to wait for the flow events of the last connections.
const AFTERMATH: Duration = Duration::from_millis(150);
/// Stubs time their probes themselves; this much later we stop believing them.
const GRACE: Duration = Duration::from_secs(5);

/// What became of one [`Target`].
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    /// What the kernel said, drops before the rest.
    pub(crate) flows: Vec<Flow>,
}

/// Everything that measuring needs; it is used again and again.
pub(crate) struct Prober<'a> {
    pub(crate) puppets: BTreeMap<&'a str, &'a Puppet>,
    pub(crate) heard: &'a mut mpsc::UnboundedReceiver<Heard>,
    pub(crate) flows: &'a mut mpsc::UnboundedReceiver<FlowLine>,
    /// Every node says what it drops, so that silence alone means that something is odd.
    pub(crate) all_nodes_speak: bool,
    /// The next probe's number.
    pub(crate) next: &'a mut u64,
    pub(crate) progress: &'a dyn Fn(usize),
}

impl Prober<'_> {
    /// Tries all targets; the answer has their order. The second value says how many flows nobody could tell.
    pub(crate) async fn measure(&mut self, targets: &[Target]) -> (Vec<Measured>, u64) {
        let mut round = Round::new(targets);
        self.run(&mut round, (0..targets.len()).collect(), PATIENCE).await;
        let unheard: VecDeque<usize> = (0..targets.len()).filter(|index| round.is_unheard(*index)).collect();
        if self.all_nodes_speak && !unheard.is_empty() {
            self.run(&mut round, unheard, MORE_PATIENCE).await;
        }
        self.wait_for_flows(&mut round).await;
        let lost = round.lost;
        (round.finish(), lost)
    }

    async fn run(&mut self, round: &mut Round<'_>, mut waiting: VecDeque<usize>, patience: Duration) {
        while !waiting.is_empty() || !round.running.is_empty() {
            self.send(round, &mut waiting, patience);
            let alarm = round.next_alarm();
            tokio::select! {
                Some(heard) = self.heard.recv() => {
                    round.hear(heard);
                    while let Ok(heard) = self.heard.try_recv() {
                        round.hear(heard);
                    }
                    (self.progress)(round.done);
                }
                Some(line) = self.flows.recv() => round.read(line),
                () = sleep_until(alarm) => self.give_up(round),
            }
        }
    }

    /// Fills the window: one order for each stub.
    fn send(&mut self, round: &mut Round<'_>, waiting: &mut VecDeque<usize>, patience: Duration) {
        let mut orders: BTreeMap<&str, Vec<Probe>> = BTreeMap::new();
        while round.running.len() < WINDOW
            && let Some(index) = waiting.pop_front()
        {
            let target = &round.targets[index];
            let id = *self.next;
            *self.next += 1;
            let timeout_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            let Target { ip, port, protocol, .. } = *target;
            let puppet = self.puppets.get(target.from.as_str());
            let stub = puppet.map(|puppet| puppet.process);
            let running = Running { index, stub, from: None, overdue: Instant::now() + patience + GRACE };
            round.running.insert(id, running);
            if stub.is_some() {
                orders.entry(&target.from).or_default().push(Probe { id, ip, port, protocol, timeout_ms });
            } else {
                round.conclude(id, Outcome::Failed(format!("{} has no stub", target.from)));
            }
        }
        for (name, probes) in orders {
            self.puppets[name].order(Order::Probe(probes));
        }
    }

    /// Calls off what was seen dropped a while ago, and what a stub has forgotten.
    fn give_up(&mut self, round: &mut Round<'_>) {
        let now = Instant::now();
        let mut orders: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        while let Some((due, id)) = round.doomed.front().copied()
            && due <= now
        {
            round.doomed.pop_front();
            if let Some(running) = round.running.get(&id) {
                orders.entry(&round.targets[running.index].from).or_default().push(id);
            }
        }
        for (name, ids) in orders {
            if let Some(puppet) = self.puppets.get(name) {
                puppet.order(Order::GiveUp(ids));
            }
        }
        let overdue: Vec<u64> =
            round.running.iter().filter(|(_, running)| running.overdue <= now).map(|(id, _)| *id).collect();
        for id in overdue {
            round.conclude(id, Outcome::Failed("the stub does not answer".into()));
        }
    }

    /// Connections are reported through a buffer: the last events may still be on their way.
    async fn wait_for_flows(&mut self, round: &mut Round<'_>) {
        let deadline = Instant::now() + AFTERMATH;
        while round.misses_flows() {
            tokio::select! {
                Some(line) = self.flows.recv() => round.read(line),
                () = sleep_until(deadline) => return,
            }
        }
    }
}

/// One call of [`Prober::measure`].
struct Round<'a> {
    targets: &'a [Target],
    outcomes: Vec<Option<(Outcome, Option<SocketAddr>)>>,
    done: usize,
    running: HashMap<u64, Running>,
    /// Several connections may share a source port, if they go to different places.
    by_source: HashMap<Key, Vec<u64>>,
    /// What the kernel said, under both ends of each packet.
    flows: HashMap<Key, Vec<Flow>>,
    /// Probes that were seen dropped, and when to give them up.
    doomed: VecDeque<(Instant, u64)>,
    /// Flows that did not reach us.
    lost: u64,
}

struct Running {
    index: usize,
    stub: Option<Process>,
    /// Where it comes from, once its stub has said so.
    from: Option<SocketAddr>,
    /// When to conclude that the stub is not there any more.
    overdue: Instant,
}

type Key = (Protocol, SocketAddr);

impl<'a> Round<'a> {
    fn new(targets: &'a [Target]) -> Self {
        Self {
            targets,
            outcomes: vec![None; targets.len()],
            done: 0,
            running: HashMap::new(),
            by_source: HashMap::new(),
            flows: HashMap::new(),
            doomed: VecDeque::new(),
            lost: 0,
        }
    }

    fn hear(&mut self, Heard { from, said }: Heard) {
        match said {
            Some(Said::Started { id, from }) => {
                let Some(running) = self.running.get_mut(&id) else { return };
                running.from = Some(from);
                let index = running.index;
                self.by_source.entry((self.targets[index].protocol, from)).or_default().push(id);
                if self.flows_of(index, from).any(|flow| flow.verdict == VerdictKind::Denied) {
                    self.doomed.push_back((Instant::now() + AFTER_DROP, id));
                }
            }
            Some(Said::Done { id, outcome }) => self.conclude(id, outcome),
            Some(Said::Ready { .. }) => {}
            None => {
                let lost: Vec<u64> = self
                    .running
                    .iter()
                    .filter(|(_, running)| running.stub == Some(from))
                    .map(|(id, _)| *id)
                    .collect();
                for id in lost {
                    self.conclude(id, Outcome::Failed("its stub has ended".into()));
                }
            }
        }
    }

    fn read(&mut self, line: FlowLine) {
        match line {
            FlowLine::Flow(flow) => self.see(*flow),
            FlowLine::Lost { lost } => self.lost += lost,
        }
    }

    fn see(&mut self, flow: Flow) {
        let Some(protocol) = Protocol::parse(Some(&flow.protocol)) else { return };
        let ends = [&flow.from, &flow.to].map(|end| (protocol, SocketAddr::new(end.ip, end.port)));
        if flow.verdict == VerdictKind::Denied {
            let ids = ends.iter().filter_map(|end| self.by_source.get(end)).flatten();
            let is_about = |id: &&u64| {
                self.running.get(id).is_some_and(|running| is_about(&self.targets[running.index], &flow))
            };
            self.doomed.extend(ids.filter(is_about).map(|id| (Instant::now() + AFTER_DROP, *id)));
        }
        for end in ends {
            self.flows.entry(end).or_default().push(flow.clone());
        }
    }

    fn conclude(&mut self, id: u64, outcome: Outcome) {
        let Some(running) = self.running.remove(&id) else { return };
        let source = running.from.map(|from| (self.targets[running.index].protocol, from));
        if let Some(ids) = source.and_then(|source| self.by_source.get_mut(&source)) {
            ids.retain(|other| *other != id);
        }
        if self.outcomes[running.index].replace((outcome, running.from)).is_none() {
            self.done += 1;
        }
    }

    fn next_alarm(&self) -> Instant {
        let overdue = self.running.values().map(|running| running.overdue).min();
        let doomed = self.doomed.front().map(|(due, _)| *due);
        overdue.into_iter().chain(doomed).min().unwrap_or_else(|| Instant::now() + GRACE)
    }

    /// What was said about the connection from `from` to the target.
    fn flows_of(&self, index: usize, from: SocketAddr) -> impl Iterator<Item = &Flow> {
        let target = &self.targets[index];
        let said = self.flows.get(&(target.protocol, from)).into_iter().flatten();
        said.filter(move |flow| is_about(target, flow))
    }

    /// No answer, and no node saw a drop: it may have been the machine that was slow.
    fn is_unheard(&self, index: usize) -> bool {
        match &self.outcomes[index] {
            Some((Outcome::Silence, from)) => from.is_none_or(|from| {
                !self.flows_of(index, from).any(|flow| flow.verdict == VerdictKind::Denied)
            }),
            _ => false,
        }
    }

    fn misses_flows(&self) -> bool {
        self.outcomes.iter().enumerate().any(|(index, outcome)| match outcome {
            Some((_, Some(from))) => {
                self.targets[index].is_seen() && self.flows_of(index, *from).next().is_none()
            }
            _ => false,
        })
    }

    fn finish(self) -> Vec<Measured> {
        let measured = |(index, outcome): (usize, &Option<(Outcome, Option<SocketAddr>)>)| {
            let (outcome, from) = outcome.clone().unwrap_or((Outcome::Silence, None));
            let said = from.into_iter().flat_map(|from| self.flows_of(index, from));
            let mut flows: Vec<Flow> = said.cloned().collect();
            flows.sort_by_key(|flow| flow.verdict != VerdictKind::Denied);
            Measured { outcome, flows }
        };
        self.outcomes.iter().enumerate().map(measured).collect()
    }
}

/// Whether one of the flow's ends is where the target is. A Service's flows name the backend instead.
fn is_about(target: &Target, flow: &Flow) -> bool {
    let is = |end: &api::FlowEnd| end.ip == target.ip && end.port == target.port;
    target.to.is_none() || is(&flow.to) || is(&flow.from)
}

#[cfg(test)]
mod tests {
    use api::FlowEnd;

    use super::*;

    fn target(ip: &str, to: Option<&str>) -> Target {
        Target {
            from: "shop/a".into(),
            to: to.map(str::to_owned),
            ip: ip.parse().unwrap(),
            port: 80,
            protocol: Protocol::Tcp,
            unseen: false,
        }
    }

    fn dropped(from: &str, to: &str) -> Flow {
        let end = |text: &str| {
            let address: SocketAddr = text.parse().unwrap();
            FlowEnd { ip: address.ip(), port: address.port(), name: None }
        };
        Flow {
            time: String::new(),
            node: "node-0".into(),
            from: end(from),
            to: end(to),
            protocol: "TCP".into(),
            verdict: VerdictKind::Denied,
            direction: Some("ingress".into()),
            reason: "policy_denied".into(),
            by: Vec::new(),
            bytes: 60,
        }
    }

    const STUB: Process = Process { pid: 1, started: 1 };

    /// Target `id` is under way from `from`.
    fn start(round: &mut Round<'_>, id: usize, from: &str) {
        let overdue = Instant::now();
        let id_u64 = u64::try_from(id).unwrap();
        round.running.insert(id_u64, Running { index: id, stub: Some(STUB), from: None, overdue });
        let said = Said::Started { id: id_u64, from: from.parse().unwrap() };
        round.hear(Heard { from: STUB, said: Some(said) });
    }

    fn doomed(round: &Round<'_>) -> Vec<u64> {
        round.doomed.iter().map(|(_, id)| *id).collect()
    }

    #[test]
    fn a_drop_dooms_its_probe_whichever_is_heard_of_first() {
        let targets = [target("10.0.0.1", Some("shop/b")), target("10.0.0.2", Some("shop/c"))];
        let mut round = Round::new(&targets);
        start(&mut round, 0, "10.0.0.9:1000");
        round.see(dropped("10.0.0.9:1000", "10.0.0.1:80"));
        round.see(dropped("10.0.0.9:1001", "10.0.0.2:80"));
        start(&mut round, 1, "10.0.0.9:1001");
        assert_eq!(doomed(&round), [0, 1]);
    }

    #[test]
    fn probes_that_share_a_source_port_are_told_apart_by_where_they_go() {
        let targets = [target("10.0.0.1", Some("shop/b")), target("10.0.0.2", Some("shop/c"))];
        let mut round = Round::new(&targets);
        start(&mut round, 0, "10.0.0.9:1000");
        start(&mut round, 1, "10.0.0.9:1000");
        round.conclude(0, Outcome::Answered("shop/b".into()));
        round.see(dropped("10.0.0.9:1000", "10.0.0.2:80"));
        assert_eq!(doomed(&round), [1]);
    }

    #[test]
    fn a_services_drop_names_the_backend_and_is_found_by_its_source() {
        let targets = [target("10.96.0.1", None)];
        let mut round = Round::new(&targets);
        start(&mut round, 0, "10.0.0.9:1000");
        round.see(dropped("10.0.0.9:1000", "10.0.0.1:8080"));
        assert_eq!(doomed(&round), [0]);
    }

    #[test]
    fn silence_without_a_drop_is_unheard_and_with_one_it_is_not() {
        let targets = [target("10.0.0.1", Some("shop/b")), target("10.0.0.2", Some("shop/c"))];
        let mut round = Round::new(&targets);
        start(&mut round, 0, "10.0.0.9:1000");
        start(&mut round, 1, "10.0.0.9:1001");
        round.see(dropped("10.0.0.9:1001", "10.0.0.2:80"));
        round.conclude(0, Outcome::Silence);
        round.conclude(1, Outcome::Silence);
        assert!(round.is_unheard(0));
        assert!(!round.is_unheard(1));
    }

    #[test]
    fn a_stub_that_ends_takes_its_own_probes_along_and_no_others() {
        let targets = [target("10.0.0.1", Some("shop/b"))];
        let mut round = Round::new(&targets);
        start(&mut round, 0, "10.0.0.9:1000");
        round.hear(Heard { from: Process { pid: 1, started: 2 }, said: None });
        assert_eq!(round.running.len(), 1);
        round.hear(Heard { from: STUB, said: None });
        assert!(round.running.is_empty());
    }
}
