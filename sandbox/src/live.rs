//! What people see while they wait, on standard error: a line of progress, and flows.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};

use api::{Flow, FlowEnd, FlowLine, VerdictKind};
use tokio::task::JoinHandle;

use crate::measure::Subscription;
use crate::supervisor::{Progress, Sandbox};

/// One line that is rewritten on a terminal; elsewhere a line for each step.
pub(crate) struct Ticker {
    terminal: bool,
    shown: RefCell<Option<Progress>>,
    dirty: Cell<bool>,
}

impl Ticker {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, shown: RefCell::new(None), dirty: Cell::new(false) }
    }

    pub(crate) fn show(&self, progress: Progress) {
        let before = self.shown.replace(Some(progress));
        if self.terminal {
            self.write(&format!("\r\x1b[K{}", words(progress)));
            self.dirty.set(true);
        } else if before.is_none_or(|before| step(before) != step(progress)) {
            self.write(&format!("{}\n", step(progress)));
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        if self.dirty.replace(false) {
            self.write("\r\x1b[K");
        }
        self.shown.replace(None);
    }

    /// A line that stays.
    pub(crate) fn say(&self, text: &str) {
        self.clear();
        self.write(&format!("{text}\n"));
    }

    fn write(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        // Progress that nobody can see is not worth failing for.
        stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()).unwrap_or_default();
    }
}

fn step(progress: Progress) -> &'static str {
    match progress {
        Progress::Nodes => "bringing up nodes …",
        Progress::Pods(..) => "wiring pods …",
        Progress::Policies => "putting policies in force …",
        Progress::Probes(..) => "measuring …",
    }
}

fn words(progress: Progress) -> String {
    match progress {
        Progress::Nodes | Progress::Policies => step(progress).to_owned(),
        Progress::Pods(done, total) => format!("pods {done} of {total}"),
        Progress::Probes(done, total) => format!("probes {done} of {total}"),
    }
}

/// Prints flows until it is dropped.
pub(crate) struct FlowPrinter {
    task: JoinHandle<()>,
    _subscriptions: Vec<Subscription>,
}

impl Drop for FlowPrinter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Prints every flow of every node from now on.
pub(crate) async fn print_flows(sandbox: &Sandbox, ticker: &Ticker) -> FlowPrinter {
    ticker.clear();
    let (mut flows, subscriptions) = sandbox.subscribe().await;
    let lead = if ticker.terminal { "\r\x1b[K" } else { "" };
    let task = tokio::spawn(async move {
        while let Some(next) = flows.recv().await {
            match next {
                FlowLine::Flow(flow) => eprintln!("{lead}{}", line(&flow)),
                FlowLine::Lost { lost } => eprintln!("{lead}{lost} flows lost"),
            }
        }
    });
    FlowPrinter { task, _subscriptions: subscriptions }
}

/// One flow for people: when, where, verdict, from whom to whom, why.
fn line(flow: &Flow) -> String {
    let clock = flow.time.split_once('T').map_or(flow.time.as_str(), |(_, clock)| clock);
    let end = |end: &FlowEnd| {
        let name = end.name.clone().unwrap_or_else(|| end.ip.to_string());
        if end.port == 0 { name } else { format!("{name}:{}", end.port) }
    };
    let verdict = match flow.verdict {
        VerdictKind::Allowed => "allowed",
        VerdictKind::Denied => "denied ",
    };
    let by: Vec<String> = flow
        .by
        .iter()
        .map(|by| {
            let rule = by.rule.as_ref().map(|rule| format!(" {rule}")).unwrap_or_default();
            format!("  {} {}{rule}", by.direction, by.policies.join(","))
        })
        .collect();
    format!(
        "{clock} {} {verdict} {} {} → {}  {}{}",
        flow.node,
        flow.protocol,
        end(&flow.from),
        end(&flow.to),
        flow.reason,
        by.concat()
    )
}
