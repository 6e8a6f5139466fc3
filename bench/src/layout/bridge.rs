//! The reference plugins `bridge` and `host-local`, called as a container runtime calls them: no masquerade, no policy.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::node::{Node, Routes, namespace};
use super::{Cluster, Pod, Programs};
use crate::{cni, place};

pub(super) async fn build(programs: &Programs) -> Result<Cluster> {
    let nodes = Node::pair(Routes::Static).await?;
    let [first, second] = &nodes;
    let (near, far) = (network(programs, first, "first")?, network(programs, second, "second")?);
    Ok(Cluster {
        client: pod(&near, "client").await?,
        near: pod(&near, "near").await?,
        far: Some(pod(&far, "far").await?),
        network: Some(near),
        _keep: vec![Box::new(nodes)],
    })
}

fn network(programs: &Programs, node: &Node, name: &str) -> Result<cni::Network> {
    let leases = Path::new(place::FILES).join("bridge").join(name);
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": true,
        "ipam": {
            "type": "host-local",
            "dataDir": leases,
            "ranges": [[{ "subnet": node.pod_cidr }]],
        },
    });
    Ok(cni::Network {
        program: programs.plugins.join("bridge"),
        path: programs.plugins.clone(),
        config,
        node: node.netns.try_clone()?,
    })
}

async fn pod(network: &cni::Network, name: &str) -> Result<Pod> {
    let netns = namespace().await?;
    let added = network.add(name, &netns)?;
    let ip = *added.ips.first().context("the plugin gave no address")?;
    Pod::start(&netns, ip)
}
