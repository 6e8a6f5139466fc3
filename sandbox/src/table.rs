//! The truth table as values: who stands in a row, what in a column, and which mark where they meet.
//!
//! Replicas that behave alike are one party; where one differs, each stands for itself, so that nothing is averaged
//! away. A pod's probes of itself are left out: they always pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use api::VerdictKind;

use crate::plan::Protocol;
use crate::report::{OUTSIDE, Probe, Report};

/// One row, or the owner of columns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// `name` is the workload's, or the pod's where replicas differ.
    Pods {
        namespace: String,
        name: String,
    },
    /// The node that the pod at the other end runs on.
    OwnNode,
    OtherNode,
    Outside,
}

impl Party {
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Pods { namespace, .. } => Some(namespace),
            _ => None,
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods { namespace, name } => f.pad(&format!("{namespace}/{name}")),
            Self::OwnNode => f.pad("its own node"),
            Self::OtherNode => f.pad("another node"),
            Self::Outside => f.pad("outside"),
        }
    }
}

/// A column: where to, on which port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Column {
    pub to: Party,
    pub port: u16,
    pub protocol: Protocol,
}

impl Column {
    /// `80`, `53/UDP`: TCP goes without saying.
    pub fn port(&self) -> String {
        match self.protocol {
            Protocol::Tcp => self.port.to_string(),
            other => format!("{}/{other}", self.port),
        }
    }
}

/// What the probes of one cell say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    Allowed,
    Denied,
    /// Only over IPv4, or only over IPv6.
    OnlyV4,
    OnlyV6,
    /// Some pods do and some do not.
    Mixed,
}

impl Mark {
    pub(crate) fn of(verdicts: &Verdicts) -> Self {
        let all = |v4| {
            let of_family: BTreeSet<_> =
                verdicts.iter().filter(|(is_v4, _)| *is_v4 == v4).map(|(_, allowed)| *allowed).collect();
            (of_family.len() == 1).then(|| of_family.contains(&true)).ok_or(of_family.is_empty())
        };
        match (all(true), all(false)) {
            (Ok(true), Ok(true) | Err(true)) | (Err(true), Ok(true)) => Self::Allowed,
            (Ok(false), Ok(false) | Err(true)) | (Err(true), Ok(false)) => Self::Denied,
            (Ok(true), Ok(false)) => Self::OnlyV4,
            (Ok(false), Ok(true)) => Self::OnlyV6,
            _ => Self::Mixed,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "✓",
            Self::Denied => "✗",
            Self::OnlyV4 => "4",
            Self::OnlyV6 => "6",
            Self::Mixed => "±",
        }
    }

    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Allowed => "reaches",
            Self::Denied => "denied",
            Self::OnlyV4 => "only over IPv4",
            Self::OnlyV6 => "only over IPv6",
            Self::Mixed => "some do, some do not",
        }
    }

    pub const ALL: [Self; 5] = [Self::Allowed, Self::Denied, Self::OnlyV4, Self::OnlyV6, Self::Mixed];
}

/// Whether IPv4, and whether allowed.
pub(crate) type Verdicts = BTreeSet<(bool, bool)>;

/// Which pod belongs to which party.
#[derive(Clone, Debug, Default)]
pub struct Parties {
    of_pod: BTreeMap<String, Party>,
    node_of: BTreeMap<String, String>,
    size: BTreeMap<Party, usize>,
}

impl Parties {
    /// One party a workload, whether or not its replicas behave alike.
    pub fn by_workload(report: &Report) -> Self {
        let mut parties = Self::default();
        for pod in &report.pods {
            let workload = pod.workload.rsplit('/').next().unwrap_or(&pod.name).to_owned();
            parties.insert(report, pod, workload);
        }
        parties.count();
        parties
    }

    /// One party a pod.
    pub fn by_pod(report: &Report) -> Self {
        let mut parties = Self::default();
        for pod in &report.pods {
            parties.insert(report, pod, pod.name.clone());
        }
        parties.count();
        parties
    }

    /// One party a workload, but each pod for itself where replicas differ.
    pub fn alike(report: &Report) -> Self {
        let mut parties = Self::by_workload(report);
        // How each pod behaves: as source and as destination, towards whom, on which port, over which family.
        type Behaviour = BTreeSet<(bool, Party, u16, Protocol, bool, bool)>;
        let mut behaviour: BTreeMap<&str, Behaviour> = BTreeMap::new();
        for probe in report.probes.iter().filter(|probe| probe.from != probe.to) {
            let (from, to) = parties.ends(probe);
            let seen = (probe.port, probe.protocol, probe.ip.is_ipv4(), is_allowed(probe));
            let entry = |outgoing, peer| (outgoing, peer, seen.0, seen.1, seen.2, seen.3);
            behaviour.entry(&probe.from).or_default().insert(entry(true, to));
            behaviour.entry(&probe.to).or_default().insert(entry(false, from));
        }
        let mut per_party: BTreeMap<&Party, BTreeSet<Option<&Behaviour>>> = BTreeMap::new();
        for (pod, party) in &parties.of_pod {
            per_party.entry(party).or_default().insert(behaviour.get(pod.as_str()));
        }
        let differing: BTreeSet<Party> = per_party
            .into_iter()
            .filter(|(_, behaviours)| behaviours.len() > 1)
            .map(|(party, _)| party.clone())
            .collect();
        for pod in &report.pods {
            let key = format!("{}/{}", pod.namespace, pod.name);
            if parties.of_pod.get(&key).is_some_and(|party| differing.contains(party)) {
                parties.insert(report, pod, pod.name.clone());
            }
        }
        parties.count();
        parties
    }

    /// Two kinds of workload may share a name: then pods stand for themselves.
    fn insert(&mut self, report: &Report, pod: &crate::report::PodFacts, name: String) {
        let shared = report.pods.iter().any(|other| {
            other.namespace == pod.namespace
                && other.workload != pod.workload
                && other.workload.rsplit('/').next() == Some(&name)
        });
        let name = if shared { pod.name.clone() } else { name };
        let key = format!("{}/{}", pod.namespace, pod.name);
        self.node_of.insert(key.clone(), pod.node.clone());
        self.of_pod.insert(key, Party::Pods { namespace: pod.namespace.clone(), name });
    }

    fn count(&mut self) {
        self.size.clear();
        for party in self.of_pod.values() {
            *self.size.entry(party.clone()).or_default() += 1;
        }
    }

    /// How many pods a party stands for.
    pub fn size(&self, party: &Party) -> usize {
        self.size.get(party).copied().unwrap_or(1)
    }

    /// Every party of pods.
    pub fn pods(&self) -> impl Iterator<Item = &Party> {
        self.size.keys()
    }

    /// The party of an end, seen from the other one.
    pub fn of(&self, end: &str, other: &str) -> Party {
        if let Some(party) = self.of_pod.get(end) {
            return party.clone();
        }
        match end.split_once('/') {
            None if end == OUTSIDE => Party::Outside,
            Some(("node", name)) if self.node_of.get(other).is_some_and(|node| node == name) => {
                Party::OwnNode
            }
            Some(("node", _)) => Party::OtherNode,
            Some((namespace, name)) => Party::Pods { namespace: namespace.into(), name: name.into() },
            None => Party::Pods { namespace: String::new(), name: end.into() },
        }
    }

    pub fn ends(&self, probe: &Probe) -> (Party, Party) {
        (self.of(&probe.from, &probe.to), self.of(&probe.to, &probe.from))
    }

    /// Where in the table a probe stands.
    pub fn cell(&self, probe: &Probe) -> (Party, Column) {
        let (from, to) = self.ends(probe);
        (from, Column { to, port: probe.port, protocol: probe.protocol })
    }
}

pub fn is_allowed(probe: &Probe) -> bool {
    probe.verdict == VerdictKind::Allowed
}

/// Marks by row and column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub cells: BTreeMap<(Party, Column), Mark>,
}

impl Table {
    pub fn new(report: &Report, parties: &Parties) -> Self {
        let mut verdicts: BTreeMap<(Party, Column), Verdicts> = BTreeMap::new();
        for probe in report.probes.iter().filter(|probe| probe.from != probe.to) {
            verdicts.entry(parties.cell(probe)).or_default().insert((probe.ip.is_ipv4(), is_allowed(probe)));
        }
        Self { cells: verdicts.into_iter().map(|(cell, verdicts)| (cell, Mark::of(&verdicts))).collect() }
    }

    pub fn rows(&self) -> BTreeSet<&Party> {
        self.cells.keys().map(|(row, _)| row).collect()
    }

    pub fn columns(&self) -> BTreeSet<&Column> {
        self.cells.keys().map(|(_, column)| column).collect()
    }

    pub fn mark(&self, row: &Party, column: &Column) -> Option<Mark> {
        self.cells.get(&(row.clone(), column.clone())).copied()
    }
}
