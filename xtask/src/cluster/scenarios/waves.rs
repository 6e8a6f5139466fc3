//! A hundred pods come and go, and nothing of them stays: no link, address, lease, namespace, or row of a map.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::town::{PATIENCE, Town, eventually};
use crate::cluster::tools::PAUSE;

const WAVES: usize = 2;
/// On both nodes together.
const PODS: usize = 50;

pub(crate) fn a_hundred_pods_come_and_go_and_leave_nothing(town: &mut Town) -> Result<()> {
    let namespace = "waves";
    let settlement = town.settle(namespace, json!({}), &[])?;
    let before = footprints(town)?;
    for wave in 0..WAVES {
        let pods: Vec<Value> =
            (0..PODS).map(|number| pod(&format!("w{wave}-{number}"), &town.nodes()[number % 2])).collect();
        town.apply(namespace, &pods)?;
        town.ready(namespace, &["pods", "--all"], "Ready")?;
        let pods = town.pods(namespace)?;
        let ips: std::collections::BTreeSet<_> = pods.iter().flat_map(|pod| &pod.ips).collect();
        ensure!(ips.len() == 2 * PODS, "{PODS} pods have {} addresses, two each are right", ips.len());
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        town.kubectl.run(&["delete", "pods", "--all", "--namespace", namespace, &limit])?;
    }
    eventually("all traces are gone", || {
        let after = footprints(town)?;
        for (what, count) in &after {
            ensure!(before.get(what) == Some(count), "{what}: {:?} before, {count} after", before.get(what));
        }
        Ok(())
    })?;
    settlement.leave()
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": node },
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "pause", "image": PAUSE, "imagePullPolicy": "Never" }],
        },
    })
}

/// What can be counted on both nodes.
pub(crate) fn footprints(town: &Town) -> Result<BTreeMap<String, usize>> {
    let counts = [
        ("links", "ip -o link show | wc -l"),
        ("routes", "ip route show table all | grep -vc 'table local' ; true"),
        ("IPv6 routes", "ip -6 route show table all | grep -vc 'table local' ; true"),
        ("pods' namespaces", "ls /run/netns 2>/dev/null | wc -l"),
        ("leases", "find /var/lib/weir -type f 2>/dev/null | wc -l"),
        ("pins", "find /sys/fs/bpf -type f 2>/dev/null | wc -l"),
    ];
    let mut found = BTreeMap::new();
    for node in town.nodes() {
        let machine = town.cluster.machine(&node)?;
        for (what, command) in counts {
            let output = machine.output(Command::new("sh").args(["-c", command]))?;
            let text = String::from_utf8_lossy(&output.stdout);
            let count =
                text.trim().parse().with_context(|| format!("count the {what} of {node}: `{text}`"))?;
            found.insert(format!("{what} of {node}"), count);
        }
        let status = town.status(&node)?;
        found.insert(format!("endpoints of {node}"), status.endpoints.len());
    }
    Ok(found)
}
