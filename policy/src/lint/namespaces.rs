//! Namespaces that are selected by labels that they do not have.

use super::hints::hint;
use super::{Look, PodPeer};
use crate::selector::{Labels, Requirement, Selector, Test};
use crate::spelling;

/// The label that every namespace has from the API server.
const NAME: &str = "kubernetes.io/metadata.name";
/// Namespaces that every cluster has.
const EVERYWHERE: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
/// Keys that people take for [`NAME`].
const TAKEN_FOR_NAME: [&str; 5] =
    ["name", "metadata.name", "kubernetes.io/name", "kubernetes.io/namespace", "namespace"];

impl Look<'_> {
    /// Whether something was found.
    pub(super) fn namespace_of(&mut self, peer: &PodPeer) -> bool {
        let Some(selector) = peer.namespaces.as_ref().filter(|selector| !selector.requirements.is_empty())
        else {
            return false;
        };
        if !self.namespaces_with(selector).is_empty() {
            return false;
        }
        let field = format!("{}.namespaceSelector", peer.path);
        let world = self.input.world;
        let labels: Vec<&Labels> = world.namespaces.values().collect();
        for requirement in &selector.requirements {
            if let Some((wrong, right)) = self.slip(requirement, &labels) {
                let field = self.label_field(&field, &requirement.key);
                self.find("namespace-matches-nothing", field, wrong, right);
                return true;
            }
        }
        if !self.knows_others(selector) {
            return false;
        }
        let hint = hint(selector, &labels, "namespace");
        let field = hint.key.map_or_else(|| field.clone(), |key| self.label_field(&field, &key));
        self.find("namespace-matches-nothing", field, hint.wrong, hint.right);
        true
    }

    /// What is wrong with a requirement wherever the other namespaces are declared.
    fn slip(&self, requirement: &Requirement, labels: &[&Labels]) -> Option<(String, String)> {
        let Test::In(values) = &requirement.test else { return None };
        let (key, value) = (&requirement.key, values.first()?);
        let is_used = labels.iter().any(|labels| labels.get(key).is_some());
        let names = || labels.iter().filter_map(|labels| labels.get(NAME)).chain(EVERYWHERE);
        if key == NAME {
            if names().any(|name| name == value) {
                return None;
            }
            let near = names().find(|name| spelling::is_near(name, value))?;
            return Some((format!("no namespace is called {value}"), format!("did you mean {near}?")));
        }
        if is_used {
            return None;
        }
        if TAKEN_FOR_NAME.contains(&key.as_str()) || spelling::is_near(key, NAME) {
            return Some((
                format!("no namespace here has a label {key}: Kubernetes sets {NAME}"),
                format!("expected {NAME}: {value}"),
            ));
        }
        None
    }

    /// Whether the manifests declare namespaces other than the policy's own: those that they do not declare may have any
    /// label, and one that is named exactly may be anywhere.
    fn knows_others(&self, selector: &Selector) -> bool {
        let names_one = selector.requirements.iter().any(|requirement| requirement.key == NAME);
        !names_one && self.input.namespaces.iter().any(|name| *name != self.policy.namespace)
    }
}
