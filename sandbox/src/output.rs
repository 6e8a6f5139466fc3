//! A report as people read it, and as programs do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use api::VerdictKind;

use crate::denial::denials;
use crate::grid;
use crate::report::{Report, ServiceProbe};
use crate::table::{Column, Mark, Parties, Party, Table};

/// How text may look where it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub colour: bool,
    /// In characters.
    pub width: usize,
}

impl Look {
    /// For files and pipes.
    pub const PLAIN: Self = Self { colour: false, width: 100 };

    pub(crate) fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn mark(self, mark: Option<Mark>) -> String {
        match mark {
            None => self.paint("2", "·"),
            Some(mark @ Mark::Allowed) => self.paint("32", mark.as_str()),
            Some(mark @ Mark::Denied) => self.paint("31", mark.as_str()),
            Some(mark) => self.paint("33", mark.as_str()),
        }
    }
}

/// Exactly one JSON object, on one line.
pub fn json(report: &Report) -> String {
    // Keys are strings and numbers are finite: there is nothing that JSON could not hold.
    serde_json::to_string(report).unwrap_or_default()
}

/// The whole report: what came up, who reaches whom, why not, Services, warnings.
pub fn text(report: &Report, look: Look) -> String {
    let parties = Parties::alike(report);
    let table = Table::new(report, &parties);
    let names = Names::of(report, &parties);
    let mut out = String::new();
    came_up(&mut out, report);
    grid::write(&mut out, &table, &names, look);
    silent(&mut out, &table, &names, &parties);
    denied(&mut out, report, &table, &names, &parties, look);
    services(&mut out, report, &names, &parties, look);
    if !report.warnings.is_empty() {
        heading(&mut out, "Warnings", look);
        for warning in &report.warnings {
            line(&mut out, &format!("  {} {warning}", look.paint("33", "!")));
        }
    }
    out
}

/// How parties are called: without their namespace where there is only one.
pub(crate) struct Names<'a> {
    only: Option<&'a str>,
    parties: &'a Parties,
}

impl<'a> Names<'a> {
    pub(crate) fn of(report: &'a Report, parties: &'a Parties) -> Self {
        let namespaces: BTreeSet<_> = report.pods.iter().map(|pod| pod.namespace.as_str()).collect();
        let only = namespaces.first().copied().filter(|_| namespaces.len() == 1);
        Self { only, parties }
    }

    pub(crate) fn party(&self, party: &Party) -> String {
        match party {
            Party::Pods { namespace, name } if self.only == Some(namespace.as_str()) => name.clone(),
            other => other.to_string(),
        }
    }

    /// `web ×3`.
    pub(crate) fn row(&self, party: &Party) -> String {
        match self.parties.size(party) {
            0 | 1 => self.party(party),
            size => format!("{} ×{size}", self.party(party)),
        }
    }

    pub(crate) fn column(&self, column: &Column) -> String {
        format!("{}:{}", self.party(&column.to), column.port())
    }
}

pub(crate) fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

pub(crate) fn heading(out: &mut String, text: &str, look: Look) {
    out.push('\n');
    line(out, &look.paint("1", text));
}

fn came_up(out: &mut String, report: &Report) {
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let seconds = |ms: u64| format!("{}.{:02} s", ms / 1000, ms % 1000 / 10);
    let probes = report.probes.len() + report.services.len();
    line(
        out,
        &format!(
            "{}, {} up in {}; {} in {}",
            plural(report.nodes.len(), "node"),
            plural(report.pods.len(), "pod"),
            seconds(report.timings.up_ms),
            plural(probes, "probe"),
            seconds(report.timings.probe_ms),
        ),
    );
    for node in &report.nodes {
        let pods = report.pods.iter().filter(|pod| pod.node == node.name).count();
        line(out, &format!("  {}  {}  {}", node.name, addresses(&node.ips), plural(pods, "pod")));
    }
}

fn addresses(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join("  ")
}

/// Names the workloads that nobody can be probed on, or one would look for their columns in vain.
fn silent(out: &mut String, table: &Table, names: &Names<'_>, parties: &Parties) {
    let columns = table.columns();
    let has_column = |party: &&Party| columns.iter().any(|column| column.to == **party);
    let without: Vec<_> =
        parties.pods().filter(|party| !has_column(party)).map(|it| names.party(it)).collect();
    if !without.is_empty() {
        line(out, &format!("  no port to probe: {}", without.join(", ")));
    }
}

fn denied(
    out: &mut String,
    report: &Report,
    table: &Table,
    names: &Names<'_>,
    parties: &Parties,
    look: Look,
) {
    let denials = denials(report, parties);
    if denials.is_empty() {
        return;
    }
    heading(out, "Denied", look);
    for denial in denials {
        line(out, &format!("  {}", denial.cause()));
        for (rows, columns) in &denial.kept_apart {
            // Everyone is whoever was tried there.
            let tried = table.cells.keys().filter(|(_, column)| columns.contains(column));
            let from = among(rows, tried.map(|(row, _)| row).collect(), "everyone", |row| names.row(row));
            let tried = table.cells.keys().filter(|(row, _)| rows.contains(row));
            let to = among(columns, tried.map(|(_, column)| column).collect(), "everything", |column| {
                names.column(column)
            });
            wrapped(out, &format!("{from} → {to}"), look.width);
        }
    }
}

/// `a, b, c`, or shorter where `some` are nearly all.
fn among<T: Ord>(
    some: &BTreeSet<T>,
    all: BTreeSet<&T>,
    everyone: &str,
    name: impl Fn(&T) -> String,
) -> String {
    let others: Vec<_> = all.into_iter().filter(|one| !some.contains(one)).collect();
    let list = |ones: Vec<String>| ones.join(", ");
    match others.len() {
        0 if some.len() > 1 => everyone.to_owned(),
        1..=4 if some.len() > 2 * others.len() => {
            format!("{everyone} but {}", list(others.into_iter().map(name).collect()))
        }
        _ => list(some.iter().map(name).collect()),
    }
}

/// Breaks between words, indented so that the next item is told from the rest of this one.
fn wrapped(out: &mut String, text: &str, width: usize) {
    let mut current = String::from("   ");
    for word in text.split(' ') {
        let length = current.chars().count() + 1 + word.chars().count();
        if length > width && current.trim() != "" {
            line(out, &current);
            current = String::from("     ");
        }
        // Writing to a string cannot fail.
        write!(current, " {word}").unwrap_or_default();
    }
    line(out, &current);
}

fn services(out: &mut String, report: &Report, names: &Names<'_>, parties: &Parties, look: Look) {
    let mut grouped: BTreeMap<_, Vec<&ServiceProbe>> = BTreeMap::new();
    for probe in &report.services {
        let to = Party::Pods { namespace: probe.namespace.clone(), name: probe.name.clone() };
        let column = Column { to, port: probe.port, protocol: probe.protocol };
        grouped.entry(column).or_default().push(probe);
    }
    if grouped.is_empty() {
        return;
    }
    heading(out, "Services", look);
    let width = grouped.keys().map(|column| names.column(column).len()).max().unwrap_or_default();
    for (column, probes) in grouped {
        let mut reached: BTreeMap<Party, BTreeSet<(bool, bool)>> = BTreeMap::new();
        let mut backends = BTreeSet::new();
        let mut ips = BTreeSet::new();
        for probe in probes {
            let allowed = probe.verdict == VerdictKind::Allowed;
            let from = parties.of(&probe.from, "");
            reached.entry(from).or_default().insert((probe.ip.is_ipv4(), allowed));
            backends.extend(probe.backend.as_ref().map(|backend| names.party(&parties.of(backend, ""))));
            ips.insert(probe.ip);
        }
        let ips: Vec<_> = ips.into_iter().collect();
        let behind = match backends.is_empty() {
            true => String::new(),
            false => format!(" → {}", backends.into_iter().collect::<Vec<_>>().join(", ")),
        };
        line(out, &format!("  {:width$}  {}{behind}", names.column(&column), addresses(&ips)));
        let mut marks: BTreeMap<Mark, BTreeSet<Party>> = BTreeMap::new();
        for (party, verdicts) in &reached {
            marks.entry(Mark::of(verdicts)).or_default().insert(party.clone());
        }
        if marks.contains_key(&Mark::Allowed) {
            // Who is answered says who is not.
            marks.remove(&Mark::Denied);
        }
        for (mark, some) in &marks {
            let who = among(some, reached.keys().collect(), "everyone", |party| names.row(party));
            wrapped(out, &format!("{} {who}", look.mark(Some(*mark))), look.width);
        }
    }
}

#[cfg(test)]
mod tests;
