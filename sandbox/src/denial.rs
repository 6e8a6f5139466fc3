//! Why what was denied was denied: each cause once, with whom it kept apart.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::{By, Report};
use crate::table::{Column, Parties, Party, is_allowed};

/// One cause, and whom it kept from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What the kernel said, `None` where it said nothing.
    pub by: Option<By>,
    /// Sources and destinations that go together.
    pub kept_apart: Vec<(BTreeSet<Party>, BTreeSet<Column>)>,
}

impl Denial {
    /// `ingress by shop/deny-all: no rule allows it`.
    pub fn cause(&self) -> String {
        cause(self.by.as_ref())
    }
}

/// One cause in words.
pub fn cause(by: Option<&By>) -> String {
    let Some(by) = by else {
        return "no answer, and the kernel said nothing".to_owned();
    };
    let why = why(by);
    match (&by.direction, by.policies.is_empty()) {
        (Some(direction), false) => format!("{direction} by {}: {why}", by.policies.join(", ")),
        (Some(direction), true) => format!("{direction}: {why}"),
        (None, _) => why,
    }
}

/// The reason of a cause in words, without whose it is.
pub fn why(by: &By) -> String {
    match by.reason.as_str() {
        "policy_denied" => "no rule allows it".to_owned(),
        "timeout" => "no answer, though no node dropped it".to_owned(),
        other => other.replace('_', " "),
    }
}

/// The causes in the order of direction and policies.
///
/// Who is denied the same thing is named together: for each cause, columns with the same sources become one line (one
/// isolated pod, many callers), or rows with the same columns (one pod that may call nobody).
pub fn denials(report: &Report, parties: &Parties) -> Vec<Denial> {
    let mut causes: BTreeMap<Option<By>, BTreeSet<(Party, Column)>> = BTreeMap::new();
    for probe in report.probes.iter().filter(|probe| !is_allowed(probe) && probe.from != probe.to) {
        let (from, to) = parties.ends(probe);
        let column = Column { to, port: probe.port, protocol: probe.protocol };
        causes.entry(probe.by.clone()).or_default().insert((from, column));
    }
    causes
        .into_iter()
        .map(|(by, cells)| {
            let by_column = fold(cells.iter().map(|(row, column)| (column.clone(), row.clone())));
            let by_row = fold(cells.iter().cloned());
            let kept_apart = if by_row.len() < by_column.len() {
                by_row
            } else {
                by_column.into_iter().map(|(columns, rows)| (rows, columns)).collect()
            };
            Denial { by, kept_apart }
        })
        .collect()
}

/// Groups what has the same partners.
fn fold<A: Ord + Clone, B: Ord + Clone>(
    pairs: impl Iterator<Item = (A, B)>,
) -> Vec<(BTreeSet<A>, BTreeSet<B>)> {
    let mut partners: BTreeMap<A, BTreeSet<B>> = BTreeMap::new();
    for (one, other) in pairs {
        partners.entry(one).or_default().insert(other);
    }
    let mut groups: BTreeMap<BTreeSet<B>, BTreeSet<A>> = BTreeMap::new();
    for (one, others) in partners {
        groups.entry(others).or_default().insert(one);
    }
    let mut folded: Vec<_> = groups.into_iter().map(|(others, ones)| (ones, others)).collect();
    folded.sort();
    folded
}
