//! What was found: medians and ratios to nginx of the same round, and whether the promises are kept.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::churn::Churn;
use super::client::{Load, Seen};
use super::peers::Peer;
use crate::statistics::{Summary, quantile};

/// One measurement of one round.
pub(super) struct Sample {
    round: u32,
    peer: Peer,
    load: Load,
    requests: usize,
    /// Requests a second.
    rate: f64,
    /// CPU time of the proxy for each request, in microseconds.
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

/// KiB that one idle connection occupies.
pub(super) struct Idle {
    pub(super) peer: Peer,
    pub(super) http1_kib: f64,
    pub(super) http2_kib: f64,
}

impl Sample {
    pub(super) fn new(
        round: u32,
        peer: Peer,
        load: Load,
        (seen, before, after): (Seen, Duration, Duration),
    ) -> Result<Self> {
        let mut latencies: Vec<f64> = seen.latencies.iter().map(|it| it.as_secs_f64() * 1e6).collect();
        latencies.sort_by(f64::total_cmp);
        let requests = latencies.len();
        let share = |share| quantile(&latencies, share).context("no latencies");
        Ok(Self {
            round,
            peer,
            load,
            requests,
            rate: requests as f64 / seen.wall.as_secs_f64(),
            cpu_us: after.saturating_sub(before).as_secs_f64() * 1e6 / requests as f64,
            p50_us: share(0.5)?,
            p99_us: share(0.99)?,
        })
    }
}

/// Everything that was measured in one run.
pub(super) struct Report {
    peers: Vec<Peer>,
    loads: Vec<(&'static str, Load)>,
    samples: Vec<Sample>,
    idle: Vec<Idle>,
    churn: Option<Churn>,
    took: Duration,
    machine: String,
}

/// What is promised of weir-ingress (issue 6).
struct Promise {
    what: String,
    at_most: f64,
    found: f64,
}

impl Report {
    pub(super) fn new(
        peers: Vec<Peer>,
        loads: Vec<(&'static str, Load)>,
        samples: Vec<Sample>,
        idle: Vec<Idle>,
        churn: Option<Churn>,
        took: Duration,
        machine: String,
    ) -> Self {
        Self { peers, loads, samples, idle, churn, took, machine }
    }

    fn values(&self, peer: Peer, load: Load, value: fn(&Sample) -> f64) -> Option<Summary> {
        Summary::of(self.samples.iter().filter(|it| (it.peer, it.load) == (peer, load)).map(value))
    }

    /// To nginx in the same round.
    fn ratio(&self, peer: Peer, load: Load, value: fn(&Sample) -> f64) -> Option<Summary> {
        let of = |peer| self.samples.iter().filter(move |it| (it.peer, it.load) == (peer, load));
        Summary::of(of(peer).filter_map(|sample| {
            let base = of(Peer::Nginx).find(|base| base.round == sample.round)?;
            Some(value(sample) / value(base))
        }))
    }

    fn promises(&self) -> Vec<Promise> {
        let mut promises = Vec::new();
        for (name, load) in &self.loads {
            let cpu = match load {
                Load::Http1 { .. } => 0.95,
                Load::Http2 { .. } => 1.1,
                Load::Handshake { .. } => 0.5,
            };
            let mut add = |what: &str, at_most, value| {
                if let Some(ratio) = self.ratio(Peer::Weir, *load, value) {
                    promises.push(Promise {
                        what: format!("{name}: {what}, to nginx's"),
                        at_most,
                        found: ratio.median,
                    });
                }
            };
            add("CPU per request", cpu, |it| it.cpu_us);
            add("p99", 1.0, |it| it.p99_us);
        }
        for idle in self.idle.iter().filter(|idle| idle.peer == Peer::Weir) {
            for (what, found) in [("HTTP/1.1", idle.http1_kib), ("HTTP/2", idle.http2_kib)] {
                promises.push(Promise {
                    what: format!("KiB per idle TLS connection, {what}"),
                    at_most: 60.0,
                    found,
                });
            }
        }
        if let Some(churn) = &self.churn {
            let mut add = |what: String, at_most, found| promises.push(Promise { what, at_most, found });
            add(
                format!("{} changes under load: requests that failed", churn.changes),
                0.0,
                churn.failed as f64,
            );
            for (kind, live) in &churn.live_ms {
                add(format!("ms until a changed {kind} is live, median"), 30.0, live.median);
            }
            add(format!("MiB with {} routes", churn.routes), 40.0, churn.mib[0]);
            add("MiB after the changes".into(), 40.0, churn.mib[1]);
        }
        promises
    }

    /// The tables for a person.
    pub(super) fn table(&self) -> Result<String> {
        let mut text = String::new();
        let rounds = self.samples.iter().map(|it| it.round + 1).max().unwrap_or_default();
        let (machine, took) = (&self.machine, self.took.as_secs_f64());
        writeln!(
            text,
            "{rounds} interleaved rounds, each proxy with one worker; {}; {took:.0} s in all",
            machine
        )?;
        for (name, load) in &self.loads {
            writeln!(
                text,
                "\n{name:<14}{:>10}{:>10}{:>10}{:>12}   CPU to nginx's",
                "req/s", "p50 ms", "p99 ms", "CPU µs/req"
            )?;
            for peer in &self.peers {
                let median =
                    |value| self.values(*peer, *load, value).map(|it| it.median).context("no samples");
                let (rate, cpu) = (median(|it| it.rate)?, median(|it| it.cpu_us)?);
                let (p50, p99) = (median(|it| it.p50_us)? / 1e3, median(|it| it.p99_us)? / 1e3);
                let ratio = self.ratio(*peer, *load, |it| it.cpu_us).context("no samples")?;
                writeln!(
                    text,
                    "{:<14}{rate:>10.0}{p50:>10.2}{p99:>10.2}{cpu:>12.1}   {:.2} [{:.2}–{:.2}]",
                    peer.title(),
                    ratio.median,
                    ratio.q1,
                    ratio.q3
                )?;
            }
        }
        if !self.idle.is_empty() {
            writeln!(text, "\n{:<30}{:>10}{:>10}", "KiB per idle TLS connection", "HTTP/1.1", "HTTP/2")?;
            for Idle { peer, http1_kib, http2_kib } in &self.idle {
                writeln!(text, "{:<30}{http1_kib:>10.1}{http2_kib:>10.1}", peer.title())?;
            }
        }
        if let Some(churn) = &self.churn {
            let Churn { routes, changes, requests, failed, live_ms, .. } = churn;
            writeln!(
                text,
                "\n{changes} changes with {routes} routes: {requests} requests meanwhile, {failed} failed"
            )?;
            for (kind, live) in live_ms {
                let Summary { median, q3, max, .. } = live;
                writeln!(
                    text,
                    "  {kind:<12} live after {median:.1} ms (quartile {q3:.1}, longest {max:.1})"
                )?;
            }
        }
        writeln!(text, "\n{:<56}{:>8}{:>8}", "weir-ingress", "at most", "found")?;
        for promise in self.promises() {
            let Promise { what, at_most, found } = &promise;
            writeln!(text, "{what:<56}{at_most:>8.2}{found:>8.2}  {}", promise.verdict())?;
        }
        Ok(text)
    }

    /// Everything, samples included.
    pub(super) fn json(&self) -> Result<String> {
        let name = |load| self.loads.iter().find(|(_, it)| *it == load).map(|(name, _)| *name);
        let samples: Vec<_> = self
            .samples
            .iter()
            .map(|it| {
                json!({
                    "round": it.round, "proxy": it.peer.title(), "load": name(it.load), "requests": it.requests,
                    "rate": it.rate, "cpu_us": it.cpu_us, "p50_us": it.p50_us, "p99_us": it.p99_us,
                })
            })
            .collect();
        let idle: Vec<_> = self
            .idle
            .iter()
            .map(|it| json!({ "proxy": it.peer.title(), "http1_kib": it.http1_kib, "http2_kib": it.http2_kib }))
            .collect();
        let promises: Vec<_> = self
            .promises()
            .iter()
            .map(|it| json!({ "what": it.what, "at_most": it.at_most, "found": it.found, "kept": it.kept() }))
            .collect();
        let value = json!({
            "machine": self.machine, "samples": samples, "idle": idle, "promises": promises,
            "live_ms": self.churn.as_ref().map(|churn| churn.live_ms.clone()),
        });
        serde_json::to_string_pretty(&value).context("write the report as JSON")
    }
}

impl Promise {
    fn kept(&self) -> bool {
        self.found <= self.at_most
    }

    fn verdict(&self) -> &'static str {
        if self.kept() { "KEPT" } else { "NOT KEPT" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, peer: Peer, cpu: f64) -> Sample {
        let load = Load::Handshake { connections: 1 };
        Sample { round, peer, load, requests: 1, rate: 1.0, cpu_us: cpu, p50_us: 1.0, p99_us: 1.0 }
    }

    #[test]
    fn a_ratio_compares_measurements_of_one_round_and_a_promise_is_kept_up_to_its_limit() {
        // A machine that slows down by half between rounds changes no ratio.
        let samples = [(0, 10.0), (1, 20.0)].into_iter().flat_map(|(round, nginx)| {
            [sample(round, Peer::Nginx, nginx), sample(round, Peer::Weir, nginx * 0.5)]
        });
        let loads = vec![("handshake", Load::Handshake { connections: 1 })];
        let peers = vec![Peer::Weir, Peer::Nginx];
        let idle = vec![Idle { peer: Peer::Weir, http1_kib: 60.0, http2_kib: 60.1 }];
        let report =
            Report::new(peers, loads, samples.collect(), idle, None, Duration::from_secs(1), String::new());
        let verdicts: Vec<_> = report.promises().iter().map(|it| (it.found, it.kept())).collect();
        assert_eq!(verdicts, [(0.5, true), (1.0, true), (60.0, true), (60.1, false)]);
        assert!(report.table().unwrap().contains("0.50 [0.50–0.50]"));
    }
}
