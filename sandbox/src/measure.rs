//! From a sandbox that is up to its report: probes, the kernel's word about them, warnings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use api::FlowLine;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::Lines;
use crate::plan::Listen;
use crate::prober::Prober;
use crate::puppet::Puppet;
use crate::report::{Outside, Report, Timings};
use crate::stub::protocol::Taken;
use crate::supervisor::{Progress, Sandbox};
use crate::targets::{self, Target};
use crate::verdict;

/// Warnings about single probes that are shown; the rest is counted.
const WARNINGS_SHOWN: usize = 5;

impl Sandbox {
    /// Measures everything; kube-dns too if `all`.
    pub async fn probe(&mut self, all: bool, progress: &dyn Fn(Progress)) -> anyhow::Result<Report> {
        let start = Instant::now();
        let ips = self.ips();
        let outside = self.outside_ips();
        let mut report = Report::of(&self.cast, &ips, all);
        let ends = targets::ends(&self.cast, &ips, &outside, all);
        let services = targets::services(&self.cast, all);
        report.outside = Outside { ips: outside };

        let mut targets: Vec<Target> = ends.clone();
        targets.extend(services.iter().map(|(_, target)| target.clone()));
        let (mut flows, subscriptions) = self.subscribe().await;
        let all_nodes_speak = subscriptions.len() == self.nodes.len();
        let total = targets.len();
        let puppets: BTreeMap<&str, &Puppet> = self
            .pods
            .values()
            .map(|pod| &pod.puppet)
            .chain(self.places.values())
            .map(|puppet| (puppet.name.as_str(), puppet))
            .collect();
        let mut prober = Prober {
            puppets,
            heard: &mut self.heard,
            flows: &mut flows,
            all_nodes_speak,
            next: &mut self.next_probe,
            progress: &|done| progress(Progress::Probes(done, total)),
        };
        let (measured, lost) = prober.measure(&targets).await;
        let mut measured = measured.into_iter();

        let mut odd = Vec::new();
        for (target, measured) in ends.iter().zip(measured.by_ref()) {
            let (probe, warning) = verdict::probe(target, &measured);
            report.probes.push(probe);
            // That a port is taken is said once, not for each probe of it.
            odd.extend(warning.filter(|_| !self.is_taken(target)));
        }
        for ((service, target), measured) in services.iter().zip(measured) {
            report.services.push(verdict::service(&self.cast.services[*service], target, &measured));
        }
        if !all_nodes_speak {
            odd.clear();
            odd.push("an agent is away: verdicts are as measured, but nobody says why".to_owned());
        }
        if lost > 0 {
            odd.push(format!(
                "{lost} flows were lost on their way: some verdicts may stand without their cause"
            ));
        }
        report.warnings.extend(self.warnings(odd).await);
        let probe_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        report.timings = Timings { up_ms: self.up_ms, probe_ms };
        Ok(report)
    }

    /// Follows the flows of every agent that is there. They are followed until the second value is dropped.
    pub(crate) async fn subscribe(&self) -> (mpsc::UnboundedReceiver<FlowLine>, Vec<Subscription>) {
        let (sender, flows) = mpsc::unbounded_channel();
        let mut subscriptions = Vec::new();
        for (_, socket) in self.agents() {
            // An agent may be away; what its node's programs do, they do without it.
            let Ok(mut lines) = Lines::open(&socket, "/v1/flows?follow=true&last=0").await else { continue };
            let sender = sender.clone();
            subscriptions.push(Subscription(tokio::spawn(async move {
                while let Some(line) = lines.next().await {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            })));
        }
        (flows, subscriptions)
    }

    fn is_taken(&self, target: &Target) -> bool {
        let taken = target.to.as_ref().and_then(|to| self.taken.get(to));
        let listen = Listen { port: target.port, protocol: target.protocol };
        taken.into_iter().flatten().any(|taken| taken.listen == listen)
    }

    fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        if self.nodes.iter().all(|node| node.cgroup_path().is_none()) {
            troubles.push("no cgroup2 file system is mounted: Services do not work".to_owned());
        }
        for (name, taken) in &self.taken {
            for Taken { listen: Listen { port, protocol }, error } in taken {
                troubles.push(format!(
                    "Pod {name}: port {port}/{protocol} cannot be listened on (another pod or container has it): {error}"
                ));
            }
        }
        troubles.dedup();
        troubles
    }

    /// What the cast does not know: troubles in pods, agents' warnings, odd probes.
    async fn warnings(&self, odd: Vec<String>) -> Vec<String> {
        let mut warnings = self.troubles();
        let mut known: BTreeSet<String> = self.cast.warnings.iter().cloned().collect();
        for node in &self.nodes {
            // An agent that is away (killed on purpose) has nothing to say.
            for warning in node.status().await.map(|status| status.warnings).unwrap_or_default() {
                if known.insert(warning.clone()) {
                    warnings.push(warning);
                }
            }
        }
        let rest = odd.len().saturating_sub(WARNINGS_SHOWN);
        warnings.extend(odd.into_iter().take(WARNINGS_SHOWN));
        if rest > 0 {
            warnings.push(format!("and {rest} more probes like that"));
        }
        warnings
    }
}

/// A stream that is being followed.
#[derive(Debug)]
pub(crate) struct Subscription(JoinHandle<()>);

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.abort();
    }
}
