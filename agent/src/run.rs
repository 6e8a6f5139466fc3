//! The loop: drain what is queued, compile once, plan, apply, answer.
//!
//! One task owns the world and the datapath, so there is nothing to lock; nothing in here awaits but the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use api::{Attachment, PeerStatus};
use policy::{Compiler, Warning, World};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::datapath::{Datapath, Unapplied};
use crate::drift::Wirings;
use crate::endpoints::{Admitted, Farewell, Waiting};
use crate::event::{Call, Event, Question};
use crate::flows::Flows;
use crate::host_rules::HostRules;
use crate::masquerade::Masquerade;
use crate::metrics::Meter;
use crate::naming::Naming;
use crate::node::Neighbourhood;
use crate::notice::{self, Notices};
use crate::records::Records;
use crate::source::{Arrival, Update};

/// Events handled before the next plan at most, so that a flood of one kind cannot hold the others up for ever.
const BATCH: usize = 256;
/// A plan that failed is tried again after this, then after twice as long each time, up to the longest; and before that
/// with the next change.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Whether the link of programs that are to go is gone is looked after so soon, then after twice as long each time, up to
/// the longest.
const DEPARTURE: Duration = Duration::from_millis(5);
const LONGEST_DEPARTURE: Duration = Duration::from_secs(1);
/// Programs are moved to their final place when no pod has come or gone for this long: moving holds up who comes next.
const QUIET: Duration = Duration::from_secs(1);
/// A move that failed is tried again after this.
const MOVE_RETRY: Duration = Duration::from_secs(30);

pub(crate) struct Agent<D> {
    pub(crate) node: String,
    pub(crate) datapath: D,
    pub(crate) world: World,
    pub(crate) records: Records,
    pub(crate) naming: Naming,
    pub(crate) flows: Flows,
    pub(crate) meter: Meter,
    compiler: Compiler,
    /// The first complete list has arrived.
    pub(crate) source_seen: bool,
    /// The first complete list is in force.
    pub(crate) ready: bool,
    /// The plugin's configuration, without which the runtime wires no pods, has still to be written.
    pub(crate) awaits_conflist: bool,
    /// What was last read, and of that, what is in force.
    pub(crate) revision_read: Option<String>,
    pub(crate) revision_in_force: Option<String>,
    pub(crate) complaints: BTreeMap<&'static str, Vec<String>>,
    pub(crate) notices: Notices,
    /// `API server` or `folder`.
    pub(crate) source_kind: &'static str,
    /// When the last change came from it.
    pub(crate) heard_at: Option<Instant>,
    /// Pods that another plugin has wired, and since when that is so.
    pub(crate) unmanaged: BTreeMap<String, Instant>,
    /// Endpoints without pod and namespace, and since when that is so.
    pub(crate) orphans: BTreeMap<Attachment, Instant>,
    /// Whoever lets go of their links and addresses.
    pub(crate) let_go: Option<mpsc::Sender<Attachment>>,
    pub(crate) last_error: Option<String>,
    /// How the pods of the other nodes are reached.
    pub(crate) peers: Vec<PeerStatus>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) admitted: Vec<Admitted>,
    pub(crate) farewells: Vec<Farewell>,
    /// Calls that change nothing; they see what was asked for before them.
    questions: Vec<Question>,
    /// Interfaces whose programs are to be detached once they are gone.
    pub(crate) departing: Vec<u32>,
    pub(crate) masquerade: Masquerade,
    pub(crate) host_rules: Option<HostRules>,
    /// How many there have been.
    pub(crate) audits: u64,
    neighbourhood: watch::Sender<Neighbourhood>,
    /// For whoever keeps the endpoints' links as they must be.
    pub(crate) wirings: watch::Sender<Wirings>,
    /// Events of watches that are not in force yet.
    arrivals: Vec<Arrival>,
    /// The world differs from what was last compiled.
    changed: bool,
    retry_at: Option<Instant>,
    retry_after: Duration,
    depart_at: Option<Instant>,
    depart_after: Duration,
    move_at: Option<Instant>,
}

impl<D: Datapath> Agent<D> {
    /// Takes back what an earlier agent had taken in, as far as it still exists.
    pub(crate) fn new(
        node: &str,
        datapath: D,
        records: Records,
        neighbourhood: watch::Sender<Neighbourhood>,
    ) -> Self {
        let mut agent = Self {
            node: node.to_owned(),
            datapath,
            world: World::new(node),
            records,
            naming: Naming::default(),
            flows: Flows::new(node),
            meter: Meter::default(),
            compiler: Compiler::new(),
            source_seen: false,
            ready: false,
            awaits_conflist: false,
            revision_read: None,
            revision_in_force: None,
            complaints: BTreeMap::new(),
            notices: Notices::default(),
            source_kind: "folder",
            heard_at: None,
            unmanaged: BTreeMap::new(),
            orphans: BTreeMap::new(),
            let_go: None,
            last_error: None,
            peers: Vec::new(),
            waiting: Vec::new(),
            admitted: Vec::new(),
            farewells: Vec::new(),
            questions: Vec::new(),
            departing: Vec::new(),
            masquerade: Masquerade::default(),
            host_rules: None,
            audits: 0,
            neighbourhood,
            wirings: watch::Sender::default(),
            arrivals: Vec::new(),
            changed: false,
            retry_at: None,
            retry_after: RETRY,
            depart_at: None,
            depart_after: DEPARTURE,
            move_at: None,
        };
        agent.reconcile();
        let kept: Vec<_> = agent.records.iter().cloned().collect();
        kept.iter().for_each(|attach| agent.enter(attach));
        agent
    }

    /// Runs until told to stop, or until nobody is left to say anything.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        // An earlier agent may have left programs on the way.
        self.move_soon();
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = sleep_until(self.deadline()) => Some(Event::Tick),
            };
            let mut next = event;
            let mut left = BATCH;
            while let Some(event) = next {
                if matches!(event, Event::Shutdown) {
                    return;
                }
                self.handle(event);
                left -= 1;
                next = if left > 0 { events.try_recv().ok() } else { None };
            }
            self.settle(Instant::now());
            if events.is_closed() && events.is_empty() {
                return;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Source(update) => self.take(update),
            Event::Call(call) => self.call(call),
            Event::Flows(events) => self.flows.record(events, &mut self.naming, &self.world),
            Event::Complaints { part, complaints } => self.complain(part, complaints),
            Event::Wired => self.awaits_conflist = false,
            Event::Audit => self.audit(),
            Event::FilterGone(ifindex) => self.filter_gone(ifindex),
            Event::Overlay(ifindex, reply) => {
                // Whoever does not wait any more is ending.
                reply.send(self.datapath.attach_overlay(ifindex)).unwrap_or_default();
            }
            Event::Mended(mended) => self.mended(mended),
            Event::Peers(peers) => self.peers = peers,
            Event::Sweep => self.sweep(),
            Event::Reconcile => {
                self.reconcile();
                self.survey();
            }
            // `settle` looks at the clock; the loop itself ends.
            Event::Tick | Event::Shutdown => {}
        }
    }

    fn call(&mut self, call: Call) {
        if !matches!(call, Call::Ask(_)) {
            self.move_soon();
        }
        match call {
            Call::Attach(attach, reply) => self.attach(attach, reply),
            Call::Detach(attachment, reply) => self.detach(&attachment, reply),
            Call::Collect(valid, reply) => self.collect(&valid, reply),
            Call::Ask(question) => self.questions.push(question),
        }
    }

    fn answer(&mut self, question: Question) {
        // An answer that nobody waits for any more is no loss.
        match question {
            Question::Endpoint(attachment, reply) => drop(reply.send(self.endpoint(&attachment))),
            Question::Status(reply) => drop(reply.send(Ok(self.status()))),
            Question::Flows(query, reply) => drop(reply.send(Ok(self.flows.query(&query)))),
            Question::Explain(query, reply) => drop(reply.send(self.explain(&query))),
            Question::Numbers(reply) => drop(reply.send(Ok(self.numbers()))),
            Question::Readiness(reply) => drop(reply.send(Ok(self.what_is_missing()))),
        }
    }

    fn take(&mut self, update: Update) {
        let Update { changes, complete, warnings, revision, arrived } = update;
        self.heard_at = Some(Instant::now());
        for change in changes {
            self.naming.follow(&mut self.world, change);
        }
        self.world_changed();
        if complete {
            self.complain("files", warnings.iter().map(Warning::to_string).collect());
            self.revision_read = revision;
            self.source_seen = true;
        }
        // Before all is known nothing comes into force, however long that takes.
        if self.source_seen {
            self.arrivals.extend(arrived);
        }
        self.admit();
    }

    pub(crate) fn world_changed(&mut self) {
        self.changed = true;
        self.naming.world_changed();
    }

    /// Replaces what one part has to say; what is new is logged.
    pub(crate) fn complain(&mut self, part: &'static str, complaints: Vec<String>) {
        let known = self.complaints.remove(part).unwrap_or_default();
        for complaint in complaints.iter().filter(|complaint| !known.contains(complaint)) {
            warn!("{complaint}");
            if let Some(notice) = notice::of_complaint(part, complaint, &self.node) {
                self.notices.tell(notice);
            }
        }
        self.complaints.insert(part, complaints);
    }

    /// What the queue has brought is put in force and answered.
    fn settle(&mut self, now: Instant) {
        self.give_up(now);
        if self.changed || self.retry_at.is_some_and(|at| at <= now) {
            let programmed = self.program();
            if self.finish_admitted(programmed) {
                // Endpoints that could not be taken in go before anybody hears of it. `program` keeps its own error.
                self.program().unwrap_or_default();
            }
            self.depart_after = DEPARTURE;
            self.depart(now);
        } else if self.depart_at.is_some_and(|at| at <= now) {
            self.depart(now);
        }
        // Before anybody hears that an endpoint is gone: its link goes next.
        let node_ips = self.world.node().map_or(&[][..], |node| &node.ips);
        self.wirings.send_if_modified(|last| last.follow(&self.records, node_ips));
        self.free_ports();
        self.say_farewell();
        if self.move_at.is_some_and(|at| at <= now) {
            self.move_programs(now);
        }
        for question in std::mem::take(&mut self.questions) {
            self.answer(question);
        }
    }

    /// Programs that have just been attached are moved to their final place when it is quiet.
    pub(crate) fn move_soon(&mut self) {
        self.move_at = Some(Instant::now() + QUIET);
    }

    fn depart(&mut self, now: Instant) {
        self.let_depart();
        self.depart_at = (!self.departing.is_empty()).then(|| now + self.depart_after);
        self.depart_after = (2 * self.depart_after).min(LONGEST_DEPARTURE);
    }

    /// One program at a time: what has come into the queue meanwhile goes first.
    fn move_programs(&mut self, now: Instant) {
        self.move_at = match self.datapath.settle_endpoint() {
            Ok(true) => Some(now),
            Ok(false) => None,
            Err(error) => {
                warn!(error = format!("{error:#}"), "program not moved to tcx, it stays on clsact for now");
                Some(now + MOVE_RETRY)
            }
        };
    }

    /// Compiles the world and makes the maps hold the result. Where that cannot be, they hold what they held before.
    fn program(&mut self) -> Result<(), String> {
        if !self.source_seen {
            return Ok(());
        }
        self.changed = false;
        let outcome = self.compile_and_apply().and_then(|()| {
            self.masquerade.tell(&mut self.datapath, &self.world)?;
            if self.ready {
                Ok(())
            } else {
                self.datapath.take_over().context("take over from another layout")
            }
        });
        let outcome = outcome.map_err(|error| format!("{error:#}"));
        self.retry_at = outcome.is_err().then(|| Instant::now() + self.retry_after);
        match &outcome {
            Ok(()) => {
                self.retry_after = RETRY;
                self.revision_in_force.clone_from(&self.revision_read);
                self.arrivals.drain(..).for_each(|arrival| self.meter.in_force(arrival));
                if self.last_error.take().is_some() {
                    info!("plan carried out after all");
                }
                if !self.ready {
                    self.ready = true;
                    info!(node = self.node, generation = self.generation(), "ready");
                }
            }
            Err(problem) => {
                self.meter.refused += 1;
                // Of a plan that keeps failing, so many are remembered.
                self.arrivals.truncate(BATCH);
                self.retry_after = (2 * self.retry_after).min(LONGEST_RETRY);
                if self.last_error.as_ref() != Some(problem) {
                    error!(error = problem, "plan not carried out, the last good generation stays in force");
                    let message = format!("{problem}; the last good generation stays in force");
                    if let Some(notice) = notice::of_complaint("plan", &message, &self.node) {
                        self.notices.tell(notice);
                    }
                }
                self.last_error = Some(problem.clone());
            }
        }
        self.neighbourhood.send_if_modified(|last| last.follow(&self.world, self.ready));
        outcome
    }

    fn compile_and_apply(&mut self) -> anyhow::Result<()> {
        let began = std::time::Instant::now();
        let policy::Update { plan, names, warnings } =
            self.compiler.update(&mut self.world, self.datapath.tables());
        if let Some(warnings) = warnings {
            self.complain("policy", warnings.iter().map(Warning::to_string).collect());
        }
        // Before they are in force: the first event that needs the names comes after this.
        self.naming.learn(names);
        self.meter.planned(began.elapsed(), plan.len());
        if !plan.is_empty() {
            let began = std::time::Instant::now();
            let error = match self.datapath.apply(&plan) {
                Ok(()) => None,
                Err(Unapplied::Refused(error)) => Some(error),
                Err(Unapplied::CutShort(error)) => {
                    // How far it came only the maps know. Where they cannot be read either, what is thought to be in them
                    // is what was thought before.
                    self.compiler.start_again();
                    let unread = self.datapath.reread().err();
                    Some(unread.map_or(error, |unread| unread.context("read what the maps hold")))
                }
            };
            if let Some(error) = error {
                return Err(error.context(format!("carry out a plan of {} writes", plan.len())));
            }
            self.meter.applied(began.elapsed());
            info!(writes = plan.len(), generation = self.generation(), "plan carried out");
        }
        let retired = self.compiler.carried_out();
        self.naming.retire(&retired);
        Ok(())
    }

    fn sweep(&mut self) {
        match self.datapath.sweep() {
            Ok(forgotten) => self.meter.swept += forgotten,
            Err(error) => warn!(error = format!("{error:#}"), "expired connections not swept"),
        }
        if let Ok(counters) = self.datapath.counters()
            && let Some(lost) = counters.iter().find(|counter| counter.name == "flow_events_lost")
        {
            self.flows.lost(lost.packets);
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.datapath.config().map_or(0, |config| config.generation)
    }

    fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().map(|waiting| waiting.deadline);
        waiting.chain(self.retry_at).chain(self.depart_at).chain(self.move_at).min()
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
