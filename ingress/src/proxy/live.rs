//! The compiled world with what only lives at run time: the load of each endpoint, which outlasts generations.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::balance::Load;
use crate::compile::{Cluster, Compiled, Protocol, Route};
use crate::route::Table;
use crate::tls::Certificates;

/// What is served; immutable, but for the endpoints' load.
#[derive(Default)]
pub struct Snapshot {
    pub(super) table: Table<Arc<Route>>,
    pub(super) clusters: Vec<LiveCluster>,
    pub(super) certificates: Certificates,
}

pub(super) struct LiveCluster {
    pub(super) name: String,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// Those that end: for clients whose cookie names them.
    pub(super) draining: Vec<Arc<Endpoint>>,
    pub(super) protocol: Protocol,
    pub(super) empty: Option<String>,
}

/// An address that requests are given to, and how it is doing.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    /// What a cookie calls it: the same in every process, and no address to read from it.
    pub(super) mark: u64,
    pub(super) load: Load,
}

/// The endpoints of the last generation, so that the next one knows their load.
#[derive(Default)]
pub(super) struct Registry {
    endpoints: HashMap<(SocketAddr, Protocol), Arc<Endpoint>>,
}

impl Registry {
    pub(super) fn snapshot(&mut self, compiled: Compiled, certificates: Certificates) -> Snapshot {
        let mut last = std::mem::take(&mut self.endpoints);
        let mut of = |address: &SocketAddr, protocol| {
            let key = (*address, protocol);
            let endpoint = self.endpoints.entry(key).or_insert_with(|| {
                last.remove(&key).unwrap_or_else(|| {
                    let (mark, load) = (mark(address), Load::default());
                    Arc::new(Endpoint { address: *address, protocol, mark, load })
                })
            });
            Arc::clone(endpoint)
        };
        let clusters = compiled
            .clusters
            .into_iter()
            .map(|Cluster { name, protocol, endpoints, draining, empty }| LiveCluster {
                endpoints: endpoints.iter().map(|address| of(address, protocol)).collect(),
                draining: draining.iter().map(|address| of(address, protocol)).collect(),
                name,
                protocol,
                empty,
            })
            .collect();
        Snapshot { table: compiled.table, clusters, certificates }
    }
}

/// FNV-1a, twice mixed: replicas of the proxy must agree.
fn mark(address: &SocketAddr) -> u64 {
    let text = address.to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    super::balance::mix(super::balance::mix(hash))
}
