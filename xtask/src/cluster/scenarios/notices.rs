//! What a person must act on: in an Event of the Node that it is about, in `weir status`, and gone from there once it is
//! done; running pods go on undisturbed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::reach::everybody;
use super::table::hold;
use super::town::{Town, eventually, server};
use crate::cluster::weir;

pub(crate) fn what_a_person_must_act_on_is_an_event_and_in_the_status(town: &mut Town) -> Result<()> {
    let pods: Vec<_> =
        town.nodes().iter().map(|node| server(&format!("pod-{node}"), node, json!({}))).collect();
    let settlement = town.settle("notices", json!({}), &pods)?;
    another_plugin_is_in_the_way(town)?;
    a_right_is_missing(town)?;
    settlement.leave()
}

fn another_plugin_is_in_the_way(town: &Town) -> Result<()> {
    let node = "node-1";
    let folder = Path::new(town.cluster.layout.cni_conf(1));
    let (file, partial) = (folder.join("00-other.conflist"), folder.join("00-other.partial"));
    let machine = town.cluster.machine(node)?;
    // What it says is ours, so that pods that come meanwhile have a network: one that cannot be read would take it from all.
    machine.inside(|| {
        fs::copy(folder.join("10-weir.conflist"), &partial).context("copy our plugin's configuration")?;
        fs::rename(&partial, &file).context("make it another plugin's")
    })?;
    let told =
        await_notice(town, node, "NodeNotConfigured", "00-other.conflist comes before 10-weir.conflist");
    machine.inside(|| fs::remove_file(&file).context("remove another plugin's configuration"))?;
    told?;
    await_calm(town, node)
}

/// The agent's role without Services, and an agent that begins with that.
fn a_right_is_missing(town: &Town) -> Result<()> {
    let node = "node-2";
    let role = town.kubectl.json(&["get", "clusterrole", "weir-agent"])?;
    let mut rules = role["rules"].clone();
    for rule in rules.as_array_mut().context("a role without rules")? {
        if let Some(resources) = rule["resources"].as_array_mut() {
            resources.retain(|resource| resource != "services");
        }
    }
    set_rules(town, &rules)?;
    let poor = begin_agent_anew(town, node).and_then(|()| {
        await_notice(town, node, "Forbidden", "API server, Services: 403 Forbidden")?;
        let pods = town.pods("notices")?;
        hold(town, &everybody(&pods)).context("while a right is missing")
    });
    set_rules(town, &role["rules"])?;
    poor?;
    await_calm(town, node)?;
    eventually("the agent is ready again", || {
        let status = town.status(node)?;
        ensure!(status.ready, "it is not: {:?}", status.not_ready);
        Ok(())
    })
}

fn set_rules(town: &Town, rules: &Value) -> Result<()> {
    let patch = json!({ "rules": rules }).to_string();
    town.kubectl.run(&["patch", "clusterrole", "weir-agent", "--type=merge", "--patch", &patch]).map(drop)
}

fn begin_agent_anew(town: &Town, node: &str) -> Result<()> {
    let on_node = format!("--field-selector=spec.nodeName={node}");
    let agents = ["--namespace", weir::NAMESPACE, "--selector=app.kubernetes.io/component=agent", &on_node];
    town.kubectl.run(&[&["delete", "pods"], agents.as_slice()].concat()).map(drop)
}

fn await_notice(town: &Town, node: &str, reason: &str, text: &str) -> Result<()> {
    eventually(&format!("`weir status` of {node} says `{text}`"), || {
        let status = town.status(node)?;
        let says = status.problems.iter().any(|problem| problem.contains(text));
        ensure!(says, "it says {:?}", status.problems);
        Ok(())
    })?;
    eventually(&format!("an Event of {node} says `{text}`"), || {
        let about =
            format!("--field-selector=involvedObject.kind=Node,involvedObject.name={node},reason={reason}");
        let events = town.kubectl.json(&["get", "events", "--namespace=default", &about])?;
        let messages: Vec<&str> = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|event| event["message"].as_str())
            .collect();
        ensure!(messages.iter().any(|message| message.contains(text)), "the Events are {messages:?}");
        Ok(())
    })
}

fn await_calm(town: &Town, node: &str) -> Result<()> {
    eventually(&format!("{node} has no problem left"), || {
        let problems = town.status(node)?.problems;
        ensure!(problems.is_empty(), "it still has {problems:?}");
        Ok(())
    })
}
