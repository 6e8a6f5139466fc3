//! What came out, for a person and for a program.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::json;

use super::TARGET;
use super::agent::Occupied;
use super::shape::{Kind, Shape};
use super::worker::{Events, Outcome};
use crate::report::Machine;
use crate::statistics::quantile;

pub(crate) struct Report {
    outcomes: Vec<Outcome>,
    /// Of `weir-agent` itself.
    agents: Vec<Occupied>,
    machine: Machine,
}

/// One thing that was promised: what, how much it is, and how much it may be.
struct Promise {
    what: String,
    found: f64,
    at_most: f64,
    /// By how much it differs where nothing does; absent for what is counted and not timed.
    noise: Option<f64>,
}

impl Promise {
    fn verdict(&self) -> &'static str {
        let Self { found, at_most, noise, .. } = *self;
        if found <= at_most {
            "kept"
        } else if noise.is_some_and(|noise| noise.is_nan()) {
            "ONE ROUND SAYS NOTHING (--rounds)"
        } else if found - noise.unwrap_or_default() <= at_most {
            "WITHIN NOISE"
        } else {
            "NOT KEPT"
        }
    }
}

/// How much longer one takes than the other, in per cent of the medians of their rounds, and the noise: how far the middle half
/// of one's own rounds lies apart, of the two the worse. Not a number where there is one round.
fn more_time(with: &[f64], without: &[f64]) -> (f64, f64) {
    let spread = |rounds: &[f64]| match (quantile(rounds, 0.25), quantile(rounds, 0.75)) {
        (Some(q1), Some(q3)) if rounds.len() > 1 => 100.0 * (q3 - q1) / median(rounds),
        _ => f64::NAN,
    };
    let noise = [with, without].map(spread);
    let worse = if noise.iter().any(|noise| noise.is_nan()) { f64::NAN } else { noise[0].max(noise[1]) };
    (100.0 * (median(with) / median(without) - 1.0), worse)
}

pub(crate) fn title(shape: &Shape, room: Option<u32>) -> String {
    let mut title = format!("{} pods, {} policies", shape.pods, shape.policies);
    if shape.kind == Kind::Half {
        title.push_str(", each a random half");
    }
    if shape.unique {
        title.push_str(", unique labels");
    }
    if let Some(room) = room {
        write!(title, ", room for {room} rules").unwrap_or_default();
    }
    title
}

fn median(sorted: &[f64]) -> f64 {
    quantile(sorted, 0.5).unwrap_or(f64::NAN)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Report {
    pub(crate) fn new(outcomes: Vec<Outcome>, agents: Vec<Occupied>) -> Self {
        Self { outcomes, agents, machine: Machine::this() }
    }

    pub(crate) fn json(&self) -> Result<String> {
        let promises: Vec<_> = self
            .promises()
            .into_iter()
            .map(|promise| json!({
                "what": promise.what, "found": promise.found, "at_most": promise.at_most, "noise": promise.noise,
                "verdict": promise.verdict(),
            }))
            .collect();
        let report = json!({
            "machine": self.machine.text(),
            "promises": promises,
            "worlds": self.outcomes,
            "agents": self.agents,
        });
        serde_json::to_string_pretty(&report).context("write the report as JSON")
    }

    pub(crate) fn table(&self) -> String {
        let mut text = self.try_table().unwrap_or_default();
        text.push('\n');
        text
    }

    fn try_table(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        writeln!(
            text,
            "{}; one node with 110 pods, every world in a process of its own",
            self.machine.text()
        )?;
        writeln!(
            text,
            "\nFrom nothing: `compile` into tables, the first update of the compiler that remembers (with the plan), and \
             its writes; ms. Memory: RSS of the process (before any object: {:.1}), policy maps, all maps; MiB",
            self.outcomes.first().map_or(0.0, |outcome| mib(outcome.rss_empty))
        )?;
        let heads = ["compile", "update", "write", "classes", "sets", "rules", "RSS", "maps", "all maps"];
        write!(text, "{:<58}", "")?;
        for head in heads {
            write!(text, "{head:>9}")?;
        }
        writeln!(text)?;
        for outcome in &self.outcomes {
            write!(text, "{:<58}", title(&outcome.shape, outcome.room))?;
            match outcome.from_nothing_ms {
                Some(ms) => write!(text, "{ms:>9.0}")?,
                None => write!(text, "{:>9}", "-")?,
            }
            write!(text, "{:>9.0}{:>9.0}", outcome.first_ms, outcome.first_apply_ms)?;
            write!(text, "{:>9}{:>9}{:>9}", outcome.classes, outcome.rule_sets, outcome.rules)?;
            let maps = outcome.maps;
            writeln!(text, "{:>9.1}{:>9.1}{:>9.1}", mib(outcome.rss), mib(maps.policy), mib(maps.all))?;
        }
        for outcome in &self.outcomes {
            if let Some(refusal) = &outcome.refusal {
                writeln!(
                    text,
                    "\n{}: refused after {:.0} ms:",
                    title(&outcome.shape, outcome.room),
                    refusal.ms
                )?;
                writeln!(text, "    {}", refusal.message)?;
                writeln!(text, "    generation {} stays in force", refusal.generations.1)?;
                if let Some(removed) = refusal.removed {
                    writeln!(text, "    without {removed} of its policies it was taken up")?;
                }
            }
        }
        writeln!(
            text,
            "\nEvents, from the object in hand to the last map write: p50 / p99 ms, of which compile and plan; rows \
             written, median and most"
        )?;
        for outcome in self.outcomes.iter().filter(|outcome| !outcome.events.is_empty()) {
            writeln!(text, "{}", title(&outcome.shape, outcome.room))?;
            for events in &outcome.events {
                let Events { kind, count, p50_ms, p99_ms, .. } = events;
                writeln!(
                    text,
                    "    {kind:<32}{count:>5}{p50_ms:>9.2} /{p99_ms:>8.2}{:>9.2} /{:>8.2}{:>9.0}{:>8}",
                    events.compile_p50_ms, events.compile_p99_ms, events.writes_p50, events.writes_max
                )?;
            }
        }
        if !self.agents.is_empty() {
            writeln!(
                text,
                "\n`weir-agent` with its endpoints: RSS now, its own part, and at most; its maps by fdinfo (policy maps, all maps), and its \
                 control group's kernel memory; MiB. From its start until the world is in force, ms"
            )?;
        }
        for Occupied { shape, rss, rss_own, rss_peak, maps, kernel, ready_ms, rules } in &self.agents {
            let resident = [rss, rss_own, rss_peak].map(|bytes| mib(*bytes));
            write!(text, "{:<58}", title(shape, None))?;
            resident.iter().try_for_each(|mib| write!(text, "{mib:>9.1}"))?;
            write!(text, "{:>9.1}{:>9.1}", mib(maps.policy), mib(maps.all))?;
            match kernel {
                Some(bytes) => write!(text, "{:>9.1}", mib(*bytes))?,
                None => write!(text, "{:>9}", "-")?,
            }
            writeln!(text, "{ready_ms:>9.0}   {rules} rules")?;
        }
        writeln!(text, "\nPromises at {}:", title(&TARGET, None))?;
        for promise in self.promises() {
            let Promise { what, found, at_most, noise } = &promise;
            let noise =
                noise.filter(|noise| !noise.is_nan()).map_or(String::new(), |noise| format!("± {noise:.1}"));
            let verdict = promise.verdict();
            writeln!(text, "    {what:<64}{found:>10.2} {noise:<7} at most {at_most:>8.2}  {verdict}")?;
        }
        Ok(text)
    }

    /// The targets, as far as the worlds that they speak of were measured.
    fn promises(&self) -> Vec<Promise> {
        let mut promises = Vec::new();
        let mut promise = |what: String, found: f64, at_most: f64| {
            promises.push(Promise { what, found, at_most, noise: None });
        };
        let Some(target) = self.find(TARGET) else { return promises };
        promise("classes that are missing to 2,000".to_owned(), 2000_f64 - target.classes as f64, 0.0);
        for events in &target.events {
            let name = &events.kind;
            if name.starts_with("pod") {
                promise(format!("{name}: writes"), events.writes_max as f64, 1.0);
            }
            let rounds = self.rounds(TARGET, |outcome| outcome.events_of(name).map(|events| events.p99_ms));
            promise(format!("{name}: p99, ms"), median(&rounds), 10.0);
        }
        promise("RSS, MiB".to_owned(), mib(target.rss_after.max(target.rss)), 64.0);
        let twice = self.find(Shape { pods: 2 * TARGET.pods, ..TARGET });
        if let Some(twice) = twice {
            let each = twice.rss.saturating_sub(target.rss) as f64 / f64::from(TARGET.pods);
            promise("RSS for each further pod, bytes".to_owned(), each, 1024.0);
        }
        let agent = |shape| self.agents.iter().find(|agent| agent.shape == shape);
        if let Some(target) = agent(TARGET) {
            promise("weir-agent: RSS, MiB".to_owned(), mib(target.rss), 64.0);
            if let Some(twice) = agent(Shape { pods: 2 * TARGET.pods, ..TARGET }) {
                let each = twice.rss.saturating_sub(target.rss) as f64 / f64::from(TARGET.pods);
                promise("weir-agent: RSS for each further pod, bytes".to_owned(), each, 1024.0);
            }
            if let Some(unique) = agent(Shape { unique: true, ..TARGET }) {
                let more = 100.0 * (unique.rss as f64 / target.rss as f64 - 1.0);
                promise("unique labels: weir-agent: more RSS, %".to_owned(), more, 5.0);
            }
        }
        if let Some(unique) = self.find(Shape { unique: true, ..TARGET }) {
            let more = |unique: f64, plain: f64| 100.0 * (unique / plain - 1.0);
            promise("unique labels: more RSS, %".to_owned(), more(unique.rss as f64, target.rss as f64), 5.0);
            promise(
                "unique labels: more classes, %".to_owned(),
                more(unique.classes as f64, target.classes as f64),
                5.0,
            );
            promise(
                "unique labels: more rows, %".to_owned(),
                more(unique.rules as f64, target.rules as f64),
                5.0,
            );
            promise(
                "unique labels: more map memory, %".to_owned(),
                more(unique.maps.all as f64, target.maps.all as f64),
                5.0,
            );
            let mut timed = |what: String, figure: &dyn Fn(&Outcome) -> Option<f64>| {
                let unique = Shape { unique: true, ..TARGET };
                let (found, noise) = more_time(&self.rounds(unique, figure), &self.rounds(TARGET, figure));
                promises.push(Promise { what, found, at_most: 5.0, noise: Some(noise) });
            };
            timed("unique labels: more time from nothing, %".to_owned(), &|outcome| Some(outcome.first_ms));
            for Events { kind, .. } in &target.events {
                let p50 = |outcome: &Outcome| outcome.events_of(kind).map(|events| events.p50_ms);
                timed(format!("unique labels: {kind}: more time, %"), &p50);
            }
        }
        promises
    }

    /// One figure of each round, in order.
    fn rounds(&self, shape: Shape, figure: impl Fn(&Outcome) -> Option<f64>) -> Vec<f64> {
        let rounds = self.outcomes.iter().filter(|outcome| outcome.shape == shape && outcome.room.is_none());
        let mut figures: Vec<f64> = rounds.filter_map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures
    }

    fn find(&self, shape: Shape) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.shape == shape && outcome.room.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(with: &[f64], without: &[f64]) -> &'static str {
        let (found, noise) = more_time(with, without);
        Promise { what: String::new(), found, at_most: 5.0, noise: Some(noise) }.verdict()
    }

    #[test]
    fn a_promise_is_broken_only_by_more_than_rounds_of_one_world_differ_by() {
        assert_eq!(verdict(&[1.0, 1.04, 1.05], &[1.0, 1.01, 1.02]), "kept");
        assert_eq!(verdict(&[1.09, 1.1, 1.11], &[0.99, 1.0, 1.01]), "NOT KEPT");
        assert_eq!(verdict(&[1.0, 1.1, 1.2], &[0.99, 1.0, 1.01]), "WITHIN NOISE");
        assert_eq!(verdict(&[1.1], &[1.0]), "ONE ROUND SAYS NOTHING (--rounds)");
        assert_eq!(verdict(&[1.0], &[1.0]), "kept");
        let counted = Promise { what: String::new(), found: 6.0, at_most: 5.0, noise: None };
        assert_eq!(counted.verdict(), "NOT KEPT");
    }
}
