//! What `--watch` prints: how one report differs from the one before.

use std::collections::{BTreeMap, BTreeSet};

use crate::denial::cause;
use crate::output::line;
use crate::report::{By, Report};
use crate::table::{Column, Mark, Parties, Party, Table, is_allowed};

/// Only what is different, one line each; a single line where nothing is.
///
/// Compares workloads, not pods: a new revision of a Deployment has other pods, and that alone is no news.
pub fn changes(before: &Report, after: &Report) -> String {
    let mut out = String::new();
    let side = |report: &Report| {
        let parties = Parties::by_workload(report);
        let table = Table::new(report, &parties);
        (parties, table)
    };
    let (old_parties, old) = side(before);
    let (new_parties, new) = side(after);
    let (was, is) = (sizes(&old_parties), sizes(&new_parties));
    for (party, size) in &is {
        match was.get(party) {
            None => line(&mut out, &format!("+ {party}{}", times(*size))),
            Some(old) if old != size => line(&mut out, &format!("  {party}: {old} → {size} pods")),
            Some(_) => {}
        }
    }
    for party in was.keys().filter(|party| !is.contains_key(party)) {
        line(&mut out, &format!("- {party}"));
    }
    let (old_causes, new_causes) = (causes(before, &old_parties), causes(after, &new_parties));
    for (cell @ (row, column), mark) in &new.cells {
        let earlier = old.cells.get(cell);
        // A workload that is new has every cell new: it was named above.
        if earlier.is_none() && !(was.contains_key(row) && was.contains_key(&column.to)) {
            continue;
        }
        let moved = earlier.map_or_else(|| "new".to_owned(), |earlier| earlier.as_str().to_owned());
        let why = |causes: &Causes| causes.get(cell).cloned().unwrap_or_default();
        let (old_why, new_why) = (why(&old_causes), why(&new_causes));
        if earlier == Some(mark) && old_why == new_why {
            continue;
        }
        let new_why: Vec<_> = new_why.iter().map(|by| cause(by.as_ref())).collect();
        let reason = match mark {
            Mark::Allowed => String::new(),
            _ => format!("  {}", new_why.join("; ")),
        };
        line(
            &mut out,
            &format!("{moved} → {}  {row} → {}:{}{reason}", mark.as_str(), column.to, column.port()),
        );
    }
    for (row, column) in old.cells.keys().filter(|cell| !new.cells.contains_key(cell)) {
        if is.contains_key(row) && is.contains_key(&column.to) {
            line(&mut out, &format!("gone  {row} → {}:{}", column.to, column.port()));
        }
    }
    services(&mut out, before, after);
    let (old, new): (BTreeSet<_>, BTreeSet<_>) =
        (before.warnings.iter().collect(), after.warnings.iter().collect());
    for warning in new.difference(&old) {
        line(&mut out, &format!("! {warning}"));
    }
    for warning in old.difference(&new) {
        line(&mut out, &format!("no longer: {warning}"));
    }
    if out.is_empty() {
        line(&mut out, &format!("nothing changed: {} probes answer as before", after.probes.len()));
    }
    out
}

fn sizes(parties: &Parties) -> BTreeMap<Party, usize> {
    parties.pods().map(|party| (party.clone(), parties.size(party))).collect()
}

fn times(size: usize) -> String {
    if size == 1 { String::new() } else { format!(" ×{size}") }
}

/// The causes of the denials in each cell.
type Causes = BTreeMap<(Party, Column), BTreeSet<Option<By>>>;

fn causes(report: &Report, parties: &Parties) -> Causes {
    let mut causes = Causes::new();
    for probe in report.probes.iter().filter(|probe| !is_allowed(probe) && probe.from != probe.to) {
        let (from, to) = parties.ends(probe);
        let column = Column { to, port: probe.port, protocol: probe.protocol };
        causes.entry((from, column)).or_default().insert(probe.by.clone());
    }
    causes
}

/// What a Service answered: to whom, over which family; and who answered.
#[derive(Default)]
struct Answers {
    to: BTreeMap<(Party, bool), BTreeSet<bool>>,
    backends: BTreeSet<Party>,
}

/// Services whose address answers others than before.
///
/// Which backend answers is chance. So a change is only what is the same for all pods of a workload, before and after; and
/// a backend itself, which reaches itself and perhaps not its like, proves nothing.
fn services(out: &mut String, before: &Report, after: &Report) {
    let answers = |report: &Report| {
        let parties = Parties::by_workload(report);
        let mut services: BTreeMap<String, Answers> = BTreeMap::new();
        for probe in &report.services {
            let key = format!("Service {}/{}:{}/{}", probe.namespace, probe.name, probe.port, probe.protocol);
            let service = services.entry(key).or_default();
            let from = (parties.of(&probe.from, ""), probe.ip.is_ipv4());
            service.to.entry(from).or_default().insert(probe.verdict == api::VerdictKind::Allowed);
            service.backends.extend(probe.backend.as_ref().map(|backend| parties.of(backend, "")));
        }
        services
    };
    let (old, new) = (answers(before), answers(after));
    for (service, now) in &new {
        let Some(then) = old.get(service) else {
            line(out, &format!("+ {service}"));
            continue;
        };
        for allowed in [true, false] {
            let flipped: BTreeSet<_> = now
                .to
                .iter()
                .filter(|(from, is)| {
                    **is == BTreeSet::from([allowed])
                        && then.to.get(from) == Some(&BTreeSet::from([!allowed]))
                        && !then.backends.contains(&from.0)
                        && !now.backends.contains(&from.0)
                })
                .map(|((from, _), _)| from.to_string())
                .collect();
            if !flipped.is_empty() {
                let flipped = flipped.into_iter().collect::<Vec<_>>().join(", ");
                let move_ = if allowed { "✗ → ✓" } else { "✓ → ✗" };
                line(out, &format!("{move_}  {flipped} → {service}"));
            }
        }
    }
    for service in old.keys().filter(|service| !new.contains_key(*service)) {
        line(out, &format!("- {service}"));
    }
}

#[cfg(test)]
mod tests;
