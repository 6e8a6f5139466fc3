//! A very small scheduler: pods go round over the nodes, unless they ask for one.

use std::collections::BTreeSet;

use crate::plan::{Cast, Node, Pod, Protocol};
use crate::workload::Draft;

/// Gives each pod its node. Those that `before` had stay where they were.
///
/// A host-network pod goes where its ports are free; where they are nowhere, it does not come up, and a warning says so
/// (in a cluster it would stay `Pending`).
pub(crate) fn place(
    drafts: Vec<Draft>,
    nodes: &[Node],
    before: Option<&Cast>,
    warnings: &mut Vec<String>,
) -> Vec<Pod> {
    let mut taken: BTreeSet<(usize, u16, Protocol)> = BTreeSet::new();
    let mut next = 0;
    let mut placed = Vec::with_capacity(drafts.len());
    for Draft { mut pod, daemon_of, wants_node, .. } in drafts {
        let named = match &wants_node {
            None => None,
            Some((field, name)) => {
                let index = nodes.iter().position(|node| node.name == *name);
                if daemon_of.is_some() && index != daemon_of && index.is_some() {
                    continue; // a DaemonSet for one node only
                }
                if index.is_none() && daemon_of.is_none_or(|node| node == 0) {
                    warnings.push(format!(
                        "{}: {field}: {name} is none of the sandbox's nodes (node-0 to node-{}); any will do",
                        pod.workload,
                        nodes.len() - 1
                    ));
                }
                index
            }
        };
        let earlier = || {
            let pods = &before?.pods;
            pods.iter().find(|other| other.uid == pod.uid && other.node < nodes.len()).map(|other| other.node)
        };
        let fixed = daemon_of.or(named).or_else(earlier);
        let is_free = |node: &usize| {
            !pod.host_network
                || pod.ports.iter().all(|port| !taken.contains(&(*node, port.port, port.protocol)))
        };
        let candidates = match fixed {
            Some(node) => vec![node],
            None => (0..nodes.len()).map(|step| (next + step) % nodes.len()).collect(),
        };
        let Some(node) = candidates.into_iter().find(is_free) else {
            warnings.push(format!(
                "Pod {}: spec.hostNetwork: a host-network pod before it has taken its ports{}: it does not come up",
                pod.key(),
                fixed.map_or_else(|| " on every node".to_owned(), |node| format!(" on {}", nodes[node].name))
            ));
            continue;
        };
        if fixed.is_none() {
            next = node + 1;
        }
        if pod.host_network {
            taken.extend(pod.ports.iter().map(|port| (node, port.port, port.protocol)));
        }
        pod.node = node;
        if let Some(spec) = pod.object.get_mut("spec").and_then(serde_json::Value::as_object_mut) {
            spec.insert("nodeName".into(), nodes[node].name.clone().into());
        }
        placed.push(pod);
    }
    placed
}
