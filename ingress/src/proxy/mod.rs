//! The proxy itself: one worker per core, each with its own runtime, listeners and pool of upstream connections.
//!
//! All that workers share is a [`Shared`]: the snapshot of what is to be served, which is swapped whole, and counters.
//! A request holds on to the snapshot that it began with.

mod answer;
mod ask;
mod balance;
mod body;
mod coalesce;
mod connect;
mod external;
mod filter;
mod forward;
mod guard;
mod headers;
mod life;
mod limit;
mod listen;
mod live;
mod metrics;
mod names;
mod pages;
mod password;
mod pool;
mod proxy_protocol;
mod record;
mod request;
mod secure;
mod serve;
mod taking;
mod upgrade;
mod view;
mod worker;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub use listen::{Error, Listen, Proxy, Sockets};
pub use live::Snapshot;
pub use metrics::Metrics;

use self::live::Registry;
use self::names::Names;
use self::password::Passwords;
use crate::compile::{Cluster, Compiled};
use crate::tls::{self, Certificates};

/// What the operator decides about connections.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// The longest wait for a request's head, the idle time between two requests included.
    pub head: Duration,
    /// The longest wait for a client to take a part of its response.
    pub take: Duration,
    /// The longest wait for a TLS handshake.
    pub handshake: Duration,
    /// How long requests in flight may take once the proxy is told to end.
    pub drain: Duration,
    /// Whose `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted: Vec<IpNet>,
    /// Whose connections begin with a header of the PROXY protocol.
    pub announcing: Vec<IpNet>,
    /// The port that redirects to TLS name, if it is not 443.
    pub https_port: u16,
    /// Names of ExternalName Services may lead to this machine itself.
    pub loopback: bool,
    /// Bytes of a request's head, and so of each of its headers.
    pub head_bytes: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(60),
            take: Duration::from_secs(60),
            handshake: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            trusted: Vec::new(),
            announcing: Vec::new(),
            https_port: 443,
            loopback: false,
            head_bytes: 64 << 10,
        }
    }
}

/// What all workers share.
pub struct Shared {
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// Of every TLS set-up.
    resolver: Arc<dyn ResolvesServerCert>,
    registry: Mutex<Registry>,
    tuning: Tuning,
    metrics: Metrics,
    passwords: Passwords,
    names: Names,
    log: Option<Mutex<Box<dyn Write + Send>>>,
}

impl Shared {
    /// Serves nothing yet. `log`: where the access log goes.
    pub fn new(tuning: Tuning, log: Option<Box<dyn Write + Send>>) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        Self {
            resolver: Arc::new(Resolver(Arc::clone(&snapshot))),
            snapshot,
            registry: Mutex::default(),
            tuning,
            metrics: Metrics::default(),
            passwords: Passwords::new(),
            names: Names::default(),
            log: log.map(Mutex::new),
        }
    }

    /// Serves this from now on. Requests in flight end as they began.
    pub fn serve(&self, compiled: Compiled, mut certificates: Certificates) {
        let mut registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (setups, passthrough) = registry.hosts(compiled.passthrough, &mut certificates, &self.resolver);
        let snapshot = Snapshot {
            table: compiled.table,
            clusters: registry.clusters(compiled.clusters),
            limiters: registry.limiters(compiled.limits),
            certificates: Arc::new(certificates),
            setups: Arc::new(setups),
            passthrough: Arc::new(passthrough),
            uses: compiled.certificates.into(),
        };
        self.metrics.generation();
        self.snapshot.store(snapshot.into());
    }

    /// Serves the same with other endpoints: the clusters are those of the generation in force, in its order.
    pub fn serve_endpoints(&self, clusters: Vec<Cluster>) {
        let mut registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let last = self.snapshot.load();
        let snapshot = Snapshot {
            table: Arc::clone(&last.table),
            clusters: registry.clusters(clusters),
            limiters: Arc::clone(&last.limiters),
            certificates: Arc::clone(&last.certificates),
            setups: Arc::clone(&last.setups),
            passthrough: Arc::clone(&last.passthrough),
            uses: Arc::clone(&last.uses),
        };
        self.metrics.generation();
        self.snapshot.store(snapshot.into());
    }

    /// How many rules are in force.
    pub fn rules(&self) -> usize {
        self.snapshot.load().table.len()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How every host speaks TLS that asks its clients for nothing.
    fn server_config(&self) -> Arc<ServerConfig> {
        Arc::new(tls::server_config(Arc::clone(&self.resolver), None))
    }
}

/// What a handshake shows is what the snapshot of that moment has.
struct Resolver(Arc<ArcSwap<Snapshot>>);

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.0.load().certificates.find(name.as_deref()).cloned()
    }
}
