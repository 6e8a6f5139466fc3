//! How long it takes to wire a pod and to take it away: the plugin's process from start to end, as the runtime waits for
//! it.

use anyhow::Result;
use serde::Serialize;

use crate::clock::nanoseconds;
use crate::layout::{Cluster, Layout, namespace};
use crate::statistics::quantile;

/// Each layout knows this many pods beforehand.
pub(crate) const MAX_PODS: usize = 50;

pub(crate) fn pod_name(number: usize) -> String {
    format!("attach-{number}")
}

/// Milliseconds that one layout took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Times {
    pub(crate) layout: String,
    pub(crate) title: String,
    pub(crate) add: Call,
    pub(crate) del: Call,
}

/// Milliseconds of one verb.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Call {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) calls: usize,
    pub(crate) all: Vec<f64>,
}

/// Wires `pods` pods in each layout that has a plugin, taking turns, then takes them away in the same order.
pub(crate) async fn measure(clusters: &[(Layout, Cluster)], pods: usize) -> Result<Vec<Times>> {
    let plugins: Vec<_> =
        clusters.iter().filter_map(|(layout, cluster)| Some((*layout, cluster.network.as_ref()?))).collect();
    let mut adds = vec![Vec::new(); plugins.len()];
    let mut dels = vec![Vec::new(); plugins.len()];
    let mut namespaces = Vec::new();
    for pod in 0..pods {
        for (index, (_, network)) in plugins.iter().enumerate() {
            let netns = namespace().await?;
            adds[index].push(nanoseconds(network.add(&pod_name(pod), &netns)?.took));
            namespaces.push(netns);
        }
    }
    let mut namespaces = namespaces.iter();
    for pod in 0..pods {
        for ((index, (_, network)), netns) in plugins.iter().enumerate().zip(&mut namespaces) {
            dels[index].push(nanoseconds(network.del(&pod_name(pod), netns)?));
        }
    }
    let times = plugins.iter().zip(adds.into_iter().zip(dels)).map(|((layout, _), (add, del))| Times {
        layout: layout.slug(),
        title: layout.title(),
        add: Call::of(add),
        del: Call::of(del),
    });
    Ok(times.collect())
}

impl Call {
    fn of(nanoseconds: Vec<u64>) -> Self {
        let all: Vec<f64> = nanoseconds.into_iter().map(|ns| ns as f64 / 1e6).collect();
        let mut sorted = all.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share| quantile(&sorted, share).unwrap_or(f64::NAN);
        Self { p50: at(0.5), p99: at(0.99), calls: all.len(), all }
    }
}
