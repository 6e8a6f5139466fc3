//! The reference plugins as a cluster's network, for comparison: `bridge` and `host-local`, no policy, no Services.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::state::{Cluster, node_name};
use super::underlay;

/// Gives node `number` a bridge for its pods.
pub(crate) fn install(cluster: &Cluster, number: usize, cidrs: &[String]) -> Result<()> {
    let node = cluster.machine(&node_name(number))?;
    let ranges: Vec<_> = cidrs.iter().map(|cidr| json!([{ "subnet": cidr }])).collect();
    let routes: Vec<_> = cidrs
        .iter()
        .map(|cidr| json!({ "dst": if cidr.contains(':') { "::/0" } else { "0.0.0.0/0" } }))
        .collect();
    let list = json!({
        "cniVersion": "1.0.0", "name": "plain",
        "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
            "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
        }],
    });
    let file = Path::new(cluster.layout.cni_conf(number)).join("10-bridge.conflist");
    node.inside(|| {
        // Under its name only when it is whole: the runtime watches the folder.
        let partial = file.with_extension("partial");
        fs::write(&partial, list.to_string())
            .and_then(|()| fs::rename(&partial, &file))
            .with_context(|| format!("write {}", file.display()))
    })?;
    let settings = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
    let output = node.output(Command::new("sysctl").arg("-qw").args(settings))?;
    ensure!(
        output.status.success(),
        "let {} forward: {}",
        node.name,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Gives everybody else a route to its pods.
pub(crate) fn route(cluster: &Cluster, number: usize, cidrs: &[String]) -> Result<()> {
    let node = cluster.machine(&node_name(number))?;
    for machine in cluster.machines.iter().filter(|machine| machine.name != node.name) {
        underlay::route_to_pods(machine, cidrs, number)?;
    }
    Ok(())
}
