//! AND where OR was meant, and OR where AND was: two selectors in one item, or in two.

use std::collections::BTreeSet;

use super::{Look, PodPeer};
use crate::selector::{Requirement, Selector, Test};

impl Look<'_> {
    /// The places of items in the list that are explained by this.
    pub(super) fn alternatives(&mut self, path: &str, peers: &[Option<PodPeer>]) -> BTreeSet<usize> {
        let mut explained = BTreeSet::new();
        for (index, pair) in peers.windows(2).enumerate() {
            let [Some(one), Some(other)] = pair else { continue };
            let (namespaces, pods) = match (one, other) {
                (
                    PodPeer { namespaces: Some(n), pods: None, .. },
                    PodPeer { namespaces: None, pods: Some(p), .. },
                )
                | (
                    PodPeer { namespaces: None, pods: Some(p), .. },
                    PodPeer { namespaces: Some(n), pods: None, .. },
                ) => (n, p),
                _ => continue,
            };
            if self.is_meant_as_one(namespaces, pods, peers.len() == 2) {
                let second = format!("{path}[{}]", index + 1);
                let own = &self.policy.namespace;
                let wrong = format!(
                    "two items mean OR: every pod of {}, and pods with {} in namespace {own}",
                    of_namespaces(namespaces),
                    crate::explain::selector(pods)
                );
                let right = format!(
                    "for pods with {} of those namespaces, write both selectors in one item: take the `-` from the second",
                    crate::explain::selector(pods)
                );
                self.find("or-meant-as-and", second, wrong, right);
                explained.extend([index, index + 1]);
            }
        }
        for (index, peer) in peers.iter().enumerate() {
            let Some(PodPeer { path, namespaces: Some(namespaces), pods: Some(pods) }) = peer else {
                continue;
            };
            if self.is_meant_as_two(namespaces, pods) {
                let own = &self.policy.namespace;
                let wrong = format!(
                    "two selectors in one item mean AND, and no pod of {} has {}",
                    of_namespaces(namespaces),
                    crate::explain::selector(pods)
                );
                let right = format!(
                    "pods with {} are in namespace {own}: for either, write two items, each with its own `-`",
                    crate::explain::selector(pods)
                );
                self.find("and-meant-as-or", path.clone(), wrong, right);
                explained.insert(index);
            }
        }
        explained
    }

    /// Whether two items, one for namespaces and one for pods, were to be one.
    fn is_meant_as_one(&self, namespaces: &Selector, pods: &Selector, alone: bool) -> bool {
        if pods.requirements.is_empty() || namespaces.requirements.is_empty() {
            return false;
        }
        let is_dns = |requirement: &Requirement| {
            requirement.key == "k8s-app"
                && matches!(&requirement.test, Test::In(values) if values.contains("kube-dns"))
        };
        let own = self.pods_of(&self.policy.namespace);
        if own.iter().any(|pod| pods.matches(&pod.labels)) {
            return false;
        }
        let there =
            self.namespaces_with(namespaces).into_iter().flat_map(|namespace| self.pods_of(namespace));
        let is_there = there.into_iter().any(|pod| pods.matches(&pod.labels));
        // Without pods to look at, the plain pair is still the classic; with more items it may be a list of three kinds.
        is_there || pods.requirements.iter().any(is_dns) || (own.is_empty() && alone)
    }

    /// Whether one item with both selectors was to be two: together they match nothing, apart both match something.
    fn is_meant_as_two(&self, namespaces: &Selector, pods: &Selector) -> bool {
        let own = self.pods_of(&self.policy.namespace);
        let in_own = own.iter().any(|pod| pods.matches(&pod.labels));
        let there: Vec<_> = self
            .namespaces_with(namespaces)
            .into_iter()
            .flat_map(|namespace| self.pods_of(namespace))
            .collect();
        !pods.requirements.is_empty()
            && in_own
            && !there.is_empty()
            && !there.iter().any(|pod| pods.matches(&pod.labels))
    }
}

fn of_namespaces(selector: &Selector) -> String {
    match selector.requirements.is_empty() {
        true => "any namespace".to_owned(),
        false => format!("namespaces with {}", crate::explain::selector(selector)),
    }
}
