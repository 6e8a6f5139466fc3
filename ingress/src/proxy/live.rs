//! The compiled world with what only lives at run time: the load of each endpoint, which outlasts generations.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::balance::Load;
use rustls::server::ResolvesServerCert;

use crate::compile::{Cluster, Compiled, Passthrough, Protocol, Route};
use crate::route::Table;
use crate::tls::{Authority, Certificates, HostMap, Setup};

/// What is served; immutable, but for the endpoints' load.
#[derive(Default)]
pub struct Snapshot {
    pub(super) table: Table<Arc<Route>>,
    pub(super) clusters: Vec<LiveCluster>,
    pub(super) certificates: Certificates,
    /// Hosts that ask their clients for certificates; where any does, those that do not, too.
    pub(super) setups: HostMap<Option<Arc<Setup>>>,
    /// Hosts whose TLS is not ended here.
    pub(super) passthrough: HostMap<Passthrough>,
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

/// The endpoints of the last generation, so that the next one knows their load, and its set-ups, so that sessions can be
/// resumed for as long as nothing about them changes.
#[derive(Default)]
pub(super) struct Registry {
    endpoints: HashMap<(SocketAddr, Protocol), Arc<Endpoint>>,
    setups: Vec<Arc<Setup>>,
}

impl Registry {
    pub(super) fn snapshot(
        &mut self,
        compiled: Compiled,
        mut certificates: Certificates,
        resolver: &Arc<dyn ResolvesServerCert>,
    ) -> Snapshot {
        let setups = self.setups(&mut certificates, resolver);
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
        // The oldest object has the host.
        let passthrough = compiled.passthrough.into_iter().rev().collect();
        Snapshot { table: compiled.table, clusters, certificates, setups, passthrough }
    }

    fn setups(
        &mut self,
        certificates: &mut Certificates,
        resolver: &Arc<dyn ResolvesServerCert>,
    ) -> HostMap<Option<Arc<Setup>>> {
        let last = std::mem::take(&mut self.setups);
        let mut of = |authority: Arc<Authority>| {
            let known = self.setups.iter().chain(&last).find(|setup| setup.is(&authority)).cloned();
            let setup = known.unwrap_or_else(|| Arc::new(Setup::new(authority, Arc::clone(resolver))));
            if !self.setups.iter().any(|it| Arc::ptr_eq(it, &setup)) {
                self.setups.push(Arc::clone(&setup));
            }
            setup
        };
        certificates.take_clients().into_iter().map(|(host, asked)| (host, asked.map(&mut of))).collect()
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
