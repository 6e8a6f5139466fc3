//! What travels on the agent's local socket: HTTP/1.1 and JSON over a Unix socket, so that `curl --unix-socket` works.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `PUT /v1/endpoints` | [`Attach`] | 200 [`Attached`]; the endpoint's policy is in force when it returns |
//! | `GET /v1/endpoints/{container}/{ifname}` | | 200 [`Endpoint`]; 404 |
//! | `DELETE /v1/endpoints/{container}/{ifname}` | | 200 [`Detached`], whether or not it existed |
//! | `POST /v1/gc` | [`Valid`] | 200 [`Collected`] |
//! | `GET /v1/status` | | 200 [`Status`] |
//! | `GET /v1/explain?from=…&to=…&port=…` | query: [`ExplainQuery`] | 200 list of [`Explanation`], each answer once |
//! | `GET /v1/flows?follow=true&…` | query: [`FlowQuery`] | 200 NDJSON of [`FlowLine`] |
//!
//! Errors are 4xx or 5xx with an [`Error`].

mod endpoint;
mod explain;
mod flow;
pub mod ingress;
mod revision;
mod status;

pub use endpoint::{
    Attach, Attached, Attachment, Collected, Detached, Endpoint, PodRef, PortMapping, Transport, Valid,
};
pub use explain::{End, ExplainQuery, Explanation, Miss, PolicyPlace, Reason, RulePlace, Side};
pub use flow::{Flow, FlowEnd, FlowLine, FlowQuery, PolicyRef, VerdictKind, protocol_name};
pub use revision::{file_digest, revision_of_digests, source_revision};
pub use status::{Counter, Drift, EndpointStatus, MapFill, PeerStatus, RuleSetStatus, SourceStatus, Status};

use serde::{Deserialize, Serialize};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weir/agent.sock";

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Whether the same call may succeed later without anybody changing anything.
    pub transient: bool,
    /// Names the object and what would be right.
    pub message: String,
}
