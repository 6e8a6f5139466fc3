//! What came out, for a person and for a program.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::attach::Times;
use crate::layout::{Distance, Layout};
use crate::load::Kind;
use crate::rounds::{self, Cell, Sample};
use crate::targets::{self, Target};

/// Everything that was measured in one run.
pub(crate) struct Report {
    rounds: u32,
    duration: Duration,
    took: Duration,
    pub(crate) cells: Vec<Cell>,
    pub(crate) times: Vec<Times>,
    targets: Vec<Target>,
    samples: Vec<Sample>,
    machine: Machine,
}

/// Figures mean nothing without it.
pub(crate) struct Machine {
    kernel: String,
    cpu: String,
    cpus: usize,
}

impl Report {
    pub(crate) fn new(
        rounds: u32,
        duration: Duration,
        took: Duration,
        samples: Vec<Sample>,
        times: Vec<Times>,
    ) -> Self {
        let cells = rounds::cells(&samples);
        let targets = targets::check(&cells, &samples, &times);
        Self { rounds, duration, took, cells, times, targets, samples, machine: Machine::this() }
    }

    pub(crate) fn cell(&self, layout: Layout, distance: Distance, kind: Kind) -> Option<&Cell> {
        self.cells.iter().find(|it| (it.layout, it.distance, it.kind) == (layout, distance, kind))
    }

    /// One line about the run.
    pub(crate) fn conditions(&self) -> String {
        format!(
            "{} interleaved rounds of {} ms, both ends on one core; {}",
            self.rounds,
            self.duration.as_millis(),
            self.machine.text()
        )
    }

    /// The tables for a person.
    pub(crate) fn table(&self) -> String {
        let mut text = self.try_table().unwrap_or_default();
        text.push('\n');
        text
    }

    fn try_table(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        writeln!(text, "{}; {:.0} s in all", self.conditions(), self.took.as_secs_f64())?;
        for distance in Distance::ALL {
            writeln!(
                text,
                "\n{}: ratio to a raw veth pair, median [quartiles]; CPU a transaction (less is better), \
                 throughput (more is better)",
                targets::title(distance)
            )?;
            write!(text, "{:<20}", "")?;
            for kind in Kind::ALL {
                write!(text, "{:>24}", kind.title())?;
            }
            writeln!(text)?;
            for layout in Layout::ALL {
                let cells = Kind::ALL.map(|kind| self.cell(layout, distance, kind));
                if cells.iter().all(Option::is_none) {
                    continue;
                }
                write!(text, "{:<20}", layout.title())?;
                for cell in cells.into_iter().flatten() {
                    let shown = match layout {
                        Layout::Raw => absolute(cell),
                        _ => {
                            let ratio = cell.ratio;
                            format!("{:.2} [{:.2}–{:.2}]", ratio.median, ratio.q1, ratio.q3)
                        }
                    };
                    write!(text, "{shown:>24}")?;
                }
                writeln!(text)?;
            }
        }
        if !self.times.is_empty() {
            writeln!(
                text,
                "\nCNI calls, milliseconds{:>17}{:>11}{:>11}{:>11}",
                "ADD p50", "p99", "DEL p50", "p99"
            )?;
            for Times { title, add, del, .. } in &self.times {
                writeln!(
                    text,
                    "{title:<29}{:>11.2}{:>11.2}{:>11.2}{:>11.2}",
                    add.p50, add.p99, del.p50, del.p99
                )?;
            }
        }
        if !self.targets.is_empty() {
            writeln!(text, "\ntargets (Weir with 10 policies)")?;
            for Target { what, wanted, found, met } in &self.targets {
                let met = if *met { "met" } else { "MISSED" };
                writeln!(text, "{what:<56}{wanted:>8}{found:>8.3}  {met}")?;
            }
        }
        Ok(text)
    }

    /// Everything, samples included.
    pub(crate) fn json(&self) -> Result<String> {
        let Machine { kernel, cpu, cpus } = &self.machine;
        let samples: Vec<_> = self
            .samples
            .iter()
            .map(|it| {
                json!({
                    "round": it.round, "layout": it.layout.slug(), "distance": it.distance.slug(), "kind": it.kind,
                    "transactions": it.done.transactions, "bytes": it.done.bytes, "taken": it.done.taken,
                })
            })
            .collect();
        let value = json!({
            "machine": { "kernel": kernel, "cpu": cpu, "cpus": cpus },
            "rounds": self.rounds,
            "seconds": self.duration.as_secs_f64(),
            "cells": self.cells,
            "cni_ms": self.times,
            "targets": self.targets,
            "samples": samples,
        });
        serde_json::to_string_pretty(&value).context("write the report as JSON")
    }
}

/// What the raw pair itself took.
pub(crate) fn absolute(cell: &Cell) -> String {
    match cell.kind {
        Kind::RequestResponse | Kind::Connect => format!("{:.1} µs", cell.value.median / 1e3),
        Kind::Stream(_) => format!("{:.1} Gbit/s", cell.value.median / 1e9),
    }
}

impl Machine {
    /// `Linux 6.18.2, 2 × CPU`
    pub(crate) fn text(&self) -> String {
        let Self { kernel, cpu, cpus } = self;
        format!("Linux {kernel}, {cpus} × {cpu}")
    }

    pub(crate) fn this() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let model = read("/proc/cpuinfo").lines().find_map(|line| {
            line.strip_prefix("model name")
                .and_then(|rest| rest.split_once(':'))
                .map(|(_, name)| name.trim().to_owned())
        });
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: model.unwrap_or_else(|| "CPU".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}
