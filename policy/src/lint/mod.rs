//! The classic mistakes in NetworkPolicies, named before they are in force.
//!
//! A finding is what a reader would agree is wrong, so nothing is said of what these manifests cannot know: where no pod
//! of a namespace is among them, a selector for that namespace may well match something elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;
use serde_json::Value;

use crate::facts::PodFacts;
use crate::model::Policy;
use crate::object::{Kind, ObjectKey};
use crate::places::Places;
use crate::selector::Selector;
use crate::world::World;

mod alternatives;
mod dns;
mod hints;
mod namespaces;
mod peers;
mod ports;
mod selection;
mod shape;

/// What is looked at.
pub struct Input<'a> {
    /// With the pods that the manifests make, and none that they do not.
    pub world: &'a World,
    pub places: &'a Places,
    /// The NetworkPolicy objects as they are written, with namespace and name.
    pub policies: &'a [Value],
    /// Where each pod listens, by `namespace/name`: protocol and port, whether or not the port has a name.
    pub listening: &'a BTreeMap<String, Vec<(u8, u16)>>,
    /// The namespaces that the manifests declare.
    pub namespaces: &'a BTreeSet<String>,
    /// The cluster's pod ranges, where they are known.
    pub pod_cidrs: &'a [IpNet],
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which of the classic ones: `selects-nothing`.
    pub lint: &'static str,
    /// `NetworkPolicy shop/web`.
    pub object: String,
    /// `spec.ingress[0].from[1].podSelector.matchLabels.app`.
    pub field: String,
    /// `FILE:LINE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

/// Every finding, in the order of files and lines.
pub fn lint(input: &Input<'_>) -> Vec<Finding> {
    let mut pods: BTreeMap<&str, Vec<&PodFacts>> = BTreeMap::new();
    for pod in input.world.pods().filter(|pod| !pod.finished) {
        pods.entry(&pod.namespace).or_default().push(pod);
    }
    let mut findings = Vec::new();
    for raw in input.policies {
        let text = |field: &str| raw["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        if let Some(policy) = input.world.policies.get(&(namespace.clone(), name.clone())) {
            let key = ObjectKey { kind: Kind::NetworkPolicy, namespace: Some(namespace), name };
            let object = key.to_string();
            let mut look = Look { input, pods: &pods, policy, raw, object, findings: Vec::new() };
            look.all();
            findings.append(&mut look.findings);
        }
    }
    let place = |finding: &Finding| {
        let place = input.places.find(&finding.object, &finding.field);
        place.map(|(origin, line)| (origin.to_owned(), line))
    };
    findings.sort_by_cached_key(|finding| (place(finding), finding.field.clone()));
    findings.dedup();
    findings
}

/// A look at one policy.
struct Look<'a> {
    input: &'a Input<'a>,
    /// The live pods of each namespace that has any.
    pods: &'a BTreeMap<&'a str, Vec<&'a PodFacts>>,
    policy: &'a Policy,
    raw: &'a Value,
    object: String,
    findings: Vec<Finding>,
}

/// One item of `from` or `to` that is for pods.
struct PodPeer {
    /// `spec.ingress[0].from[1]`.
    path: String,
    namespaces: Option<Selector>,
    pods: Option<Selector>,
}

impl<'a> Look<'a> {
    fn all(&mut self) {
        self.shape();
        self.selection();
        // Where a type is wrong, the warning about it is the finding.
        let Ok(spec) = serde_json::from_value::<NetworkPolicySpec>(self.raw["spec"].clone()) else { return };
        self.peers(&spec);
        self.ports(&spec);
        self.dns();
        self.blocks(&spec);
    }

    fn find(
        &mut self,
        lint: &'static str,
        field: impl Into<String>,
        wrong: impl Into<String>,
        right: impl Into<String>,
    ) {
        let (object, field) = (self.object.clone(), field.into());
        let at = self.input.places.of(&object, &field);
        self.findings.push(Finding { lint, object, field, at, wrong: wrong.into(), right: right.into() });
    }

    /// The live pods of a namespace.
    fn pods_of(&self, namespace: &str) -> &'a [&'a PodFacts] {
        self.pods.get(namespace).map(Vec::as_slice).unwrap_or_default()
    }

    /// The live pods that the policy is for.
    fn selected(&self) -> Vec<&'a PodFacts> {
        let pods = self.pods_of(&self.policy.namespace).iter().copied();
        pods.filter(|pod| !pod.host_network && self.policy.pods.matches(&pod.labels)).collect()
    }

    /// The namespaces that hold pods or are declared, and meet the selector.
    fn namespaces_with(&self, selector: &Selector) -> Vec<&'a str> {
        let world = self.input.world;
        let all = world.namespaces.iter().filter(|(_, labels)| selector.matches(labels));
        all.map(|(name, _)| name.as_str()).collect()
    }

    /// The pods that a peer means, among those at hand.
    fn pods_with(&self, peer: &PodPeer) -> Vec<&'a PodFacts> {
        let namespaces = match &peer.namespaces {
            None => vec![self.policy.namespace.as_str()],
            Some(selector) => self.namespaces_with(selector),
        };
        let pods = namespaces.into_iter().flat_map(|namespace| self.pods_of(namespace));
        let is_meant = |pod: &&PodFacts| {
            !pod.host_network && peer.pods.as_ref().is_none_or(|pods| pods.matches(&pod.labels))
        };
        pods.copied().filter(is_meant).collect()
    }

    /// Where a selector's requirement for a label is written, or the selector where it is none of `matchLabels`.
    fn label_field(&self, selector: &str, key: &str) -> String {
        let labels = format!("{selector}.matchLabels");
        match value_at(self.raw, &labels).and_then(|labels| labels.get(key)) {
            Some(_) => format!("{labels}.{key}"),
            None => selector.to_owned(),
        }
    }
}

/// What stands at a path such as `spec.ingress[0].from`.
fn value_at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split(['.', '[']).try_fold(value, |value, part| match part.strip_suffix(']') {
        Some(index) => value.get(index.parse::<usize>().ok()?),
        None => value.get(part),
    })
}

/// `None`: there is none, or it is not valid, of which a warning speaks.
fn selector(selector: Option<&LabelSelector>) -> Option<Selector> {
    selector.and_then(|selector| Selector::new(selector).ok())
}
