//! The rule that came nearest to allowing what was denied. The kernel knows only that none did; this asks the policies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::{Miss, VerdictKind};

use crate::explain::Explainer;
use crate::report::{OUTSIDE, Probe, Report, node_end};
use crate::table::is_allowed;

/// The kernel's word for "no rule allows it".
const POLICY_DENIED: &str = "policy_denied";

/// Answers for the probes of one report.
pub(crate) struct Misses<'a> {
    explainer: &'a Explainer,
    addresses: BTreeMap<String, &'a [IpAddr]>,
}

impl<'a> Misses<'a> {
    pub(crate) fn new(report: &'a Report, explainer: &'a Explainer) -> Self {
        let pods =
            report.pods.iter().map(|pod| (format!("{}/{}", pod.namespace, pod.name), pod.ips.as_slice()));
        let nodes = report.nodes.iter().map(|node| (node_end(&node.name), node.ips.as_slice()));
        let outside = (OUTSIDE.to_owned(), report.outside.ips.as_slice());
        Self { explainer, addresses: pods.chain(nodes).chain([outside]).collect() }
    }

    /// `None` for what passed, for what was denied for another reason than policy, and where no rule is near.
    pub(crate) fn of(&self, probe: &Probe) -> Option<Miss> {
        let by = probe.by.as_ref().filter(|by| !is_allowed(probe) && by.reason == POLICY_DENIED)?;
        let of_family = |ip: &&IpAddr| ip.is_ipv4() == probe.ip.is_ipv4();
        let source = self.addresses.get(&probe.from)?.iter().find(of_family)?;
        let said = self.explainer.explain(*source, probe.ip, probe.port, probe.protocol.number());
        let side = if by.direction.as_deref() == Some("egress") { said.egress } else { said.ingress };
        // What was measured stands: of what the policies would have allowed there is no miss to tell.
        side.nearest.filter(|_| side.verdict == VerdictKind::Denied)
    }
}
