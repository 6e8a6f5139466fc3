//! Every metric, declared in one file, as Prometheus text.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::Duration;

use api::Status;
use common::verdict::{DropReason, PassReason};

use crate::drift::Kind;
use crate::source::Arrival;

/// Upper bounds of [`Histogram`], in seconds.
const BOUNDS: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// What the loop measures of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    plans: u64,
    plan_time: Duration,
    last_plan_time: Duration,
    applies: u64,
    apply_time: Duration,
    writes: u64,
    pub(crate) refused: u64,
    pub(crate) swept: u64,
    mended: BTreeMap<Kind, u64>,
    events: BTreeMap<policy::Kind, Histogram>,
}

/// How often something took up to so long.
#[derive(Clone, Debug, Default)]
struct Histogram {
    /// Each bound counts what the one before it counts.
    up_to: [u64; BOUNDS.len()],
    all: u64,
    sum: Duration,
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        for (bound, count) in BOUNDS.iter().zip(&mut self.up_to) {
            *count += u64::from(took.as_secs_f64() <= *bound);
        }
        self.all += 1;
        self.sum += took;
    }
}

impl Meter {
    pub(crate) fn planned(&mut self, took: Duration, writes: usize) {
        self.plans += 1;
        self.plan_time += took;
        self.last_plan_time = took;
        self.writes += writes as u64;
    }

    /// What this event said is in the maps now.
    pub(crate) fn in_force(&mut self, arrival: Arrival) {
        self.events.entry(arrival.kind).or_default().add(arrival.at.elapsed());
    }

    pub(crate) fn mended(&mut self, kind: Kind) {
        *self.mended.entry(kind).or_default() += 1;
    }

    /// What was put right, of which there is something.
    pub(crate) fn drift(&self) -> Vec<api::Drift> {
        let drift =
            |(kind, repaired): (&Kind, &u64)| api::Drift { kind: kind.as_str().into(), repaired: *repaired };
        self.mended.iter().map(drift).collect()
    }

    pub(crate) fn applied(&mut self, took: Duration) {
        self.applies += 1;
        self.apply_time += took;
    }
}

pub(crate) struct Numbers {
    pub(crate) status: Status,
    pub(crate) meter: Meter,
}

impl Numbers {
    /// The text format of Prometheus, version 0.0.4.
    pub(crate) fn text(&self) -> String {
        let Self { status, meter } = self;
        let mut text = Text::default();
        text.gauge("weir_agent_info", "Which agent this is.");
        text.row("weir_agent_info", &[("node", &status.node), ("version", &status.version)], 1);
        text.one(
            "weir_ready",
            "gauge",
            "1 once the first complete list is in force and the plugin's configuration is written.",
            u8::from(status.ready),
        );
        text.one("weir_endpoints", "gauge", "Endpoints of this node.", status.endpoints.len());
        text.one("weir_rule_sets", "gauge", "Rule sets in force.", status.rule_sets.len());
        text.one(
            "weir_generation",
            "counter",
            "Plans carried out since the pins were made.",
            status.generation,
        );
        text.one(
            "weir_policy_epoch",
            "counter",
            "Times live connections were judged once more.",
            status.epoch,
        );
        text.one(
            "weir_warnings",
            "gauge",
            "What of the desired state is not honoured.",
            status.warnings.len(),
        );
        let failing = u8::from(status.last_error.is_some());
        text.one("weir_plan_failing", "gauge", "1 while the last plan was refused or failed.", failing);
        text.one("weir_plans_failed_total", "counter", "Plans refused or failed.", meter.refused);
        text.summary("weir_plan_seconds", "Time to compile and plan.", meter.plans, meter.plan_time);
        let last = meter.last_plan_time.as_secs_f64();
        text.one("weir_plan_last_seconds", "gauge", "Time to compile and plan, the last time.", last);
        text.one("weir_plan_writes_total", "counter", "Map writes planned.", meter.writes);
        text.summary("weir_apply_seconds", "Time to carry a plan out.", meter.applies, meter.apply_time);
        text.head(
            "weir_event_seconds",
            "histogram",
            "From the arrival of a watch's event to its being in force.",
        );
        for (kind, histogram) in &meter.events {
            text.histogram("weir_event_seconds", kind.as_str(), histogram);
        }
        text.one("weir_swept_total", "counter", "Connections forgotten by sweeps.", meter.swept);

        text.head(
            "weir_drift_repaired_total",
            "counter",
            "What somebody else had changed on the node and was put right.",
        );
        for kind in Kind::ALL {
            let repaired = meter.mended.get(&kind).copied().unwrap_or_default();
            text.row("weir_drift_repaired_total", &[("kind", kind.as_str())], repaired);
        }
        text.gauge("weir_map_entries", "Entries of a map.");
        for map in &status.maps {
            text.row("weir_map_entries", &[("map", &map.name)], map.entries);
        }
        text.gauge("weir_map_capacity", "Entries that a map has room for.");
        for map in &status.maps {
            text.row("weir_map_capacity", &[("map", &map.name)], map.capacity);
        }
        text.head("weir_packets_total", "counter", "Packets by verdict and reason.");
        self.reasons(|labels, counter| text.row("weir_packets_total", labels, counter.packets));
        text.head("weir_bytes_total", "counter", "Bytes by verdict and reason.");
        self.reasons(|labels, counter| text.row("weir_bytes_total", labels, counter.bytes));
        for counter in status.counters.iter().filter(|counter| verdict(&counter.name).is_none()) {
            text.one(
                &format!("weir_{}_total", counter.name),
                "counter",
                "Counted by the programs.",
                counter.packets,
            );
        }
        text.0
    }

    fn reasons(&self, mut each: impl FnMut(&[(&str, &str)], &api::Counter)) {
        for counter in &self.status.counters {
            if let Some(verdict) = verdict(&counter.name) {
                each(&[("verdict", verdict), ("reason", &counter.name)], counter);
            }
        }
    }
}

fn verdict(reason: &str) -> Option<&'static str> {
    if DropReason::ALL.iter().any(|known| known.as_str() == reason) {
        Some("denied")
    } else if PassReason::ALL.iter().any(|known| known.as_str() == reason) {
        Some("allowed")
    } else {
        None
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn gauge(&mut self, name: &str, help: &str) {
        self.head(name, "gauge", help);
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.row(name, &[], value);
    }

    fn summary(&mut self, name: &str, help: &str, count: u64, sum: Duration) {
        self.head(name, "summary", help);
        self.row(&format!("{name}_sum"), &[], sum.as_secs_f64());
        self.row(&format!("{name}_count"), &[], count);
    }

    fn histogram(&mut self, name: &str, kind: &str, histogram: &Histogram) {
        let bounds = BOUNDS.iter().map(f64::to_string).zip(histogram.up_to);
        for (bound, count) in bounds.chain([("+Inf".to_owned(), histogram.all)]) {
            self.row(&format!("{name}_bucket"), &[("kind", kind), ("le", &bound)], count);
        }
        self.row(&format!("{name}_sum"), &[("kind", kind)], histogram.sum.as_secs_f64());
        self.row(&format!("{name}_count"), &[("kind", kind)], histogram.all);
    }

    fn row(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
        }
    }

    fn line(&mut self, line: impl Display) {
        // Writing to a string cannot fail.
        writeln!(self.0, "{line}").unwrap_or_default();
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_counts_in_every_bucket_that_it_fits_into() {
        let mut meter = Meter::default();
        let now = std::time::Instant::now();
        let at = now.checked_sub(Duration::from_secs(2)).unwrap();
        meter.in_force(Arrival { kind: policy::Kind::Pod, at });
        let text = Numbers { status: Status::default(), meter }.text();
        for line in [
            r#"weir_event_seconds_bucket{kind="Pod",le="1"} 0"#,
            r#"weir_event_seconds_bucket{kind="Pod",le="+Inf"} 1"#,
            r#"weir_event_seconds_count{kind="Pod"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn reasons_are_labels_and_other_counters_have_names_of_their_own() {
        let counter = |name: &str| api::Counter { name: name.into(), packets: 3, bytes: 180 };
        let status = Status {
            node: "a \"quoted\" node".into(),
            counters: ["policy_denied", "rule", "flow_events_lost"].map(counter).into(),
            ..Status::default()
        };
        let text = Numbers { status, meter: Meter::default() }.text();
        for line in [
            r#"weir_packets_total{verdict="denied",reason="policy_denied"} 3"#,
            r#"weir_bytes_total{verdict="allowed",reason="rule"} 180"#,
            "weir_flow_events_lost_total 3",
            r#"weir_agent_info{node="a \"quoted\" node",version=""} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
    }
}
