//! What `weir-ingress` has in force, as its admin address answers.
//!
//! | call | answer |
//! |---|---|
//! | `GET /v1/routes` | list of [`Route`] |
//! | `GET /v1/backends` | list of [`Backend`] |
//! | `GET /v1/certs` | list of [`Certificate`] |

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One rule, in the order in which rules are asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// `a.b`, `*.a.b`, or `*` for every host.
    pub host: String,
    /// `exact /a`, `prefix /a`, `regex ^/a`, or `otherwise`.
    pub path: String,
    /// How many things besides host and path the rule asks for (a canary's header or cookie).
    pub conditions: usize,
    /// `Ingress shop/web`.
    pub object: String,
    /// Backends by name, each with its share of the requests.
    pub backends: Vec<(String, u32)>,
    /// Why requests are refused, if they are.
    pub refused: Option<String>,
}

/// One port of one Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// `shop/web:80`.
    pub name: String,
    pub protocol: String,
    pub endpoints: Vec<Endpoint>,
    /// Why there is no endpoint, if there is none.
    pub empty: Option<String>,
}

/// An address that requests are given to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// It ends: only clients whose cookie names it come here, or everybody if there is no other.
    pub ends: bool,
    pub in_flight: u32,
    /// Peak of its latency, weighed by age; 0: none yet.
    pub latency_us: u64,
    /// It could not be connected to, and is left alone for a while.
    pub rests: bool,
}

/// A certificate as one host wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Nothing: for the names that the certificate has.
    pub host: Option<String>,
    /// `shop/web-tls`.
    pub secret: String,
    /// `Ingress shop/web`.
    pub object: String,
    /// It is in force. If not, the log says why, and so does an Event on the object.
    pub in_force: bool,
}
