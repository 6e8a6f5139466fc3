//! Tests are rows: a world as text, flows as text, and what becomes of them.
//!
//! [`world::Cluster`] alone knows the API; a test reads like the page of the specification that it holds on to.

mod agreement;
pub(crate) mod arbitrary;
mod compiler;
mod endpoints;
mod explain;
mod explain_agreement;
mod lint;
mod manifest;
mod network_policy;
mod plan;
mod recipes;
mod services;
mod world;
