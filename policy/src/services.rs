//! Services: rows for every virtual address and port, and the backends behind them.

use std::collections::{BTreeMap, BTreeSet};

use common::id::BackendSetId;
use common::net::{Addr, Be16};
use common::service::{BackendKey, BackendRow, ServiceKey, ServiceRow};

use crate::facts::{NamedPort, ServiceFacts, SliceEndpoint, SliceFacts};
use crate::id::content_id;
use crate::tables::Tables;
use crate::warning::Warning;
use crate::world::World;

/// Adds the rows of every Service. Where two want one address and port, the first by name has it.
pub(crate) fn compile(world: &World, tables: &mut Tables, warnings: &mut BTreeSet<Warning>) {
    let mut slices: BTreeMap<(&str, &str), Vec<&SliceFacts>> = BTreeMap::new();
    for slice in world.slices.values() {
        slices.entry((&slice.namespace, &slice.service)).or_default().push(slice);
    }
    let mut owners: BTreeMap<ServiceKey, String> = BTreeMap::new();
    for ((namespace, name), service) in &world.services {
        let slices = slices.get(&(namespace.as_str(), name.as_str())).map_or(&[][..], Vec::as_slice);
        for port in &service.ports {
            let backends = backends(service, port, slices, world.node_name());
            for ip in &service.ips {
                let addr = Addr::from(*ip);
                let key = ServiceKey { addr, port: port.number.into(), protocol: port.protocol, zero: 0 };
                if let Some(owner) = owners.get(&key) {
                    warnings.insert(Warning {
                        object: format!("Service {namespace}/{name}"),
                        field: "spec.ports".to_owned(),
                        message: format!(
                            "{ip} port {} is already Service {owner}'s: expected an address and port of its own",
                            port.number
                        ),
                    });
                    continue;
                }
                owners.insert(key, format!("{namespace}/{name}"));
                // An address of one family is never translated to the other.
                let family = backends.iter().filter(|(addr, _)| addr.is_v4() == ip.is_ipv4()).copied();
                let row = row(&family.collect::<Vec<_>>(), service.affinity_s, tables);
                tables.services.insert(key, row);
            }
        }
    }
}

/// The ready backends of one port; where there are none, those that still serve while they terminate.
fn backends(
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

fn row(backends: &[(Addr, Be16)], affinity_s: u32, tables: &mut Tables) -> ServiceRow {
    let set = BackendSetId::new(content_id("backends", &format!("{backends:?}")));
    let mut count = 0;
    for (addr, port) in backends.iter().copied() {
        tables.backends.insert(BackendKey { set, index: count }, BackendRow { addr, port, zero: [0; 2] });
        count += 1;
    }
    ServiceRow { backends: set, count, affinity_s }
}
