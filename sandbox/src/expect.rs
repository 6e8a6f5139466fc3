//! `--expect FILE`: who must and must not reach whom, compared with what was measured. The format is described in
//! `docs/sandbox-expect.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::denial::cause;
use crate::end::{Ends, Pattern};
use crate::plan::{Cast, Protocol};
use crate::report::{Probe, Report};
use crate::table::{Parties, is_allowed};

/// By this `kind` the loader knows an expectation that lies among manifests.
pub const KIND: &str = "Expectation";
const API_VERSION: &str = "weir.dev/v1alpha1";

/// An expectation that cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}:{line}: {message}")]
    Syntax { path: String, line: u64, message: String },
    #[error("{path}:{line}: expect[{index}].{field}: {message}")]
    Entry { path: String, line: u64, index: usize, field: &'static str, message: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    others: Others,
    expect: Vec<Spanned<RawEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    from: OneOrMany,
    to: OneOrMany,
    port: Option<String>,
    family: Option<Family>,
    reach: Reach,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum Family {
    IPv4,
    IPv6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Reach {
    #[serde(rename = "yes", alias = "true")]
    Yes,
    #[serde(rename = "no", alias = "false")]
    No,
}

/// What holds between pods that no entry speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Others {
    #[default]
    Any,
    Allowed,
    Denied,
}

/// A file read and understood, but not yet compared with anything.
pub struct Expectation {
    path: String,
    others: Others,
    entries: Vec<Entry>,
}

struct Entry {
    line: u64,
    from: Vec<Pattern>,
    to: Vec<Pattern>,
    port: Option<u16>,
    protocol: Option<Protocol>,
    family: Option<Family>,
    reach: bool,
}

/// Reads the file.
pub fn load(path: &Path) -> Result<Expectation, Error> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: name.clone(), source })?;
    parse(&name, &text)
}

/// The same from text.
pub fn parse(path: &str, text: &str) -> Result<Expectation, Error> {
    let syntax = |line, message| Error::Syntax { path: path.to_owned(), line, message };
    let options = serde_saphyr::options! { with_snippet: false };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or(1, |location| location.line());
        let message = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        // The line is said in front already.
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        syntax(line, message.to_owned())
    })?;
    for (field, given, right) in [("apiVersion", &file.api_version, API_VERSION), ("kind", &file.kind, KIND)]
    {
        if let Some(given) = given.as_ref().filter(|given| *given != right) {
            return Err(syntax(1, format!("{field}: {given:?} should be {right}")));
        }
    }
    let mut entries = Vec::new();
    for (index, spanned) in file.expect.into_iter().enumerate() {
        let line = spanned.referenced.line();
        let raw = spanned.value;
        let error = |field, message| Error::Entry { path: path.to_owned(), line, index, field, message };
        let patterns = |field, ends| {
            let texts = match ends {
                OneOrMany::One(text) => vec![text],
                OneOrMany::Many(texts) => texts,
            };
            if texts.is_empty() {
                return Err(error(field, "an empty list names nobody".to_owned()));
            }
            let read = |text: &String| Pattern::parse(text).map_err(|message| error(field, message));
            texts.iter().map(read).collect::<Result<Vec<_>, _>>()
        };
        let (from, to) = (patterns("from", raw.from)?, patterns("to", raw.to)?);
        let (port, protocol) = match raw.port.as_deref().map(parse_port) {
            None => (None, None),
            Some(Some((port, protocol))) => (port, Some(protocol)),
            Some(None) => {
                let given = raw.port.unwrap_or_default();
                return Err(error("port", format!("{given:?} is none of `80`, `53/UDP`, `*/TCP`")));
            }
        };
        let reach = raw.reach == Reach::Yes;
        entries.push(Entry { line, from, to, port, protocol, family: raw.family, reach });
    }
    Ok(Expectation { path: path.to_owned(), others: file.others, entries })
}

/// `80`, `53/UDP`, `*/TCP`: a port, and a protocol that is TCP unless said.
fn parse_port(text: &str) -> Option<(Option<u16>, Protocol)> {
    let (port, protocol) = match text.split_once('/') {
        Some((port, protocol)) => (port, Protocol::parse(Some(protocol))?),
        None => (text, Protocol::Tcp),
    };
    match port {
        "*" => Some((None, protocol)),
        port => Some((Some(port.parse().ok().filter(|&port: &u16| port != 0)?), protocol)),
    }
}

impl Expectation {
    /// Whether every name means somebody. Ask before anything is brought up: a typo would make an entry vacuous.
    ///
    /// `all` as in [`crate::plan::Options::all`]: whether kube-dns is in the table.
    pub fn check_names(&self, cast: &Cast, all: bool) -> Result<(), Error> {
        self.check(&Ends::of_cast(cast, all))
    }

    fn check(&self, ends: &Ends) -> Result<(), Error> {
        for (index, entry) in self.entries.iter().enumerate() {
            for (field, patterns) in [("from", &entry.from), ("to", &entry.to)] {
                for pattern in patterns {
                    if !ends.any(pattern) {
                        let message =
                            format!("`{pattern}` is nobody here; there are {}", ends.known(pattern));
                        return Err(self.error(index, field, message));
                    }
                }
            }
        }
        Ok(())
    }

    fn error(&self, index: usize, field: &'static str, message: String) -> Error {
        let line = self.entries.get(index).map_or(0, |entry| entry.line);
        Error::Entry { path: self.path.clone(), line, index, field, message }
    }

    /// Compares with what was measured.
    ///
    /// The last entry that speaks of a probe decides it, so that an exception stands below its rule. A pod's probes of
    /// itself are out of the question: they always pass.
    pub fn compare(&self, report: &Report) -> Result<Differences, Error> {
        let ends = Ends::of_report(report);
        self.check(&ends)?;
        let parties = Parties::by_workload(report);
        let mut used = vec![false; self.entries.len()];
        let mut folded: BTreeMap<(usize, String), Difference> = BTreeMap::new();
        for probe in report.probes.iter().filter(|probe| probe.from != probe.to) {
            let mut decided = None;
            for (index, entry) in self.entries.iter().enumerate() {
                if entry.speaks_of(probe, &ends) {
                    used[index] = true;
                    decided = Some((index, entry.reach));
                }
            }
            let others = match self.others {
                Others::Any => None,
                Others::Allowed => Some(true),
                Others::Denied => Some(false),
            };
            let between_pods = ends.is_pod(&probe.from) && ends.is_pod(&probe.to);
            let others = others.filter(|_| between_pods).map(|reach| (usize::MAX, reach));
            let Some((index, wanted)) = decided.or(others) else { continue };
            let (from, to) = parties.ends(probe);
            let what = format!("{from} → {to}:{}/{}", probe.port, probe.protocol);
            let difference = folded.entry((index, what)).or_insert_with(|| Difference::new(wanted));
            difference.tried += 1;
            if is_allowed(probe) != wanted {
                difference.wrong += 1;
                difference.families.insert(if probe.ip.is_ipv4() { "IPv4" } else { "IPv6" });
                difference.causes.insert(if is_allowed(probe) {
                    String::new()
                } else {
                    cause(probe.by.as_ref())
                });
            }
        }
        if let Some(index) = used.iter().position(|used| !used) {
            let message = "no probe was made from there to there on such a port".to_owned();
            return Err(self.error(index, "to", message));
        }
        let lines = folded
            .into_iter()
            .filter(|(_, difference)| difference.wrong > 0)
            .map(|((index, what), difference)| {
                let at = match self.entries.get(index) {
                    Some(entry) => format!("{}:{}", self.path, entry.line),
                    None => format!("{}: others", self.path),
                };
                (at, what, difference)
            })
            .collect();
        Ok(Differences { lines })
    }
}

impl Entry {
    fn speaks_of(&self, probe: &Probe, ends: &Ends) -> bool {
        let names = |patterns: &[Pattern], end: &str| patterns.iter().any(|pattern| ends.is(pattern, end));
        self.port.is_none_or(|port| port == probe.port)
            && self.protocol.is_none_or(|protocol| protocol == probe.protocol)
            && self.family.is_none_or(|family| (family == Family::IPv4) == probe.ip.is_ipv4())
            && names(&self.from, &probe.from)
            && names(&self.to, &probe.to)
    }
}

/// Probes of one entry between one pair of workloads on one port.
struct Difference {
    wanted: bool,
    tried: usize,
    wrong: usize,
    families: BTreeSet<&'static str>,
    causes: BTreeSet<String>,
}

impl Difference {
    fn new(wanted: bool) -> Self {
        Self { wanted, tried: 0, wrong: 0, families: BTreeSet::new(), causes: BTreeSet::new() }
    }
}

/// Where the table is not as expected. Printed one line each.
pub struct Differences {
    lines: Vec<(String, String, Difference)>,
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Of each: the entry's place (`FILE:LINE`), whom it speaks of (`a/x → b/y:80/TCP`), and what is wrong.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str, String)> {
        self.lines.iter().map(|(at, what, difference)| (at.as_str(), what.as_str(), difference.to_string()))
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "as expected");
        }
        writeln!(f, "not as expected:")?;
        let width = |side: fn(&(String, String, Difference)) -> &String| {
            self.lines.iter().map(|line| side(line).chars().count()).max().unwrap_or_default()
        };
        let (at_width, what_width) = (width(|line| &line.0), width(|line| &line.1));
        for (at, what, difference) in &self.lines {
            writeln!(f, "  {at:at_width$}  {what:what_width$}  {difference}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    /// `must reach, but denied in 1 of 2 probes (IPv6): ingress by shop/deny: no rule allows it`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wanted, found) =
            if self.wanted { ("must reach", "denied") } else { ("must not reach", "reaches") };
        write!(f, "{wanted}, but {found}")?;
        if self.wrong < self.tried {
            let families: Vec<_> = self.families.iter().copied().collect();
            write!(f, " in {} of {} probes ({})", self.wrong, self.tried, families.join(" and "))?;
        }
        let causes: Vec<_> =
            self.causes.iter().map(String::as_str).filter(|cause| !cause.is_empty()).collect();
        match causes.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", causes.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests;
