//! The agent of one node while its API server knows a thousand others.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::super::scenarios::town::{PATIENCE, Town, eventually};
use super::super::up::Network;
use super::super::weir::NAMESPACE;
use super::agent::{Agent, Memory, quantile_between};
use super::fill::{self, Kwok, Size};
use super::on_a_cluster;
use super::proxy::Proxy;
use crate::image::Profile;

const NODE: &str = "node-1";
/// kwok and everybody else need this long for ten thousand pods on two processors.
const FILLING: Duration = Duration::from_secs(900);
const STARTING: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How Weir is built: `debug` says only that the measurement works
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    #[arg(long, default_value_t = 100)]
    namespaces: usize,
    #[arg(long, default_value_t = 1000)]
    policies: usize,
    /// Real pods on the agent's own node
    #[arg(long, default_value_t = 50)]
    local: usize,
    /// How often the agent is started anew, with and without what it had pinned
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// Pods that come and go elsewhere
    #[arg(long, default_value_t = 500)]
    events: usize,
    /// Between two of them
    #[arg(long, value_name = "MS", default_value_t = 50)]
    every: u64,
    /// Seconds of doing nothing, in the empty cluster and in the full one
    #[arg(long, default_value_t = 60)]
    idle: u64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    ensure!(args.namespaces > 0 && args.nodes > 0, "at least one node and one namespace");
    on_a_cluster(1, Network::Weir, args.profile, |town| measure(town, args))
}

fn measure(town: &Town, args: &Args) -> Result<()> {
    let size = Size {
        nodes: args.nodes,
        pods: args.pods,
        namespaces: args.namespaces,
        policies: args.policies,
        local: args.local,
    };
    let idle = Duration::from_secs(args.idle);
    town.ready("kube-system", &["deployment/coredns"], "Available")?;
    let agent = Agent::of(town, NODE, None)?;
    // What comes of a cluster's beginning has settled.
    thread::sleep(Duration::from_secs(5));
    println!("\nalone: idle {:.2} % of a core, {}", agent.load(idle)?, shown(agent.memory()?));

    let proxy = Proxy::start(town)?;
    let mut connection = proxy.connect()?;
    let _kwok = fill(town, &proxy, &size)?;
    let agent = Agent::of(town, NODE, None)?;
    println!(
        "{} nodes, {} pods and {} of this node, {} policies",
        size.nodes, size.pods, size.local, size.policies
    );
    println!("as it grew: {}", shown(agent.memory()?));

    let mut last = agent;
    for cold in [false, true] {
        for _ in 0..args.starts {
            last = restarted(town, last, cold)?;
            let took = last.start_took(STARTING)?;
            // Routes and Events are on their way still.
            thread::sleep(Duration::from_secs(3));
            let from = if cold { "from nothing pinned" } else { "over what was pinned" };
            let (plan, write) =
                (last.number("weir_plan_seconds_sum")?, last.number("weir_apply_seconds_sum")?);
            println!(
                "start {from}: {took:.2} s to all programmed (compiling {plan:.2}, writing {write:.2}), {}",
                shown(last.memory()?)
            );
        }
    }
    let before = last.events("Pod")?;
    for number in 0..args.events {
        let begun = Instant::now();
        let (path, pod) = size.pod(number, &format!("passing-{number:04}"));
        connection.create(&path, &pod)?;
        // One that came a while ago goes: kwok has given it an address by then.
        if let Some(old) = number.checked_sub(40) {
            let (path, pod) = size.pod(old, &format!("passing-{old:04}"));
            connection.delete(&format!("{path}/{}", pod["metadata"]["name"].as_str().unwrap_or_default()))?;
        }
        thread::sleep(Duration::from_millis(args.every).saturating_sub(begun.elapsed()));
    }
    thread::sleep(Duration::from_secs(2));
    let after = last.events("Pod")?;
    let bound = |share: f64| {
        let found = quantile_between(&before, &after, share).context("the agent has heard of no pod")?;
        anyhow::Ok(format!("≤ {} s", found.0))
    };
    let (_, all) = quantile_between(&before, &after, 1.0).context("the agent has heard of no pod")?;
    println!(
        "{all} events of pods, arrival to maps: p50 {}, p99 {}, all {}",
        bound(0.5)?,
        bound(0.99)?,
        bound(1.0)?
    );
    println!("full: idle {:.2} % of a core, {}", last.load(idle)?, shown(last.memory()?));
    Ok(())
}

fn shown(memory: Memory) -> String {
    let Memory { resident, own, peak } = memory;
    format!("{resident:.1} MiB resident ({own:.1} own, {peak:.1} at most)")
}

/// Everything there is to know, and kwok, which goes on playing.
fn fill(town: &Town, proxy: &Proxy, size: &Size) -> Result<Kwok> {
    let begun = Instant::now();
    let say = |what: &str| eprintln!("[{:6.1} s] {what}", begun.elapsed().as_secs_f64());
    let mut connection = proxy.connect()?;
    fill::create(proxy, size.namespaces())?;
    fill::create(proxy, size.policies())?;
    fill::create(proxy, size.nodes())?;
    fill::accounts(&mut connection, size)?;
    say("namespaces, policies and nodes made");
    fill::create(proxy, size.local_pods(NODE))?;
    fill::create(proxy, size.pods())?;
    say("pods made");
    let kwok = Kwok::start(town)?;
    fill::settled(&mut connection, FILLING)?;
    say("all pods run");
    Ok(kwok)
}

/// Another agent in the place of this one. `cold`: and nothing of what it had programmed.
fn restarted<'a>(town: &'a Town, agent: Agent<'a>, cold: bool) -> Result<Agent<'a>> {
    let old = agent.pod;
    let name = old.name.rsplit('/').next().context("a pod has a name")?;
    if cold {
        hold(town, true)?;
        eventually("no agent runs", || {
            let pods = town.kubectl.json(&["get", "pods", "--namespace", NAMESPACE])?;
            ensure!(pods["items"].as_array().is_some_and(Vec::is_empty), "it still runs");
            Ok(())
        })?;
        let mut wipe = Command::new("rm");
        wipe.args(["-rf", "/sys/fs/bpf/weir"]);
        let output = town.cluster.machine(NODE)?.output(&mut wipe)?;
        ensure!(output.status.success(), "remove the pins: {}", String::from_utf8_lossy(&output.stderr));
        hold(town, false)?;
    } else {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        town.kubectl.run(&["delete", "pod", name, "--namespace", NAMESPACE, &limit])?;
    }
    Agent::of(town, NODE, Some(&old))
}

/// Keeps the DaemonSet off every node, or lets it come.
fn hold(town: &Town, held: bool) -> Result<()> {
    let value = if held { json!("true") } else { json!(null) };
    let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": { "weir.dev/held": value } } } } });
    let patch = format!("--patch={patch}");
    town.kubectl.run(&["patch", "daemonset", "weir-agent", "--namespace", NAMESPACE, &patch]).map(drop)
}
