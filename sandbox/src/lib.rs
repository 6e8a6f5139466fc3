//! Nodes and pods as namespaces on one machine, wired by the real plugin and judged by the real dataplane.
//!
//! Two halves. The pure one turns manifests into a [`plan::Cast`] and a [`report::Report`] into text; it knows no
//! namespace and no process. The other brings the cast up, measures, and takes it down again.

#![forbid(unsafe_code)]

pub mod assemble;
pub mod change;
pub mod denial;
mod end;
pub mod expect;
mod grid;
pub mod manifest;
pub mod name;
pub mod object;
pub mod output;
mod place;
pub mod plan;
pub mod report;
mod run;
#[cfg(test)]
mod sample;
mod service;
pub mod stub;
pub mod table;
mod workload;

pub use run::{down, exec, list, run};
