//! Peers that are nobody, and blocks that are more than was meant.

use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicySpec};

use super::hints::hint;
use super::{Look, PodPeer, selector};
use crate::facts::PodFacts;
use crate::selector::{Labels, Selector};

impl Look<'_> {
    pub(super) fn peers(&mut self, spec: &NetworkPolicySpec) {
        for (path, peers) in peer_lists(spec) {
            let peers: Vec<Option<PodPeer>> = peers
                .iter()
                .enumerate()
                .map(|(index, peer)| PodPeer::new(format!("{path}[{index}]"), peer))
                .collect();
            // An item that two were meant to be, or that was meant to be two, has no further faults of its own.
            let mut explained = self.alternatives(&path, &peers);
            for (index, peer) in peers.iter().enumerate() {
                let Some(peer) = peer else { continue };
                if explained.contains(&index) || self.namespace_of(peer) {
                    explained.insert(index);
                } else {
                    self.pods_of_peer(peer);
                }
            }
        }
    }

    fn pods_of_peer(&mut self, peer: &PodPeer) {
        let Some(pods) = peer.pods.as_ref().filter(|pods| !pods.requirements.is_empty()) else { return };
        if !self.pods_with(peer).is_empty() {
            return;
        }
        let own = &self.policy.namespace;
        let (namespaces, who) = match &peer.namespaces {
            None => (vec![own.as_str()], format!("pod of namespace {own}")),
            Some(selector) => {
                let namespaces = self.namespaces_with(selector);
                let who = match namespaces.as_slice() {
                    [one] => format!("pod of namespace {one}"),
                    many => format!("pod of namespaces {}", many.join(", ")),
                };
                (namespaces, who)
            }
        };
        let here: Vec<&[&PodFacts]> = namespaces.iter().map(|namespace| self.pods_of(namespace)).collect();
        let labels: Vec<&Labels> = here.iter().copied().flatten().map(|pod| &pod.labels).collect();
        if labels.is_empty() {
            return;
        }
        let hint = hint(pods, &labels, &who);
        // Every namespace there is may hold more pods than these manifests make.
        let is_whole = match &peer.namespaces {
            None => true,
            Some(selector) => !selector.requirements.is_empty() && here.iter().all(|pods| !pods.is_empty()),
        };
        if !is_whole && !hint.is_slip {
            return;
        }
        let field = format!("{}.podSelector", peer.path);
        let mut right = hint.right;
        if peer.namespaces.is_none()
            && let Some(namespace) = self.elsewhere(pods)
        {
            right = format!(
                "pods with {} are in namespace {namespace}, and a podSelector alone means the policy's own: add \
                 namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}} to the same item",
                crate::explain::selector(pods)
            );
        }
        let field = hint.key.map_or_else(|| field.clone(), |key| self.label_field(&field, &key));
        self.find("peer-matches-nothing", field, hint.wrong, right);
    }

    /// Another namespace that has such a pod.
    pub(super) fn elsewhere(&self, pods: &Selector) -> Option<String> {
        let own = &self.policy.namespace;
        let mut others = self.input.world.pods().filter(|pod| pod.namespace != *own);
        others.find(|pod| pods.matches(&pod.labels)).map(|pod| pod.namespace.clone())
    }

    /// Blocks that let in, or out to, more than their text shows.
    pub(super) fn blocks(&mut self, spec: &NetworkPolicySpec) {
        for (path, peers) in peer_lists(spec) {
            for (index, peer) in peers.iter().enumerate() {
                let Some(block) = &peer.ip_block else { continue };
                let Ok(cidr) = block.cidr.parse::<ipnet::IpNet>() else { continue };
                let field = format!("{path}[{index}].ipBlock.cidr");
                let all = block.except.iter().flatten();
                let except: Vec<ipnet::IpNet> = all.filter_map(|text| text.parse().ok()).collect();
                for range in self.input.pod_cidrs {
                    if except.iter().any(|except| except.contains(range)) {
                        continue;
                    }
                    if range.contains(&cidr) {
                        self.find(
                            "block-of-pods",
                            &field,
                            format!("{cidr} is of the pod range {range}, and pods change their addresses"),
                            "select pods by their labels: podSelector, with namespaceSelector for other namespaces",
                        );
                    // `0.0.0.0/0` is how people write everyone; with exceptions it was to be less.
                    } else if cidr.contains(range) && (cidr.prefix_len() > 0 || !except.is_empty()) {
                        self.find(
                            "block-of-pods",
                            &field,
                            format!("{cidr} holds the pod range {range}: every pod is meant, too"),
                            format!("where only addresses outside are meant, add {range} to except"),
                        );
                    }
                }
            }
        }
    }
}

impl PodPeer {
    /// `None`: it is for no pods, or a warning says what is wrong with it.
    fn new(path: String, peer: &NetworkPolicyPeer) -> Option<Self> {
        let is_empty = peer.namespace_selector.is_none() && peer.pod_selector.is_none();
        if peer.ip_block.is_some() || is_empty {
            return None;
        }
        let (namespaces, pods) = (peer.namespace_selector.as_ref(), peer.pod_selector.as_ref());
        let found = Self { path, namespaces: selector(namespaces), pods: selector(pods) };
        let is_valid =
            found.namespaces.is_some() == namespaces.is_some() && found.pods.is_some() == pods.is_some();
        is_valid.then_some(found)
    }
}

/// Every list of peers with its path, of the directions that isolate.
pub(super) fn peer_lists(spec: &NetworkPolicySpec) -> Vec<(String, &[NetworkPolicyPeer])> {
    let ingress = spec.ingress.iter().flatten().enumerate().map(|(index, rule)| {
        (format!("spec.ingress[{index}].from"), rule.from.as_deref().unwrap_or_default())
    });
    let egress =
        spec.egress.iter().flatten().enumerate().map(|(index, rule)| {
            (format!("spec.egress[{index}].to"), rule.to.as_deref().unwrap_or_default())
        });
    ingress.chain(egress).collect()
}

/// The pod peers of one list; `None` where it has others, too, or none.
pub(super) fn only_pods(path: &str, peers: &[NetworkPolicyPeer]) -> Option<Vec<PodPeer>> {
    let peers = peers.iter().enumerate().map(|(index, peer)| PodPeer::new(format!("{path}[{index}]"), peer));
    peers.collect::<Option<Vec<_>>>().filter(|peers| !peers.is_empty())
}
