//! Kubernetes objects in; routing table, clusters and certificates' names out.
//!
//! Pure: no clock, no I/O. What cannot be honoured becomes a [`Warning`] beside the result. A path whose backend cannot be
//! had is refused with a reason and never left to a wider rule: a mistake may close a door, not open another.

mod access;
mod annotation;
mod backend;
mod canary;
mod class;
mod client_auth;
mod ingress;
mod options;
mod pages;
mod password;
mod reader;
mod retries;
mod template;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::StatusCode;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::Ingress;
use policy::Warning;

pub use access::{Basic, External, Guard, Limits, Rate};
pub use backend::{Place, Way};
pub use client_auth::{ClientAuth, HostAuth, Verify};
pub use options::{Affinity, BasicLimits, Cors, Filter, Rewrite};
pub use pages::ErrorPages;
pub use password::Password;
pub use retries::Retries;
pub use template::{Authority, Template, Variables};

use crate::object::{Name, World};
use crate::route::{Host, Table};

/// What the operator decides, whatever the objects say.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of classes that are ours though no IngressClass object says so.
    pub classes: Vec<String>,
    /// Serve objects that name no class, though no class is the default one.
    pub without_class: bool,
    /// `namespace/service:port` for what nobody serves.
    pub default_backend: Option<(Name, String)>,
    /// The Secret whose certificate is shown where no other fits.
    pub default_certificate: Option<Name>,
    /// Secrets are known, and an object that names another one cannot be served as it asks.
    pub secrets: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            classes: vec!["weir".into()],
            without_class: true,
            default_backend: None,
            default_certificate: None,
            secrets: true,
        }
    }
}

/// What one generation of the proxy serves.
#[derive(Debug)]
pub struct Compiled {
    pub table: Arc<Table<Arc<Route>>>,
    pub clusters: Vec<Cluster>,
    /// What each of the clusters was made from.
    pub places: Vec<Place>,
    /// How often clients may come, for each object that says so.
    pub limits: Vec<Limits>,
    /// Which Secret's certificate each host shows; the first of a host counts.
    pub certificates: Vec<CertificateUse>,
    /// What hosts ask of their clients: nothing of any, or a word for each host of the rules.
    pub client_auth: Vec<HostAuth>,
    /// Hosts whose TLS is not ended here, and the cluster that does.
    pub passthrough: Vec<(Host, Passthrough)>,
    pub warnings: Vec<Warning>,
}

/// Where the TLS connections of a host go as they come.
#[derive(Clone, Debug, PartialEq)]
pub struct Passthrough {
    pub object: Arc<str>,
    /// Index into [`Compiled::clusters`].
    pub cluster: usize,
    /// Lists of sources: all that can be asked of a connection that is not read.
    pub sources: Vec<Filter>,
    pub limits: BasicLimits,
}

/// `spec.tls[]` of one object, for one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateUse {
    /// None: the names that the certificate itself has.
    pub host: Option<Host>,
    pub secret: Name,
    /// The object that wants it, and in which field.
    pub object: String,
    pub field: String,
}

/// Where a request goes and what is done to it on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// `Ingress shop/web`, for logs and answers to people.
    pub object: Arc<str>,
    pub filters: Vec<Filter>,
    /// What must be passed behind the filters; nothing on most routes.
    pub guard: Option<Arc<Guard>>,
    pub action: Action,
    pub limits: BasicLimits,
    /// When others are asked, if the object says more of it than is done anyway.
    pub retries: Option<Arc<Retries>>,
    /// What is answered in the place of errors.
    pub pages: Option<Arc<ErrorPages>>,
    pub affinity: Option<Affinity>,
    /// What the object asks of clients: nobody else may come, whatever the host is known to ask.
    pub client_auth: Option<Arc<ClientAuth>>,
}

/// How a request ends that no filter answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To one of the clusters, by weight. The sum of the weights is not 0.
    Forward(Vec<Share>),
    /// Nowhere.
    Refuse { status: StatusCode, why: String },
}

/// A part of the requests of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub weight: u32,
    /// Index into [`Compiled::clusters`].
    pub cluster: usize,
}

/// What is spoken with the endpoints of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Http,
    /// HTTP/2 with prior knowledge, in the clear: gRPC.
    H2c,
    /// HTTP/1.1 over TLS, the certificate taken as it comes.
    Https,
    /// HTTP/2 over TLS, likewise.
    Grpcs,
}

impl Protocol {
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::Grpcs)
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }
}

/// One port of one Service: the endpoints that a request may be given to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `shop/web:80`.
    pub name: String,
    pub protocol: Protocol,
    /// Looked up by this name and port whenever it is asked for, if it is one.
    pub external: Option<(String, u16)>,
    /// Ready ones; where there is none, those that end but still serve.
    pub endpoints: Vec<SocketAddr>,
    /// Those that end: no new requests, except by affinity.
    pub draining: Vec<SocketAddr>,
    /// Why there is no endpoint, if there is none.
    pub empty: Option<String>,
}

/// Addresses that an object lets in or keeps out.
pub type Sources = Vec<IpNet>;

/// Compiles the world; the order in which its objects came does not matter.
pub fn compile(world: &World, settings: &Settings) -> Compiled {
    ingress::compile(world, settings)
}

/// The clusters of a generation with the endpoints that they have now, in the same order, and what is wrong with endpoints.
/// `None`: one of them cannot be had any more, and everything has to be compiled.
pub fn endpoints(world: &World, places: &[Place]) -> Option<(Vec<Cluster>, Vec<Warning>)> {
    backend::again(world, places)
}

/// Whether the object is served, whatever is wrong with it.
pub fn is_ours(ingress: &Ingress, world: &World, settings: &Settings) -> bool {
    let mut nobody = Vec::new();
    class::is_ours(ingress, world, settings, &mut Warner { object: "", warnings: &mut nobody })
}

/// Collects warnings about one object.
struct Warner<'a> {
    object: &'a str,
    warnings: &'a mut Vec<Warning>,
}

impl Warner<'_> {
    fn warn(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Warning {
            object: self.object.to_owned(),
            field: field.into(),
            message: message.into(),
        });
    }
}
