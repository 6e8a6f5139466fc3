//! Nodes and pods as namespaces on one machine, wired by the real plugin and judged by the real dataplane.
//!
//! Two halves. The pure one turns manifests into a [`plan::Cast`] and a [`report::Report`] into text; it knows no
//! namespace and no process. The other brings the cast up, measures, and takes it down again.

#![forbid(unsafe_code)]

pub mod plan;
pub mod report;
mod run;
pub mod stub;

pub use run::{down, exec, list, run};
