//! The ways to wire pods that are compared. Each is a small cluster: a client, a server on the same node, and (but for
//! the raw pair) a server on a second node, joined to the first by a cable.

mod bridge;
mod node;
mod raw;
mod routed;
mod weir;

pub(crate) use node::namespace;

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cni;
use crate::load::{Done, Kind};
use crate::serve;
use crate::worker::Worker;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layout {
    Raw,
    Bridge,
    Routed,
    /// With this many policies, all of which select the pods that speak.
    Weir {
        policies: usize,
    },
}

impl Layout {
    pub(crate) const ALL: [Self; 6] = [
        Self::Raw,
        Self::Bridge,
        Self::Routed,
        Self::Weir { policies: 0 },
        Self::Weir { policies: 10 },
        Self::Weir { policies: 1000 },
    ];

    pub(crate) fn title(self) -> String {
        match self {
            Self::Raw => "raw veth pair".into(),
            Self::Bridge => "bridge plugin".into(),
            Self::Routed => "routed veths".into(),
            Self::Weir { policies: 0 } => "Weir, no policy".into(),
            Self::Weir { policies } => format!("Weir, {policies} policies"),
        }
    }

    /// Its name on the command line and in JSON.
    pub(crate) fn slug(self) -> String {
        match self {
            Self::Raw => "raw".into(),
            Self::Bridge => "bridge".into(),
            Self::Routed => "routed".into(),
            Self::Weir { policies } => format!("weir-{policies}"),
        }
    }

    /// Brings it up.
    pub(crate) async fn build(self, programs: &Programs) -> Result<Cluster> {
        let built = match self {
            Self::Raw => raw::build().await,
            Self::Bridge => bridge::build(programs).await,
            Self::Routed => routed::build().await,
            Self::Weir { policies } => weir::build(programs, policies).await,
        };
        let mut cluster = built.with_context(|| format!("bring up {}", self.title()))?;
        cluster.prove(self)?;
        Ok(cluster)
    }
}

/// What the layouts run.
pub(crate) struct Programs {
    /// Holds `weir-agent` and `weir-cni`.
    pub(crate) binaries: PathBuf,
    /// Holds the reference plugins `bridge` and `host-local`.
    pub(crate) plugins: PathBuf,
}

/// Where the server is, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Distance {
    SameNode,
    AcrossNodes,
}

impl Distance {
    pub(crate) const ALL: [Self; 2] = [Self::SameNode, Self::AcrossNodes];

    pub(crate) fn slug(self) -> &'static str {
        match self {
            Self::SameNode => "same_node",
            Self::AcrossNodes => "across_nodes",
        }
    }
}

/// A pod that is up: its worker, and its address.
pub(crate) struct Pod {
    pub(crate) ip: IpAddr,
    /// Its namespace lives as long as this, which is inside.
    pub(crate) worker: Worker,
}

/// A layout that is up; dropping it takes everything down.
pub(crate) struct Cluster {
    pub(crate) client: Pod,
    pub(crate) near: Pod,
    pub(crate) far: Option<Pod>,
    /// How the first node wires pods, where it does so by a CNI plugin.
    pub(crate) network: Option<cni::Network>,
    /// Nodes and agents, dropped last.
    pub(crate) _keep: Vec<Box<dyn Any>>,
}

impl Cluster {
    pub(crate) fn has(&self, distance: Distance) -> bool {
        distance == Distance::SameNode || self.far.is_some()
    }

    /// One measurement.
    pub(crate) fn load(&mut self, distance: Distance, kind: Kind, duration: Duration) -> Result<Done> {
        let server = match distance {
            Distance::SameNode => &self.near,
            Distance::AcrossNodes => self.far.as_ref().context("this layout has one node")?,
        };
        let to = SocketAddr::new(server.ip, kind.port());
        self.client.worker.load(kind, to, server.worker.pid(), duration)
    }

    /// Nothing is measured that does not do what it is measured for: what is allowed passes, what no policy allows
    /// does not.
    fn prove(&mut self, layout: Layout) -> Result<()> {
        let isolated = matches!(layout, Layout::Weir { policies: 1.. });
        for server in [Some(&self.near), self.far.as_ref()].into_iter().flatten() {
            let port = |port| SocketAddr::new(server.ip, port);
            let worker = &mut self.client.worker;
            ensure!(
                worker.knock(port(serve::ONCE_PORT), ALLOWED_TIMEOUT)?,
                "{} cannot be reached",
                server.ip
            );
            let opened = worker.knock(port(serve::FORBIDDEN_PORT), DENIED_TIMEOUT)?;
            ensure!(opened != isolated, "port {} of {}: open is {opened}", serve::FORBIDDEN_PORT, server.ip);
        }
        Ok(())
    }
}

/// A second SYN is sent after one second: enough for a neighbour to be found.
const ALLOWED_TIMEOUT: Duration = Duration::from_secs(3);
const DENIED_TIMEOUT: Duration = Duration::from_millis(200);
