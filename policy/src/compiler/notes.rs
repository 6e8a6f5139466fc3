//! What has to be said about the world as a whole: pods that nobody knows, namespaces that nobody declared.

use std::collections::BTreeMap;

use crate::compile::{undeclared_namespace, unknown_pod};
use crate::dirty::Dirty;
use crate::warning::Warning;
use crate::world::{Interface, World, of_namespace};

#[derive(Debug, Default)]
pub(super) struct Notes {
    unknown: BTreeMap<Interface, Warning>,
    undeclared: BTreeMap<String, Warning>,
}

impl Notes {
    /// Whether anything is to be said that was not, or was said and is so no more.
    pub(super) fn update(&mut self, world: &World, dirty: &Dirty) -> bool {
        let mut changed = false;
        for interface in &dirty.interfaces {
            let warning = world.attached_at(interface).and_then(unknown_pod);
            changed |= put(&mut self.unknown, interface, warning);
        }
        for namespace in &dirty.populated {
            let pod = world.pods_of(namespace).next().map(|pod| ("Pod", pod.name.as_str()));
            let policies = of_namespace(&world.policies, namespace);
            let first =
                pod.or_else(|| policies.map(|(_, policy)| ("NetworkPolicy", policy.name.as_str())).next());
            let warning = first.and_then(|(kind, name)| undeclared_namespace(world, namespace, kind, name));
            changed |= put(&mut self.undeclared, namespace, warning);
        }
        changed
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Warning> {
        self.unknown.values().chain(self.undeclared.values())
    }
}

fn put<K: Clone + Ord>(notes: &mut BTreeMap<K, Warning>, key: &K, warning: Option<Warning>) -> bool {
    let before = match &warning {
        Some(warning) => notes.insert(key.clone(), warning.clone()),
        None => notes.remove(key),
    };
    before != warning
}
