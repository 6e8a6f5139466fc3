//! What `weir status` and the metrics show.

use std::collections::{BTreeMap, BTreeSet};

use api::{EndpointStatus, RuleSetStatus, SourceStatus, Status};
use common::id::RuleSetId;
use common::net::Addr;
use policy::Kind;
use tracing::warn;

use crate::datapath::Datapath;
use crate::endpoints::pod_name;
use crate::metrics::Numbers;
use crate::run::Agent;

/// The parts whose complaints are about what is desired, and not about this node.
const DESIRED: [&str; 2] = ["files", "policy"];

impl<D: Datapath> Agent<D> {
    pub(crate) fn status(&mut self) -> Status {
        let config = shown("configuration", self.datapath.config());
        Status {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            ready: self.what_is_missing().is_none(),
            not_ready: self.what_is_missing(),
            generation: config.generation,
            epoch: config.epoch,
            adopted: self.datapath.adopted(),
            source_revision: self.revision_in_force.clone(),
            endpoints: self.endpoint_statuses(),
            peers: self.peers.clone(),
            rule_sets: self.rule_set_statuses(),
            maps: shown("map fill", self.datapath.fill()),
            counters: shown("counters", self.datapath.counters()),
            source: self.source_status(),
            problems: self.complaints_of(|part| !DESIRED.contains(&part)),
            unmanaged: self.unmanaged_names(),
            warnings: self.complaints_of(|part| DESIRED.contains(&part)),
            last_error: self.last_error.clone(),
            drift: self.meter.drift(),
        }
    }

    fn complaints_of(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let parts = self.complaints.iter().filter(|(part, _)| wanted(part));
        parts.flat_map(|(_, complaints)| complaints.iter().cloned()).collect()
    }

    fn source_status(&self) -> SourceStatus {
        let is_silent =
            |part: &str| self.complaints.get(part).is_some_and(|complaints| !complaints.is_empty());
        let kinds = Kind::ALL.map(Kind::as_str);
        SourceStatus {
            kind: self.source_kind.to_owned(),
            connected: !kinds.iter().chain(&["source"]).any(|part| is_silent(part)),
            last_change_s: self.heard_at.map(|at| at.elapsed().as_secs()),
        }
    }

    /// Before the node is ready: what is missing, and why it is, as far as that is known.
    pub(crate) fn what_is_missing(&self) -> Option<String> {
        let trouble = |parts: &[&str]| {
            parts.iter().find_map(|part| self.complaints.get(part)?.first()).map(|why| format!(": {why}"))
        };
        if !self.source_seen {
            let kinds = Kind::ALL.map(Kind::as_str);
            let why = trouble(&["source"]).or_else(|| trouble(&kinds)).unwrap_or_default();
            return Some(format!("the first complete list of every kind has not arrived{why}"));
        }
        if !self.ready {
            let why = self.last_error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            return Some(format!("the first complete list is not in force{why}"));
        }
        let why = || trouble(&["node"]).unwrap_or_default();
        self.awaits_conflist.then(|| format!("the plugin's configuration is not written{}", why()))
    }

    pub(crate) fn numbers(&mut self) -> Numbers {
        Numbers { status: self.status(), meter: self.meter.clone() }
    }

    fn endpoint_statuses(&self) -> Vec<EndpointStatus> {
        let row = |addr: Addr| self.datapath.tables().endpoints.get(&addr);
        let rules = |id: Option<RuleSetId>| match id {
            None => "not programmed".to_owned(),
            Some(id) if id.is_open() => "open".to_owned(),
            Some(id) => format!("{id:?}"),
        };
        let mut endpoints: Vec<_> = self
            .records
            .iter()
            .map(|attach| {
                let row = attach.ips.first().and_then(|ip| row(Addr::from(*ip)));
                EndpointStatus {
                    name: pod_name(attach).unwrap_or_else(|| attach.container_id.clone()),
                    ips: attach.ips.clone(),
                    ifname: attach.host_ifname.clone(),
                    ifindex: attach.host_ifindex,
                    netns: Some(attach.netns.clone()),
                    ingress: rules(row.map(|row| row.ingress)),
                    egress: rules(row.map(|row| row.egress)),
                }
            })
            .collect();
        endpoints.sort_by(|a, b| a.name.cmp(&b.name));
        endpoints
    }

    fn rule_set_statuses(&self) -> Vec<RuleSetStatus> {
        let mut users: BTreeMap<RuleSetId, BTreeSet<u32>> = BTreeMap::new();
        for row in self.datapath.tables().endpoints.values() {
            for rule_set in [row.ingress, row.egress] {
                users.entry(rule_set).or_default().insert(row.ifindex);
            }
        }
        self.naming
            .rule_sets()
            .iter()
            .map(|(id, name)| RuleSetStatus {
                id: format!("{id:?}"),
                direction: name.direction.as_str().to_owned(),
                policies: name.policies.clone(),
                rows: name.rows,
                endpoints: users.get(id).map_or(0, BTreeSet::len),
            })
            .collect()
    }
}

/// A part of the datapath that cannot be read is missing from the status, and the log says why.
fn shown<T: Default>(what: &str, part: anyhow::Result<T>) -> T {
    part.unwrap_or_else(|error| {
        warn!(error = format!("{error:#}"), "{what} of the datapath cannot be read");
        T::default()
    })
}
