//! Counters, and how Prometheus reads them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::record::Fault;

/// Upper ends of the histogram's buckets, in microseconds.
const BUCKETS_US: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

/// What a worker counts for itself, and hands over now and then.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By the address of the object's name, which the entry holds: no request compares names.
    requests: HashMap<(usize, u16), Counted>,
    sums: Sums,
}

/// The object's name, and how many requests.
type Counted = (Option<Arc<str>>, u64);

/// All but the requests.
#[derive(Debug, Default)]
struct Sums {
    faults: [u64; 3],
    buckets: [u64; BUCKETS_US.len() + 1],
    duration_us: u64,
}

/// What all workers counted.
#[derive(Debug, Default)]
struct Totals {
    requests: BTreeMap<(Option<Arc<str>>, u16), u64>,
    sums: Sums,
}

impl Counts {
    pub(super) fn add(
        &mut self,
        object: Option<&Arc<str>>,
        status: u16,
        fault: Option<Fault>,
        took: Duration,
    ) {
        let address = object.map_or(0, |object| Arc::as_ptr(object).cast::<u8>().addr());
        self.requests.entry((address, status)).or_insert_with(|| (object.cloned(), 0)).1 += 1;
        let sums = &mut self.sums;
        if let Some(fault) = fault {
            sums.faults[fault as usize] += 1;
        }
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        sums.buckets[BUCKETS_US.iter().take_while(|end| took > **end).count()] += 1;
        sums.duration_us = sums.duration_us.saturating_add(took);
    }
}

/// All workers' counters.
#[derive(Debug, Default)]
pub struct Metrics {
    counts: Mutex<Totals>,
    connections: AtomicU64,
    open: AtomicU64,
    handshakes_failed: AtomicU64,
    upstream_connections: AtomicU64,
    upstream_failures: AtomicU64,
    retries: AtomicU64,
    generation: AtomicU64,
    compile_us: AtomicU64,
    log_lost: AtomicU64,
}

impl Metrics {
    pub(super) fn take_over(&self, counts: &mut Counts) {
        let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for ((_, status), (object, count)) in counts.requests.drain() {
            *all.requests.entry((object, status)).or_default() += count;
        }
        let (all, counts) = (&mut all.sums, std::mem::take(&mut counts.sums));
        all.faults.iter_mut().zip(counts.faults).for_each(|(all, more)| *all += more);
        all.buckets.iter_mut().zip(counts.buckets).for_each(|(all, more)| *all += more);
        all.duration_us = all.duration_us.saturating_add(counts.duration_us);
    }

    pub(super) fn opened(&self) {
        self.connections.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    pub(super) fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Relaxed);
    }

    pub(super) fn connected(&self) {
        self.upstream_connections.fetch_add(1, Relaxed);
    }

    pub(super) fn not_connected(&self) {
        self.upstream_failures.fetch_add(1, Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn generation(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// What was served last took so long to make.
    pub(crate) fn compiled(&self, took: Duration) {
        self.compile_us.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn log_lost(&self) {
        self.log_lost.fetch_add(1, Relaxed);
    }

    /// Client connections that are open.
    pub fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// New connections to upstreams, so far.
    pub fn upstream_connections(&self) -> u64 {
        self.upstream_connections.load(Relaxed)
    }

    /// Prometheus' text format.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut write = |text: String| out.push_str(&text);
        let all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        write("# HELP weir_ingress_requests_total Requests, by the object that served them and status.\n# TYPE weir_ingress_requests_total counter\n".into());
        for ((object, status), count) in &all.requests {
            let object = object.as_deref().unwrap_or_default();
            write(format!(
                "weir_ingress_requests_total{{object=\"{object}\",status=\"{status}\"}} {count}\n"
            ));
        }
        write("# HELP weir_ingress_faults_total Requests that did not get their upstream's answer whole, by whose fault it was.\n# TYPE weir_ingress_faults_total counter\n".into());
        for (fault, count) in ["client", "config", "upstream"].iter().zip(all.sums.faults) {
            write(format!("weir_ingress_faults_total{{fault=\"{fault}\"}} {count}\n"));
        }
        write("# HELP weir_ingress_request_seconds From a request's head to the last byte of its answer.\n# TYPE weir_ingress_request_seconds histogram\n".into());
        let mut sum = 0;
        for (index, count) in all.sums.buckets.iter().enumerate() {
            sum += count;
            let end = BUCKETS_US.get(index).map_or("+Inf".into(), |end| (*end as f64 / 1e6).to_string());
            write(format!("weir_ingress_request_seconds_bucket{{le=\"{end}\"}} {sum}\n"));
        }
        write(format!(
            "weir_ingress_request_seconds_sum {}\nweir_ingress_request_seconds_count {sum}\n",
            all.sums.duration_us as f64 / 1e6
        ));
        for (name, kind, help, value) in [
            ("connections_total", "counter", "Connections of clients", &self.connections),
            ("connections_open", "gauge", "Connections of clients that are open", &self.open),
            ("handshakes_failed_total", "counter", "TLS handshakes that failed", &self.handshakes_failed),
            ("upstream_connections_total", "counter", "Connections to endpoints", &self.upstream_connections),
            (
                "upstream_failures_total",
                "counter",
                "Endpoints that could not be connected to",
                &self.upstream_failures,
            ),
            ("retries_total", "counter", "Requests given to another endpoint or connection", &self.retries),
            ("generation", "gauge", "How often what is served has been replaced", &self.generation),
            (
                "compile_microseconds",
                "gauge",
                "What the last change took from objects to what is served",
                &self.compile_us,
            ),
            ("log_lost_total", "counter", "Writes of the access log that failed", &self.log_lost),
        ] {
            let value = value.load(Relaxed);
            // Writing to a string does not fail.
            writeln!(out, "# HELP weir_ingress_{name} {help}.\n# TYPE weir_ingress_{name} {kind}\nweir_ingress_{name} {value}").unwrap_or_default();
        }
        out
    }
}
