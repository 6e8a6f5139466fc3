//! How long a pod takes to start: with Weir on one node, with the reference plugins on another, in turns.
//!
//! From the request that creates it, with its node named, to the first line that its program prints, by the clock of this
//! machine: what a person waits for, without the kubelet's own delay in saying so.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::scenarios::town::{AGNHOST, PATIENCE, Town};
use super::super::up::Network;
use super::fill::accounts_of;
use super::proxy::{Connection, Proxy};
use super::{on_a_cluster, quantile};
use crate::image::Profile;

/// The network of each node.
const NODES: [(&str, &str); 2] = [("node-1", "Weir"), ("node-2", "bridge + host-local")];
const NAMESPACE: &str = "starts";
const GLANCE: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How Weir is built: `debug` says only that the measurement works
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
    /// Each with pods on both nodes, one node after the other
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Pods that start together on a node
    #[arg(long, default_value_t = 5)]
    pods: usize,
}

pub(super) fn run(args: &Args) -> Result<()> {
    ensure!(args.rounds > 0 && args.pods > 0, "at least one round of one pod");
    on_a_cluster(2, Network::Both, args.profile, |town| measure(town, args))
}

fn measure(town: &Town, args: &Args) -> Result<()> {
    let proxy = Proxy::start(town)?;
    let mut connection = proxy.connect()?;
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    connection.create("/api/v1/namespaces", &namespace)?;
    accounts_of(&mut connection, NAMESPACE)?;
    // The first pods of a node find nothing warm.
    for (node, _) in NODES {
        start(&mut connection, node, "warm", args.pods)?;
    }
    let sandboxes = |connection: &mut Connection| -> Result<Vec<(f64, f64)>> {
        NODES.iter().map(|(node, _)| sandbox_seconds(connection, node)).collect()
    };
    let before = sandboxes(&mut connection)?;
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..args.rounds {
        let mut order = NODES;
        if round % 2 == 1 {
            order.reverse();
        }
        for (node, _) in order {
            let took = start(&mut connection, node, &format!("round-{round}"), args.pods)?;
            times.entry(node).or_default().extend(took);
        }
    }
    let after = sandboxes(&mut connection)?;
    println!("\n| | pods | p50 ms | p99 ms | sandbox, mean ms |\n|---|--:|--:|--:|--:|");
    for (index, (node, network)) in NODES.into_iter().enumerate() {
        let mut times = times.remove(node).unwrap_or_default();
        times.sort_by(f64::total_cmp);
        let (count, sum) = (after[index].0 - before[index].0, after[index].1 - before[index].1);
        let [p50, p99] = [0.5, 0.99].map(|share| 1000.0 * quantile(&times, share));
        println!("| {network} | {} | {p50:.0} | {p99:.0} | {:.0} |", times.len(), 1000.0 * sum / count);
    }
    Ok(())
}

/// Starts pods on this node and takes them away; how many seconds each took to say something.
fn start(connection: &mut Connection, node: &str, round: &str, pods: usize) -> Result<Vec<f64>> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let names: Vec<String> = (0..pods).map(|number| format!("{node}-{round}-{number}")).collect();
    let mut created = Vec::new();
    for name in &names {
        created.push(SystemTime::now());
        connection.create(&path, &pod(name, node))?;
    }
    until(connection, &path, "the pods run", |pods| {
        let running = pods.iter().filter(|pod| pod["status"]["phase"] == "Running");
        running.count() == names.len()
    })?;
    let mut took = Vec::new();
    for (name, created) in names.iter().zip(created) {
        let said = first_word(connection, &format!("{path}/{name}/log?timestamps=true"))?;
        took.push(
            said.duration_since(created)
                .with_context(|| format!("{name} spoke before it was"))?
                .as_secs_f64(),
        );
    }
    connection.delete(&path)?;
    until(connection, &path, "the pods are gone", <[Value]>::is_empty)?;
    Ok(took)
}

fn until(connection: &mut Connection, path: &str, what: &str, so: impl Fn(&[Value]) -> bool) -> Result<()> {
    let begun = Instant::now();
    loop {
        let list = connection.get(path)?;
        if so(list["items"].as_array().map_or(&[], Vec::as_slice)) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{what}: not after {} s", PATIENCE.as_secs());
        thread::sleep(GLANCE);
    }
}

/// When the runtime took the program's first line.
fn first_word(connection: &mut Connection, path: &str) -> Result<SystemTime> {
    let begun = Instant::now();
    loop {
        let text = connection.text(path)?;
        if let Some(word) = text.split_whitespace().next() {
            let time: jiff::Timestamp = word.parse().with_context(|| format!("`{word}` is no time"))?;
            return Ok(time.into());
        }
        ensure!(begun.elapsed() < PATIENCE, "{path} is empty after {} s", PATIENCE.as_secs());
        thread::sleep(GLANCE);
    }
}

/// How many sandboxes a node's kubelet has had made, and how long that took in all.
fn sandbox_seconds(connection: &mut Connection, node: &str) -> Result<(f64, f64)> {
    let text = connection.text(&format!("/api/v1/nodes/{node}/proxy/metrics"))?;
    let of = |part: &str| {
        let prefix = format!("kubelet_run_podsandbox_duration_seconds_{part}{{");
        let line = text.lines().find(|line| line.starts_with(&prefix));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        value.with_context(|| format!("the kubelet of {node} has no {prefix}"))
    };
    Ok((of("count")?, of("sum")?))
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false, "enableServiceLinks": false,
            // Whoever is deleted at once is gone for the API server alone.
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": AGNHOST, "imagePullPolicy": "Never",
                "args": ["netexec", "--http-port=8080", "--udp-port=-1"],
            }],
        },
    })
}
