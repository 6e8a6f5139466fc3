//! The policy compiler: Kubernetes objects in, table contents out.
//!
//! ```text
//! text -> manifest -> object -> World -> compile -> Tables -> plan -> MapOp...
//! ```
//!
//! Pure: no I/O, no clock, no async, no randomness. The order in which objects reached the [`World`] does not matter.
//! What cannot be honoured becomes a [`Warning`] beside the result, and a warning only ever narrows what is allowed.
//!
//! [`oracle`] answers the same question as [`tables::Tables::lookup`] from the specification, naively; the two share
//! nothing but the objects.
#![forbid(unsafe_code)]

pub mod explain;
pub mod lint;
pub mod lookup;
pub mod manifest;
pub mod object;
pub mod oracle;
pub mod places;
pub mod tables;
pub mod world;

mod changes;
mod cidr;
mod claims;
mod class;
mod compile;
mod compiler;
mod convert;
mod dirty;
mod facts;
mod id;
mod labels;
mod model;
mod names;
mod plan;
mod pods;
mod ports;
mod ruleset;
mod selector;
mod services;
mod spelling;
mod warning;

pub use compile::{Compiled, compile};
pub use compiler::{Compiler, Retired, Update};
pub use lookup::{Answer, Flow, Judgement};
pub use names::{Names, RuleName, RuleSetName};
pub use object::{Kind, Object, ObjectKey};
pub use plan::plan;
pub use tables::Tables;
pub use warning::Warning;
pub use world::{Attachment, NodeFacts, PodRef, World};

#[cfg(test)]
mod tests;
