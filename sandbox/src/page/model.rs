//! What the page's script is given: the report, with everything that is said often said once and then called by number.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Miss;
use serde::Serialize;
use serde_json::Value;

use crate::denial;
use crate::page::Beside;
use crate::page::missed::Misses;
use crate::report::{By, Host, PodFacts, Probe, Report, ServiceProbe, Timings};
use crate::table::{self, Mark, Parties, Party, Table, is_allowed};

#[derive(Serialize)]
pub(crate) struct Page<'a> {
    version: &'static str,
    subject: &'a str,
    nodes: &'a [Host],
    outside: &'a [IpAddr],
    pods: &'a [PodFacts],
    /// `namespace/pod`, `node/NAME`, `outside`.
    ends: Vec<&'a str>,
    ips: Vec<IpAddr>,
    causes: Vec<Cause>,
    misses: Vec<Nearest>,
    /// From, to (`ends`), address (`ips`), cause (`causes`), nearest miss (`misses`).
    probes: Vec<(usize, usize, usize, usize, Option<usize>)>,
    views: Vec<View>,
    marks: [&'static str; Mark::ALL.len()],
    meanings: [&'static str; Mark::ALL.len()],
    /// By `namespace/name`.
    policies: BTreeMap<String, Policy>,
    /// Absent where nothing was expected.
    differences: Option<Vec<Unexpected>>,
    services: &'a [ServiceProbe],
    warnings: &'a [String],
    timings: Timings,
}

/// Why a probe went as it did.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Cause {
    /// As the kernel said; `null` where it said nothing.
    by: Option<By>,
    allowed: bool,
    /// The reason alone.
    why: String,
    /// The reason, and whose it is.
    words: String,
}

/// The rule that came nearest to allowing what was denied by policy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Nearest {
    policy: String,
    /// `spec.ingress[0]`.
    rule: String,
    at: Option<String>,
    sentence: String,
}

impl From<Miss> for Nearest {
    fn from(miss: Miss) -> Self {
        Self { policy: miss.rule.policy, rule: miss.rule.path, at: miss.rule.at, sentence: miss.sentence }
    }
}

#[derive(Serialize)]
struct Policy {
    /// `FILE:LINE`.
    at: Option<String>,
    yaml: String,
}

/// Where the table is not as expected.
#[derive(Serialize)]
struct Unexpected {
    /// `FILE:LINE`.
    at: String,
    /// `a/x → b/y:80/TCP`.
    what: String,
    words: String,
}

impl From<(&str, &str, String)> for Unexpected {
    fn from((at, what, words): (&str, &str, String)) -> Self {
        Self { at: at.to_owned(), what: what.to_owned(), words }
    }
}

/// One way to draw the matrix.
#[derive(Serialize)]
struct View {
    name: &'static str,
    rows: Vec<Row>,
    columns: Vec<Column>,
    /// Row, column, mark (`marks`), probes.
    cells: Vec<(usize, usize, usize, Vec<usize>)>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    party: Side,
    /// How many pods it stands for.
    size: usize,
}

#[derive(Serialize)]
struct Column {
    #[serde(flatten)]
    party: Side,
    /// `80`, `53/UDP`.
    port: String,
}

#[derive(Serialize)]
struct Side {
    /// Absent for nodes and the outside.
    namespace: Option<String>,
    name: String,
}

impl Side {
    fn of(party: &Party) -> Self {
        match party {
            Party::Pods { namespace, name } => {
                Self { namespace: Some(namespace.clone()), name: name.clone() }
            }
            other => Self { namespace: None, name: other.to_string() },
        }
    }
}

/// Things that are called by number: the first time a thing is seen it gets the next one.
struct Numbers<T>(BTreeMap<T, usize>);

impl<T: Ord> Numbers<T> {
    const fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn of(&mut self, thing: T) -> usize {
        let next = self.0.len();
        *self.0.entry(thing).or_insert(next)
    }

    fn in_order(self) -> Vec<T> {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort_by_key(|(_, number)| *number);
        all.into_iter().map(|(thing, _)| thing).collect()
    }
}

pub(crate) fn page<'a>(report: &'a Report, beside: &'a Beside<'_>) -> Page<'a> {
    let misses = Misses::new(report, beside.explainer);
    let (mut ends, mut ips) = (Numbers::new(), Numbers::new());
    let (mut causes, mut nearest) = (Numbers::new(), Numbers::new());
    let probes = report.probes.iter().map(|probe| {
        (
            ends.of(probe.from.as_str()),
            ends.of(probe.to.as_str()),
            ips.of(probe.ip),
            causes.of(cause(probe)),
            misses.of(probe).map(|miss| nearest.of(Nearest::from(miss))),
        )
    });
    let probes = probes.collect();
    let alike = Parties::alike(report);
    let mut views = vec![view("workload", report, &alike)];
    if alike.pods().any(|party| alike.size(party) > 1) {
        views.push(view("pod", report, &Parties::by_pod(report)));
    }
    Page {
        version: env!("CARGO_PKG_VERSION"),
        subject: beside.subject,
        nodes: &report.nodes,
        outside: &report.outside.ips,
        pods: &report.pods,
        ends: ends.in_order(),
        ips: ips.in_order(),
        causes: causes.in_order(),
        misses: nearest.in_order(),
        probes,
        views,
        marks: Mark::ALL.map(Mark::as_str),
        meanings: Mark::ALL.map(Mark::meaning),
        policies: policies(beside),
        differences: beside.differences.map(|all| all.lines().map(Unexpected::from).collect()),
        services: &report.services,
        warnings: &report.warnings,
        timings: report.timings,
    }
}

fn cause(probe: &Probe) -> Cause {
    let (allowed, by) = (is_allowed(probe), probe.by.as_ref());
    let words = if allowed { passed(by) } else { denial::cause(by) };
    Cause {
        by: probe.by.clone(),
        allowed,
        why: by.filter(|_| !allowed).map_or_else(|| words.clone(), denial::why),
        words,
    }
}

/// Why something passed, in words.
fn passed(by: Option<&By>) -> String {
    let Some(by) = by else {
        return "it passed, and the kernel had nothing to say about it".to_owned();
    };
    match (by.reason.as_str(), &by.rule) {
        ("rule", Some(rule)) => format!("{rule} of {} allows it", by.policies.join(", ")),
        ("open", _) => "no policy isolates these ends".to_owned(),
        ("node", _) => "a node always reaches its own pods".to_owned(),
        ("itself", _) => "a pod always reaches itself".to_owned(),
        (other, _) => other.replace('_', " "),
    }
}

fn view(name: &'static str, report: &Report, parties: &Parties) -> View {
    let table = Table::new(report, parties);
    let (rows, columns) = (Vec::from_iter(table.rows()), Vec::from_iter(table.columns()));
    let mut probes: BTreeMap<(&Party, &table::Column), Vec<usize>> = BTreeMap::new();
    let ends: Vec<_> = report.probes.iter().map(|probe| parties.cell(probe)).collect();
    for (index, (probe, (row, column))) in report.probes.iter().zip(&ends).enumerate() {
        if probe.from != probe.to {
            probes.entry((row, column)).or_default().push(index);
        }
    }
    let cells = table.cells.iter().map(|((row, column), mark)| {
        (
            // Both are sorted, and every cell is in one of each.
            rows.binary_search(&row).unwrap_or_default(),
            columns.binary_search(&column).unwrap_or_default(),
            Mark::ALL.iter().position(|it| it == mark).unwrap_or_default(),
            probes.remove(&(row, column)).unwrap_or_default(),
        )
    });
    View {
        name,
        cells: cells.collect(),
        rows: rows.iter().map(|row| Row { party: Side::of(row), size: parties.size(row) }).collect(),
        columns: columns
            .iter()
            .map(|column| Column { party: Side::of(&column.to), port: column.port() })
            .collect(),
    }
}

fn policies(beside: &Beside<'_>) -> BTreeMap<String, Policy> {
    let text = |value: &Value, field: &str| value.pointer(field).and_then(Value::as_str).map(str::to_owned);
    let named = beside.cast.policies.iter().map(|policy| {
        let namespace = text(policy, "/metadata/namespace").unwrap_or_else(|| "default".to_owned());
        let name = format!("{namespace}/{}", text(policy, "/metadata/name").unwrap_or_default());
        let at = beside.explainer.places().of(&format!("NetworkPolicy {name}"), "");
        // Maps of strings: nothing that YAML could not hold.
        let yaml = serde_saphyr::to_string(policy).unwrap_or_default();
        (name, Policy { at, yaml })
    });
    named.collect()
}
