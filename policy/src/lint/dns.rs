//! Egress that is let out by name, where no name can be asked for.

use common::net::protocol;

use super::Look;
use crate::facts::PodFacts;
use crate::model::{Namespaces, Peer, Peers, Policy, Port, Ports, Rule};
use crate::selector::Labels;

/// Where cluster DNS is, in every cluster that people's policies speak of.
const NAMESPACE: &str = "kube-system";
const LABEL: (&str, &str) = ("k8s-app", "kube-dns");
const PORT: u16 = 53;
/// A block this wide is meant to hold the cluster, too.
const WIDE_BITS: u8 = 8;

const RULE: &str = "add to egress: - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}], \
                    ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]";

impl Look<'_> {
    pub(super) fn dns(&mut self) {
        let Some(rules) = self.policy.egress.as_deref() else { return };
        // Who lets nothing out means it; who lets out to single addresses needs no names.
        if rules.iter().all(|rule| !needs_names(rule)) {
            return;
        }
        let selected = self.selected();
        let unasked = match selected.is_empty() {
            true => Some((self.common_policies(), None)),
            false => selected
                .into_iter()
                .map(|pod| (self.policies_of(pod), Some(pod)))
                .find(|(policies, _)| !self.may_ask(policies, protocol::UDP)),
        };
        let Some((policies, pod)) = unasked else { return };
        if self.may_ask(&policies, protocol::UDP) {
            return;
        }
        let who = match pod {
            Some(pod) => format!("{}/{}", pod.namespace, pod.name),
            None => "what it selects".to_owned(),
        };
        if self.may_ask(&policies, protocol::TCP) {
            self.find(
                "dns-forgotten",
                "spec.egress",
                format!("{who} may ask DNS over TCP only, and names are asked for over UDP"),
                "a port without protocol is TCP: add {port: 53, protocol: UDP}",
            );
        } else {
            let wrong = format!("{who} may connect, but not ask DNS for a name to connect to");
            self.find("dns-forgotten", "spec.egress", wrong, RULE);
        }
    }

    /// The policies that isolate a pod in egress.
    fn policies_of(&self, pod: &PodFacts) -> Vec<&Policy> {
        self.egress_policies().filter(|policy| policy.pods.matches(&pod.labels)).collect()
    }

    /// The policies that isolate whatever pod this one does.
    fn common_policies(&self) -> Vec<&Policy> {
        let own = &self.policy.pods.requirements;
        self.egress_policies().filter(|policy| policy.pods.requirements.is_subset(own)).collect()
    }

    fn egress_policies(&self) -> impl Iterator<Item = &Policy> {
        let all = self.input.world.policies.values().map(|policy| &**policy);
        all.filter(|policy| policy.namespace == self.policy.namespace && policy.egress.is_some())
    }

    fn may_ask(&self, policies: &[&Policy], protocol: u8) -> bool {
        policies
            .iter()
            .flat_map(|policy| policy.egress.iter().flatten())
            .any(|rule| self.allows_dns(rule, protocol))
    }

    fn allows_dns(&self, rule: &Rule, asked: u8) -> bool {
        let is_dns = |port: &Port| match port {
            Port::Range { protocol, first, last } => *protocol == asked && (*first..=*last).contains(&PORT),
            Port::Named { protocol, name } => *protocol == asked && name.contains("dns"),
        };
        // Who writes 53 has thought of DNS, and knows where it is.
        let (has_port, is_meant) = match &rule.ports {
            Ports::All => (true, false),
            Ports::Of(ports) => {
                let named = |port: &&Port| !matches!(port, Port::Range { first, last, .. } if first != last);
                (ports.iter().any(is_dns), ports.iter().filter(named).any(is_dns))
            }
        };
        has_port
            && match &rule.peers {
                Peers::Everyone => true,
                Peers::Of(peers) => peers.iter().any(|peer| self.holds_dns(peer, is_meant)),
            }
    }

    fn holds_dns(&self, peer: &Peer, is_meant: bool) -> bool {
        match peer {
            Peer::Block(block) => is_meant || block.cidr.prefix_len() <= WIDE_BITS,
            Peer::Pods { namespaces, pods } => {
                let labels = Labels::from_iter([(LABEL.0.to_owned(), LABEL.1.to_owned())]);
                match namespaces {
                    Namespaces::Named(name) => name == NAMESPACE && (is_meant || pods.matches(&labels)),
                    Namespaces::Matching(selector) => {
                        let there = selector.matches(&self.input.world.namespace_labels(NAMESPACE));
                        is_meant || (there && pods.matches(&labels))
                    }
                }
            }
        }
    }
}

/// Whether a rule lets out to more than single addresses.
fn needs_names(rule: &Rule) -> bool {
    match &rule.peers {
        Peers::Everyone => true,
        Peers::Of(peers) => peers.iter().any(|peer| match peer {
            Peer::Block(block) => block.cidr.prefix_len() < block.cidr.max_prefix_len(),
            Peer::Pods { .. } => true,
        }),
    }
}
