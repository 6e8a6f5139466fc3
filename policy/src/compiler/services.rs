//! The rows of Services, one by one: where two want one address and port, the first by name has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use common::id::BackendSetId;
use common::net::Addr;
use common::service::{BackendKey, ServiceKey};

use crate::changes::Changes;
use crate::facts::SliceFacts;
use crate::services::{Rows, backends, row, taken};
use crate::warning::Warning;
use crate::world::{Name, World, of_namespace};

#[derive(Debug, Default)]
pub(super) struct Services {
    /// Who wants an address and port.
    wanted: BTreeMap<ServiceKey, BTreeSet<Name>>,
    /// What each wants.
    keys: BTreeMap<Name, BTreeSet<ServiceKey>>,
    /// The backends of the rows that there are, and how many.
    rows: BTreeMap<ServiceKey, (BackendSetId, u32)>,
    /// How many rows have a set of backends.
    users: HashMap<BackendSetId, usize>,
    warnings: BTreeMap<Name, Vec<Warning>>,
    warnings_changed: bool,
}

impl Services {
    pub(super) fn update(&mut self, world: &World, dirty: &BTreeSet<Name>, pending: &mut Changes) {
        self.warnings_changed = false;
        let mut keys: BTreeSet<ServiceKey> = BTreeSet::new();
        for name in dirty {
            keys.extend(self.replace(world, name));
        }
        let concerned: BTreeSet<Name> =
            keys.iter().filter_map(|key| self.wanted.get(key)).flatten().chain(dirty).cloned().collect();
        let mut slices = Slices::default();
        let mut left: Vec<(BackendSetId, u32)> = Vec::new();
        for key in &keys {
            let owner = self.wanted.get(key).and_then(BTreeSet::first);
            let new = owner.and_then(|name| desired(world, &mut slices, name, *key));
            let old = self.rows.remove(key);
            if let Some((row, _)) = &new {
                self.rows.insert(*key, (row.backends, row.count));
                *self.users.entry(row.backends).or_default() += 1;
            }
            left.extend(old);
            pending.services.insert(*key, new.as_ref().map(|(row, _)| *row));
            for (key, row) in new.into_iter().flat_map(|(_, backends)| backends) {
                pending.backends.insert(key, Some(row));
            }
        }
        for (set, count) in left {
            let users = self.users.entry(set).or_default();
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.users.remove(&set);
                pending.backends.extend((0..count).map(|index| (BackendKey { set, index }, None)));
            }
        }
        for name in concerned {
            self.complain(world, name);
        }
    }

    pub(super) fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.warnings.values().flatten()
    }

    pub(super) fn warnings_changed(&self) -> bool {
        self.warnings_changed
    }

    /// Takes in what a Service wants now. Every key that it wants or wanted.
    fn replace(&mut self, world: &World, name: &Name) -> BTreeSet<ServiceKey> {
        let mut touched = self.keys.remove(name).unwrap_or_default();
        for key in &touched {
            if let Some(names) = self.wanted.get_mut(key) {
                names.remove(name);
                if names.is_empty() {
                    self.wanted.remove(key);
                }
            }
        }
        let keys: BTreeSet<ServiceKey> = wants(world, name).collect();
        for key in &keys {
            self.wanted.entry(*key).or_default().insert(name.clone());
        }
        touched.extend(&keys);
        if !keys.is_empty() {
            self.keys.insert(name.clone(), keys);
        }
        touched
    }

    /// Names what a Service wants and does not get, be it that it wants it twice.
    fn complain(&mut self, world: &World, name: Name) {
        let mut warnings = Vec::new();
        let mut had: BTreeSet<ServiceKey> = BTreeSet::new();
        for key in wants(world, &name) {
            let owner = self.wanted.get(&key).and_then(BTreeSet::first);
            if let Some(owner) = owner.filter(|owner| **owner != name || !had.insert(key)) {
                warnings.push(taken(&name, &key, owner));
            }
        }
        let before = if warnings.is_empty() {
            self.warnings.remove(&name)
        } else {
            self.warnings.insert(name, warnings.clone())
        };
        self.warnings_changed |= before.unwrap_or_default() != warnings;
    }
}

/// Every address and port that a Service wants, in order; twice where it says so twice.
fn wants<'a>(world: &'a World, name: &Name) -> impl Iterator<Item = ServiceKey> + 'a {
    let service = world.services.get(name).into_iter();
    service.flat_map(|service| {
        service.ports.iter().flat_map(|port| {
            service.ips.iter().map(|ip| ServiceKey {
                addr: Addr::from(*ip),
                port: port.number.into(),
                protocol: port.protocol,
                zero: 0,
            })
        })
    })
}

/// The row of a key that this Service has, and its backends'.
fn desired<'a>(world: &'a World, slices: &mut Slices<'a>, name: &Name, key: ServiceKey) -> Option<Rows> {
    let service = world.services.get(name)?;
    let port =
        service.ports.iter().find(|port| key.protocol == port.protocol && key.port == port.number.into())?;
    Some(row(&backends(service, port, slices.of(world, name), world.node_name()), key, service.affinity_s))
}

/// The slices of Services, for as many namespaces as were asked for.
#[derive(Default)]
struct Slices<'a>(HashMap<String, HashMap<&'a str, Vec<&'a SliceFacts>>>);

impl<'a> Slices<'a> {
    fn of(&mut self, world: &'a World, (namespace, service): &Name) -> &[&'a SliceFacts] {
        let by_service = self.0.entry(namespace.clone()).or_insert_with(|| {
            let mut by_service: HashMap<&str, Vec<&SliceFacts>> = HashMap::new();
            for (_, slice) in of_namespace(&world.slices, namespace) {
                by_service.entry(&slice.service).or_default().push(slice);
            }
            by_service
        });
        by_service.get(service.as_str()).map_or(&[], Vec::as_slice)
    }
}
