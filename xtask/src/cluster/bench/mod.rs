//! `cargo xtask bench cluster`: what a node pays in a large cluster, and how fast pods start, on real Kubernetes.
//!
//! Each measurement brings a cluster of its own up and takes it down. API server, etcd and everything else run on the same
//! processors as what is measured, so times are those of a busy machine.

mod agent;
mod fill;
mod pods;
mod proxy;
mod scale;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use super::kubectl::Kubectl;
use super::layout::Layout;
use super::scenarios::town::Town;
use super::state::Cluster;
use super::tools;
use super::up::{self, Network, Wish};
use crate::{image, workspace};

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// The agent of one node in a cluster that kwok fills: memory, start, time to take a pod in, idle
    Scale(scale::Args),
    /// The start of pods on a node with Weir and on one with `bridge` and `host-local`, in turns
    Pods(pods::Args),
}

pub(crate) fn command(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Scale(args) => scale::run(args),
        Bench::Pods(args) => pods::run(args),
    }
}

/// Runs `measure` on a cluster, which is taken down however that ends.
fn on_a_cluster(
    nodes: usize,
    network: Network,
    profile: image::Profile,
    measure: impl FnOnce(&Town) -> Result<()>,
) -> Result<()> {
    let folder = folder();
    // Of a run that was killed.
    if let Some(old) = Cluster::load(&folder)? {
        old.take_down()?;
    }
    let wish = Wish { folder, nodes, layout: Layout::Kind, network, profile, images: Vec::new() };
    let (cluster, _) = up::up(&wish)?;
    let town = tools::tools().and_then(|tools| Kubectl::new(&cluster, &tools.bin)).map(|kubectl| Town {
        cluster,
        kubectl,
        rolls: 0,
    })?;
    let outcome = measure(&town);
    town.cluster.take_down().context("take the cluster down")?;
    outcome
}

fn folder() -> PathBuf {
    workspace::target().join("cluster-bench")
}

/// The value below which so much of all values lies; of sorted ones.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hundred_values_the_99th_has_one_above_it() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (quantile(&values, 0.5), quantile(&values, 0.99), quantile(&values, 1.0)),
            (50.0, 99.0, 100.0)
        );
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
    }
}
