//! Services: rows for every virtual address and port, and the backends behind them.

use std::collections::{BTreeMap, BTreeSet};

use common::id::BackendSetId;
use common::net::{Addr, Be16};
use common::service::{BackendKey, BackendRow, ServiceKey, ServiceRow};

use crate::facts::{NamedPort, ServiceFacts, SliceEndpoint, SliceFacts};
use crate::id::content_id;
use crate::tables::Tables;
use crate::warning::Warning;
use crate::world::{Name, World};

/// Adds the rows of every Service. Where two want one address and port, the first by name has it.
pub(crate) fn compile(world: &World, tables: &mut Tables, warnings: &mut BTreeSet<Warning>) {
    let mut slices: BTreeMap<(&str, &str), Vec<&SliceFacts>> = BTreeMap::new();
    for slice in world.slices.values() {
        slices.entry((&slice.namespace, &slice.service)).or_default().push(slice);
    }
    let mut owners: BTreeMap<ServiceKey, &Name> = BTreeMap::new();
    for (name, service) in &world.services {
        let slices = slices.get(&(name.0.as_str(), name.1.as_str())).map_or(&[][..], Vec::as_slice);
        for port in &service.ports {
            let backends = backends(service, port, slices, world.node_name());
            for ip in &service.ips {
                let addr = Addr::from(*ip);
                let key = ServiceKey { addr, port: port.number.into(), protocol: port.protocol, zero: 0 };
                if let Some(owner) = owners.get(&key) {
                    warnings.insert(taken(name, &key, owner));
                    continue;
                }
                owners.insert(key, name);
                let (row, backends) = row(&backends, key, service.affinity_s);
                tables.services.insert(key, row);
                tables.backends.extend(backends);
            }
        }
    }
}

/// What is said to a Service whose address and port another one has.
pub(crate) fn taken(name: &Name, key: &ServiceKey, owner: &Name) -> Warning {
    Warning {
        object: format!("Service {}/{}", name.0, name.1),
        field: "spec.ports".to_owned(),
        message: format!(
            "{} port {} is already Service {}/{}'s: expected an address and port of its own",
            key.addr.to_ip(),
            key.port.to_host(),
            owner.0,
            owner.1
        ),
    }
}

/// The ready backends of one port; where there are none, those that still serve while they terminate.
pub(crate) fn backends(
    service: &ServiceFacts,
    port: &NamedPort,
    slices: &[&SliceFacts],
    node: &str,
) -> BTreeSet<(Addr, Be16)> {
    let chosen = |accepts: fn(&SliceEndpoint) -> bool| -> BTreeSet<(Addr, Be16)> {
        let mut found = BTreeSet::new();
        for slice in slices {
            let numbers =
                slice.ports.iter().filter(|of| of.name == port.name && of.protocol == port.protocol);
            for number in numbers.map(|of| of.number) {
                let endpoints = slice.endpoints.iter().filter(|endpoint| accepts(endpoint));
                let near =
                    endpoints.filter(|endpoint| !service.local || endpoint.node.as_deref() == Some(node));
                found.extend(near.map(|endpoint| (Addr::from(endpoint.ip), Be16::new(number))));
            }
        }
        found
    };
    let ready = chosen(|endpoint| endpoint.ready);
    if ready.is_empty() { chosen(|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
}

/// The row of one virtual address and port, and those of its backends.
pub(crate) type Rows = (ServiceRow, Vec<(BackendKey, BackendRow)>);

pub(crate) fn row(backends: &BTreeSet<(Addr, Be16)>, key: ServiceKey, affinity_s: u32) -> Rows {
    // An address of one family is never translated to the other.
    let family = backends.iter().filter(|(addr, _)| addr.is_v4() == key.addr.is_v4()).copied();
    let family: Vec<(Addr, Be16)> = family.collect();
    let set = BackendSetId::new(content_id("backends", &format!("{family:?}")));
    let rows = (0..)
        .zip(family)
        .map(|(index, (addr, port))| (BackendKey { set, index }, BackendRow { addr, port, zero: [0; 2] }));
    let rows: Vec<_> = rows.collect();
    // As many as there are numbers.
    (ServiceRow { backends: set, count: rows.len() as u32, affinity_s }, rows)
}
