//! The compiler that remembers: what an event does not touch is neither looked at nor written.
//!
//! What must come out is what [`compile`](crate::compile::compile) says, which knows nothing of before; the plan is what
//! [`plan`](crate::plan::plan) says, made of the changes alone. In between stand, each kept up to date by its own file:
//!
//! ```text
//! policies ─▶ rule sets of endpoints ─▶ terms in use ─▶ class of each address and block ─▶ rows of (rule set, class)
//! ```
//!
//! It holds no copy of the tables: what differs from the maps is *pending* until somebody says that it was carried out. A
//! plan that was refused is so tried again with the next.

mod blocks;
mod classes;
mod endpoints;
mod index;
mod notes;
mod peers;
mod rows;
mod services;

use std::collections::BTreeSet;

use common::id::{RuleId, RuleSetId};
use common::net::Addr;

use crate::changes::Changes;
use crate::class::Terms;
use crate::dirty::Dirty;
use crate::names::Names;
use crate::plan::{Leftovers, order};
use crate::tables::{MapOp, Tables};
use crate::warning::Warning;
use crate::world::World;

/// One for each world; it remembers what it has made of it.
#[derive(Debug, Default)]
pub struct Compiler {
    terms: Terms,
    endpoints: endpoints::Endpoints,
    peers: peers::Peers,
    services: services::Services,
    notes: notes::Notes,
    /// What the maps do not hold yet.
    pending: Changes,
    retiring: Retired,
    /// Nothing has been compiled, or what the maps hold is not what was left there.
    lost: Lost,
}

/// What of the things remembered can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lost {
    Nothing,
    #[default]
    Everything,
}

/// What has to be done about the changes of a world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The writes that are due, in order; empty where the maps hold what they must.
    pub plan: Vec<MapOp>,
    /// Names that are new, or have changed. Learned before the plan is in force: flows follow at once.
    pub names: Names,
    /// All of them, in order, each once; `None` where they are as before.
    pub warnings: Option<Vec<Warning>>,
}

/// Numbers that the maps no longer use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    pub rules: BTreeSet<RuleId>,
    pub rule_sets: BTreeSet<RuleSetId>,
}

impl Compiler {
    /// One that knows nothing yet: its first update looks at everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what has changed in the world since the last call. `actual` is what the maps hold: what they held then, and
    /// the last plan if it was carried out.
    pub fn update(&mut self, world: &mut World, actual: &Tables) -> Update {
        let changes = world.take_changes();
        let (dirty, lost) = match changes {
            Some(dirty) if self.lost == Lost::Nothing => (dirty, Lost::Nothing),
            _ => {
                self.start_over();
                (everything(world), Lost::Everything)
            }
        };
        let mut update = Update::default();
        self.compile(world, actual, &dirty, lost, &mut update);
        if lost == Lost::Everything {
            self.pending.complete(actual);
        }
        self.pending.prune(actual);
        let leftovers = if lost == Lost::Everything { Leftovers::Possible } else { Leftovers::None };
        update.plan = order(actual, &self.pending, leftovers);
        self.lost = Lost::Nothing;
        update
    }

    /// The last plan was carried out, whole. What the maps use no longer may be forgotten by others, too.
    pub fn carried_out(&mut self) -> Retired {
        self.pending = Changes::default();
        std::mem::take(&mut self.retiring)
    }

    /// The last plan was carried out in part, or the maps were written by others: the next update looks at everything.
    pub fn start_again(&mut self) {
        self.lost = Lost::Everything;
    }

    fn start_over(&mut self) {
        let mut retiring = std::mem::take(&mut self.retiring);
        self.endpoints.retire_all(&mut retiring);
        *self = Self { retiring, ..Self::default() };
    }

    fn compile(&mut self, world: &World, actual: &Tables, dirty: &Dirty, lost: Lost, update: &mut Update) {
        let whole = lost == Lost::Everything;
        let sets = self.endpoints.update(world, dirty, whole, &mut self.terms);
        let mut addresses = dirty.addresses.clone();
        self.peers.take_terms(&self.terms, &sets.terms, &mut self.pending);
        if !whole {
            for namespace in &dirty.namespaces {
                addresses.extend(world.pods_of(namespace).flat_map(|pod| world.addresses_of(pod)));
            }
            self.peers.moved_by(world, &self.terms, &sets.terms, &mut addresses);
        }
        for ip in &addresses {
            let class = self.peers.classify(world, &self.terms, *ip);
            self.pending.peers.insert(Addr::from(*ip), class);
        }
        for ip in addresses.iter().chain(&sets.addresses) {
            let row = world.holder(*ip).and_then(|attached| self.endpoints.row(attached));
            self.pending.endpoints.insert(Addr::from(*ip), row);
        }
        let classes = self.peers.classes.settle();
        rows::update(&mut self.endpoints, &self.peers.classes, &sets, &classes, actual, &mut self.pending);
        self.peers.classes.free(classes.died);
        sets.terms.removed.iter().for_each(|term| self.terms.free(*term));

        self.services.update(world, &dirty.services, &mut self.pending);
        self.endpoints.name(&sets, &mut update.names, &mut self.retiring);
        let changed = self.notes.update(world, dirty) | self.services.warnings_changed() | dirty.warnings;
        update.warnings = changed.then(|| {
            let mut all: BTreeSet<Warning> = world.warnings().chain(self.notes.iter()).cloned().collect();
            all.extend(self.services.warnings().cloned());
            all.into_iter().collect()
        });
    }
}

fn everything(world: &World) -> Dirty {
    let policies = world.policies.keys().cloned().collect();
    let services = world.services.keys().cloned().collect();
    let pods = world.pods().map(|pod| pod.namespace.clone());
    Dirty {
        namespaces: BTreeSet::new(),
        populated: pods.chain(world.policies.keys().map(|(namespace, _)| namespace.clone())).collect(),
        policies,
        interfaces: world.interfaces().cloned().collect(),
        addresses: world.addresses().collect(),
        services,
        warnings: true,
    }
}
