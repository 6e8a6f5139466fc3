//! `weir uninstall` takes everything of ours off the nodes, and `weir install` brings it back.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use netlink::nftables::Nftables;
use serde_json::json;

use super::reach::everybody;
use super::table::hold;
use super::town::{PATIENCE, Town, server};
use crate::cluster::layout::API_URL;
use crate::cluster::weir;
use crate::image::{self, Profile};

pub(crate) fn uninstall_leaves_nothing_and_weir_comes_back(town: &mut Town) -> Result<()> {
    // So that there is something to take away: the host's side of a pod's link, a lease, rows.
    let pods = |town: &Town| -> Vec<_> {
        town.nodes().iter().map(|node| server(&format!("pod-{node}"), node, json!({}))).collect()
    };
    let settlement = town.settle("uninstall", json!({}), &pods(town))?;
    for node in town.nodes() {
        let found = traces(town, &node)?;
        ensure!(
            found.len() == TRACES.len() + 1,
            "{node} should have a trace of each kind, and has {found:#?}"
        );
    }
    weir_command(town, &["uninstall"])?;
    for node in town.nodes() {
        let found = traces(town, &node)?;
        ensure!(found.is_empty(), "after `weir uninstall` {node} still has: {found:#?}");
    }
    let gone =
        town.kubectl.run(&["get", "namespace", weir::NAMESPACE, "--ignore-not-found", "--output=name"])?;
    ensure!(gone.is_empty(), "after `weir uninstall` the cluster still has {gone}");

    weir_command(town, &["install", "--distribution", town.cluster.layout.name(), "--api-server", API_URL])?;
    settlement.leave()?;
    let settlement = town.settle("reinstall", json!({}), &pods(town))?;
    let pods = town.pods("reinstall")?;
    hold(town, &everybody(&pods))?;
    settlement.leave()
}

/// Commands of the node that find what is ours, without asking any program of ours.
const TRACES: &[(&str, &str)] = &[
    ("links", "ip -o link show | grep -vE '^[0-9]+: (lo|eth0)[:@]'"),
    ("routes", "ip route show table all proto 87; ip -6 route show table all proto 87"),
    // The kernel itself keeps two files there.
    ("pins", "find /sys/fs/bpf -mindepth 1 ! -name '*.debug'"),
    (
        "plugins",
        "find /opt/cni/bin /var/lib/rancher/k3s/data/cni -name 'weir*' -o -name loopback 2>/dev/null",
    ),
    ("conflists", "find /etc/cni/net.d /var/lib/rancher/k3s/agent/etc/cni/net.d -type f 2>/dev/null"),
    ("state", "find /var/lib/weir /run/weir 2>/dev/null"),
];

/// One more kind, and what it is called.
const TABLES: &str = "nf_tables tables";
const TABLE: &str = "weir";

/// What there is of each kind; kinds of which there is nothing are left out.
fn traces(town: &Town, node: &str) -> Result<Vec<(&'static str, BTreeSet<String>)>> {
    let machine = town.cluster.machine(node)?;
    let mut found = Vec::new();
    for (what, command) in TRACES {
        // What finds nothing may end with an error.
        let output = machine.output(Command::new("sh").args(["-c", &format!("{command}; true")]))?;
        ensure!(output.status.success(), "look for {what} on {node}: {}", output.status);
        let lines: BTreeSet<String> =
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        if !lines.is_empty() {
            found.push((*what, lines));
        }
    }
    // Debian's `nft` is not on every machine.
    let table = machine.in_network(|| Nftables::new().and_then(|nftables| nftables.read(TABLE)))?;
    if table.context("read the node's nf_tables")?.is_some() {
        found.push((TABLES, BTreeSet::from([TABLE.to_owned()])));
    }
    Ok(found)
}

/// `weir`, as a person at the control plane would call it.
fn weir_command(town: &Town, arguments: &[&str]) -> Result<()> {
    let limit = PATIENCE.as_secs().to_string();
    let mut command = Command::new(image::program("weir", Profile::Debug));
    command.args(arguments).arg("--kubeconfig").arg(town.kubectl.config()).args(["--timeout", &limit]);
    let output = town
        .cluster
        .control_plane()?
        .in_network(|| command.output())?
        .with_context(|| format!("start `weir {}`", arguments.join(" ")))?;
    ensure!(
        output.status.success(),
        "`weir {}` ended with {}: {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
