//! The compiled world with what only lives at run time: the load of each endpoint, which outlasts generations.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::server::ResolvesServerCert;

use super::balance::Load;
use super::connect::Identity;
use super::limit::Limiter;
use super::pool::Key;
use crate::compile::{CertificateUse, Cluster, Limits, Passthrough, Protocol, Route};
use crate::route::{Host, Table};
use crate::tls::{Authority, Certificates, HostMap, Setup};

/// What is served; immutable, but for the endpoints' load.
#[derive(Default)]
pub struct Snapshot {
    pub(super) table: Arc<Table<Arc<Route>>>,
    pub(super) clusters: Vec<LiveCluster>,
    pub(super) limiters: Arc<[Arc<Limiter>]>,
    pub(super) certificates: Arc<Certificates>,
    /// Hosts that ask their clients for certificates; where any does, those that do not, too.
    pub(super) setups: Arc<HostMap<Option<Arc<Setup>>>>,
    /// Hosts whose TLS is not ended here.
    pub(super) passthrough: Arc<HostMap<Passthrough>>,
    /// Who wants which certificate, for people to look at.
    pub(super) uses: Arc<[CertificateUse]>,
}

pub(super) struct LiveCluster {
    pub(super) name: String,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// Those that end: for clients whose cookie names them.
    pub(super) draining: Vec<Arc<Endpoint>>,
    /// Looked up by this name and port when they are asked for.
    pub(super) external: Option<(String, u16)>,
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
    /// How it is known over TLS, if not as the cluster's endpoints are.
    pub(super) identity: Option<Arc<Identity>>,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, protocol: Protocol, identity: Option<Arc<Identity>>) -> Self {
        Self { address, protocol, mark: mark(&address), load: Load::default(), identity }
    }

    /// What the pool knows its connections by.
    pub(super) fn key(&self) -> Key {
        (self.address, self.protocol, self.identity.as_ref().map_or(0, |it| it.id))
    }
}

/// Endpoints and limits of the last generation, so that the next one knows their load, and its set-ups, so that sessions
/// can be resumed for as long as nothing about them changes.
#[derive(Default)]
pub(super) struct Registry {
    endpoints: HashMap<(SocketAddr, Protocol), Arc<Endpoint>>,
    limiters: HashMap<Arc<str>, Arc<Limiter>>,
    setups: Vec<Arc<Setup>>,
}

impl Registry {
    /// The clusters, with what is known of their endpoints from the generation before.
    pub(super) fn clusters(&mut self, clusters: Vec<Cluster>) -> Vec<LiveCluster> {
        let mut last = std::mem::take(&mut self.endpoints);
        let mut of = |address: &SocketAddr, protocol| {
            let key = (*address, protocol);
            let endpoint = self.endpoints.entry(key).or_insert_with(|| {
                last.remove(&key).unwrap_or_else(|| Arc::new(Endpoint::new(*address, protocol, None)))
            });
            Arc::clone(endpoint)
        };
        clusters
            .into_iter()
            .map(|Cluster { name, protocol, external, endpoints, draining, empty }| LiveCluster {
                endpoints: endpoints.iter().map(|address| of(address, protocol)).collect(),
                draining: draining.iter().map(|address| of(address, protocol)).collect(),
                name,
                protocol,
                external,
                empty,
            })
            .collect()
    }

    /// What hosts ask of their clients, and which of them end their TLS themselves.
    pub(super) fn hosts(
        &mut self,
        passthrough: Vec<(Host, Passthrough)>,
        certificates: &mut Certificates,
        resolver: &Arc<dyn ResolvesServerCert>,
    ) -> (HostMap<Option<Arc<Setup>>>, HostMap<Passthrough>) {
        // The oldest object has the host.
        (self.setups(certificates, resolver), passthrough.into_iter().rev().collect())
    }

    /// A limit that is as it was goes on as it was.
    pub(super) fn limiters(&mut self, limits: Vec<Limits>) -> Arc<[Arc<Limiter>]> {
        let mut known = std::mem::take(&mut self.limiters);
        let limiters = limits.into_iter().map(|limits| {
            let same = known.remove(&limits.object).filter(|it| *it.limits() == limits);
            same.unwrap_or_else(|| Arc::new(Limiter::new(limits)))
        });
        let limiters: Vec<Arc<Limiter>> = limiters.collect();
        self.limiters = limiters.iter().map(|it| (Arc::clone(&it.limits().object), Arc::clone(it))).collect();
        limiters.into()
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

/// What a cookie calls an address: replicas of the proxy must agree.
fn mark(address: &SocketAddr) -> u64 {
    hash(address.to_string().as_bytes())
}

/// FNV-1a, twice mixed: the same in every process.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    super::balance::mix(super::balance::mix(hash))
}
