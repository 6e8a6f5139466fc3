//! Policies that are for nobody.

use super::Look;
use super::hints::hint;
use crate::selector::Labels;

const FIELD: &str = "spec.podSelector";

impl Look<'_> {
    pub(super) fn selection(&mut self) {
        let (policy, namespace) = (self.policy, &self.policy.namespace);
        let pods = self.pods_of(namespace);
        let matching: Vec<_> = pods.iter().filter(|pod| policy.pods.matches(&pod.labels)).collect();
        if !matching.is_empty() {
            if matching.iter().all(|pod| pod.host_network) {
                self.find(
                    "selects-host-network",
                    FIELD,
                    format!(
                        "every pod that it selects lives on its node's network ({}/{}): no policy applies to it",
                        matching[0].namespace, matching[0].name
                    ),
                    "take hostNetwork from the pod, or guard the node itself",
                );
            }
            return;
        }
        // A selector that could not be read selects everything, and a warning speaks of it.
        if policy.pods.requirements.is_empty() {
            return;
        }
        if pods.is_empty() {
            let elsewhere = self.input.world.pods().find(|pod| policy.pods.matches(&pod.labels));
            if let Some(pod) = elsewhere {
                self.find(
                    "selects-nothing",
                    FIELD,
                    format!("namespace {namespace} has no pods here, and a policy selects pods of its own namespace"),
                    format!(
                        "pods with {} are in namespace {}: set metadata.namespace: {}",
                        crate::explain::selector(&policy.pods),
                        pod.namespace,
                        pod.namespace
                    ),
                );
            }
            return;
        }
        let labels: Vec<&Labels> = pods.iter().map(|pod| &pod.labels).collect();
        let hint = hint(&policy.pods, &labels, &format!("pod of namespace {namespace}"));
        let field = hint.key.map_or_else(|| FIELD.to_owned(), |key| self.label_field(FIELD, &key));
        self.find("selects-nothing", field, format!("{}: the policy is for nobody", hint.wrong), hint.right);
    }
}
