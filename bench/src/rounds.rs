//! Interleaved rounds: within one round each layout is measured right after the other, so that whatever else the machine
//! does hits all of them, and each is compared with the raw pair of its own round.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::layout::{Cluster, Distance, Layout};
use crate::load::{Done, Kind};
use crate::statistics::Summary;

/// One measurement of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    pub(crate) layout: Layout,
    /// For the raw pair: beside which group it was measured.
    pub(crate) distance: Distance,
    pub(crate) kind: Kind,
    pub(crate) done: Done,
}

impl Sample {
    /// What is compared: CPU nanoseconds a transaction (less is better), or bits a second (more is better).
    pub(crate) fn value(&self) -> f64 {
        let Done { transactions, bytes, taken } = self.done;
        match self.kind {
            Kind::RequestResponse | Kind::Connect => {
                (taken.client_cpu_ns + taken.server_cpu_ns) as f64 / transactions as f64
            }
            Kind::Stream(_) => bytes as f64 * 8e9 / taken.wall_ns as f64,
        }
    }

    /// Transactions a second, both ends on one core.
    pub(crate) fn rate(&self) -> f64 {
        self.done.transactions as f64 * 1e9 / self.done.taken.wall_ns as f64
    }
}

/// Measures everything `rounds` times; `progress` hears of each measurement before it begins.
pub(crate) fn measure(
    clusters: &mut [(Layout, Cluster)],
    rounds: u32,
    duration: Duration,
    mut progress: impl FnMut(u32, Layout),
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for round in 0..rounds {
        for kind in Kind::ALL {
            for distance in Distance::ALL {
                // Each round begins with another layout: nobody is always the first after a pause.
                let turn = round as usize % clusters.len();
                for index in (turn..clusters.len()).chain(0..turn) {
                    let (layout, cluster) = &mut clusters[index];
                    let at = match layout {
                        Layout::Raw => Distance::SameNode,
                        _ => distance,
                    };
                    if !cluster.has(at) {
                        continue;
                    }
                    progress(round, *layout);
                    let done = cluster
                        .load(at, kind, duration)
                        .with_context(|| format!("measure {} over {}", kind.title(), layout.title()))?;
                    samples.push(Sample { round, layout: *layout, distance, kind, done });
                }
            }
        }
    }
    Ok(samples)
}

/// What one layout showed at one kind of load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    #[serde(serialize_with = "slug")]
    pub(crate) layout: Layout,
    #[serde(serialize_with = "distance_slug")]
    pub(crate) distance: Distance,
    pub(crate) kind: Kind,
    /// To the raw pair of the same round.
    pub(crate) ratio: Summary,
    /// CPU nanoseconds a transaction, or bits a second.
    pub(crate) value: Summary,
    /// Transactions a second; absent for streams.
    pub(crate) rate: Option<Summary>,
}

/// One cell for each layout, distance and kind that was measured.
pub(crate) fn cells(samples: &[Sample]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for distance in Distance::ALL {
        for layout in Layout::ALL {
            for kind in Kind::ALL {
                let of = |layout| {
                    samples
                        .iter()
                        .filter(move |it| (it.layout, it.distance, it.kind) == (layout, distance, kind))
                };
                let ratio = Summary::of(ratios(of(layout), of(Layout::Raw), Sample::value));
                let value = Summary::of(of(layout).map(Sample::value));
                let rate = match kind {
                    Kind::Stream(_) => None,
                    _ => Summary::of(of(layout).map(Sample::rate)),
                };
                if let (Some(ratio), Some(value)) = (ratio, value) {
                    cells.push(Cell { layout, distance, kind, ratio, value, rate });
                }
            }
        }
    }
    cells
}

/// `value` of each sample, as a ratio to that of the sample of the same round in `base`.
pub(crate) fn ratios<'a>(
    samples: impl Iterator<Item = &'a Sample>,
    base: impl Iterator<Item = &'a Sample> + Clone,
    value: fn(&Sample) -> f64,
) -> Vec<f64> {
    let ratio = |sample: &Sample| {
        let base = base.clone().find(|base| base.round == sample.round)?;
        Some(value(sample) / value(base))
    };
    samples.filter_map(ratio).collect()
}

fn slug<S: serde::Serializer>(layout: &Layout, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&layout.slug())
}

fn distance_slug<S: serde::Serializer>(distance: &Distance, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(distance.slug())
}
