//! Nodes and pods as namespaces on one machine, wired by the real plugin and judged by the real dataplane.
//!
//! Two halves. The pure one turns manifests into a [`plan::Cast`] and a [`report::Report`] into text; it knows no
//! namespace and no process. The other brings the cast up, measures, and takes it down again.

#![forbid(unsafe_code)]

mod apply;
pub mod assemble;
mod capability;
mod cgroup;
pub mod change;
pub mod client;
pub mod denial;
mod end;
mod exec;
pub mod expect;
pub mod explain;
mod grid;
mod ground;
mod keep;
pub mod lint;
mod live;
pub mod manifest;
mod measure;
mod mounts;
pub mod name;
mod node;
pub mod object;
pub mod output;
mod page;
mod place;
pub mod plan;
mod pod;
mod prober;
mod process;
mod puppet;
pub mod report;
mod run;
mod runtime;
#[cfg(test)]
mod sample;
mod service;
mod state;
pub mod stub;
mod supervisor;
pub mod table;
mod targets;
mod topology;
mod verdict;
mod watch;
mod workload;

pub use exec::{PodHandle, exec};
pub use ground::Binaries;
pub use keep::{down, list, supervise_kept};
pub use process::Owned;
pub use run::run;
pub use state::{Running, running};
pub use supervisor::{Progress, Sandbox};
