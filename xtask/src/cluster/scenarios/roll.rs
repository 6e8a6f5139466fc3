//! An agent that is replaced under load: no connection is lost, and every new one begins with its first packet.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::town::{PATIENCE, Town, server};
use crate::cluster::load::Load;
use crate::cluster::weir;

/// From each of two pods.
const CONNECTIONS: usize = 500;

pub(crate) fn rolling_the_agent_loses_no_connection(town: &mut Town) -> Result<()> {
    let pods: Vec<_> =
        town.nodes().iter().map(|node| server(&format!("pod-{node}"), node, json!({}))).collect();
    let settlement = town.settle("roll", json!({}), &pods)?;
    let pods = town.pods("roll")?;
    ensure!(pods.len() == 2, "a pod on each of two nodes, not {pods:?}");
    // By one family each way: both nodes see each packet.
    let loads = [(&pods[0], &pods[1], 0), (&pods[1], &pods[0], 1)];
    let loads = loads
        .into_iter()
        .map(|(from, to, family)| {
            let ip = to.ips.get(family).with_context(|| format!("{} has no second address", to.name))?;
            Load::begin(town.pid(from)?, (*ip, 8080).into(), CONNECTIONS)
        })
        .collect::<Result<Vec<_>>>()?;
    let agents = ["daemonset/weir-agent", "--namespace", weir::NAMESPACE];
    for _ in 0..town.rolls {
        town.kubectl.run(&[&["rollout", "restart"], agents.as_slice()].concat())?;
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        town.kubectl.run(&[&["rollout", "status", &limit], agents.as_slice()].concat())?;
    }
    for load in loads {
        let report = load.end()?;
        ensure!(
            report.lost.is_empty(),
            "{} of {} connections were lost: {:?}",
            report.lost.len(),
            report.connections,
            report.lost
        );
        ensure!(report.answers > report.connections as u64, "too few answers to mean anything: {report:?}");
        ensure!(report.repeated == 0, "{} first packets of {} were lost", report.repeated, report.short);
        ensure!(report.short > 0, "no new connection came about");
    }
    settlement.leave()
}
