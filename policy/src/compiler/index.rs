//! Finds the terms that a pod matches without trying each.
//!
//! Each term lies in one drawer for each label that its peers could be known by: a pod's label, its namespace's, or its
//! namespace alone. A pod opens the drawers of the labels that it has, and tries what is in there.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::class::{Match, Term, Terms};
use crate::facts::PodFacts;
use crate::model::{Namespaces, Peer};
use crate::selector::Labels;

/// A drawer's label, as a number: where two share one, more is tried than need be.
type Drawer = u64;

#[derive(Debug, Default)]
pub(super) struct Index {
    drawers: HashMap<Drawer, Vec<u32>>,
}

#[derive(Hash)]
enum Label<'a> {
    /// Of pods of a namespace.
    PodIn(&'a str, &'a str, &'a str),
    Pod(&'a str, &'a str),
    /// Every pod of a namespace.
    In(&'a str),
    Namespace(&'a str, &'a str),
    Any,
}

impl Label<'_> {
    fn drawer(&self) -> Drawer {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Index {
    pub(super) fn insert(&mut self, number: u32, term: &Term) {
        for drawer in drawers(term) {
            self.drawers.entry(drawer).or_default().push(number);
        }
    }

    pub(super) fn remove(&mut self, number: u32, term: &Term) {
        for drawer in drawers(term) {
            if let Some(terms) = self.drawers.get_mut(&drawer) {
                terms.retain(|other| *other != number);
                if terms.is_empty() {
                    self.drawers.remove(&drawer);
                }
            }
        }
    }

    /// The terms that a pod matches by what it is, not by where it is.
    pub(super) fn matching(&self, terms: &Terms, pod: &PodFacts, namespace: &Labels) -> Vec<Match> {
        let mut matches = Vec::new();
        let mut open = |label: Label<'_>| {
            for number in self.drawers.get(&label.drawer()).into_iter().flatten() {
                let term = terms.term(*number);
                let term = term.filter(|term| is_one(term, pod, namespace));
                let port = term.and_then(|term| port(term, pod));
                matches.extend(port.map(|port| Match { term: *number, port }));
            }
        };
        for (key, value) in &pod.labels {
            open(Label::PodIn(&pod.namespace, key, value));
            open(Label::Pod(key, value));
        }
        for (key, value) in namespace {
            open(Label::Namespace(key, value));
        }
        open(Label::In(&pod.namespace));
        open(Label::Any);
        matches
    }
}

/// The pod's own number for the term's port name; 0 for a term without, nothing where the pod has no such port.
pub(super) fn port(term: &Term, pod: &PodFacts) -> Option<u16> {
    match &term.named {
        None => Some(0),
        Some((name, protocol)) => pod.port(name, *protocol),
    }
}

/// Whether the term speaks of pods, and of this one.
pub(super) fn is_one(term: &Term, pod: &PodFacts, namespace: &Labels) -> bool {
    match &term.peer {
        None => true,
        Some(Peer::Pods { namespaces, pods }) => {
            is_in(namespaces, &pod.namespace, namespace) && pods.matches(&pod.labels)
        }
        Some(Peer::Block(_)) => false,
    }
}

pub(super) fn is_in(namespaces: &Namespaces, name: &str, labels: &Labels) -> bool {
    match namespaces {
        Namespaces::Named(only) => only == name,
        Namespaces::Matching(selector) => selector.matches(labels),
    }
}

fn drawers(term: &Term) -> Vec<Drawer> {
    let label = match &term.peer {
        Some(Peer::Block(_)) => return Vec::new(),
        None => Label::Any,
        Some(Peer::Pods { namespaces, pods }) => match (namespaces, pods.anchor()) {
            (Namespaces::Named(name), Some((key, values))) => {
                return values.iter().map(|value| Label::PodIn(name, key, value).drawer()).collect();
            }
            (Namespaces::Matching(_), Some((key, values))) => {
                return values.iter().map(|value| Label::Pod(key, value).drawer()).collect();
            }
            (Namespaces::Named(name), None) => Label::In(name),
            (Namespaces::Matching(selector), None) => match selector.anchor() {
                Some((key, values)) => {
                    return values.iter().map(|value| Label::Namespace(key, value).drawer()).collect();
                }
                None => Label::Any,
            },
        },
    };
    vec![label.drawer()]
}
