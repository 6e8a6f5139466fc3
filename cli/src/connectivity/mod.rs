//! `weir connectivity`: whether pods of a cluster reach each other, and whether policies hold, by real connections.
//!
//! Everything is made in a namespace of its own, which is deleted however the test ends. The pods run `weir` itself, from the
//! image that the agents run, so no other image is needed: some serve, some knock, and one on each node hears from the
//! agent what it drops, so that a denial counts with its policy and not as mere silence.

mod knock;
mod objects;
mod question;
mod report;
mod stage;
mod watcher;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::agents::{block_on, unless_closed};
use crate::cluster::{Cluster, Which};
use crate::format::Format;
use crate::install::{AGENT, NAMESPACE, image_of};
use objects::{Image, Place};
use question::Setting;
use report::Report;
use stage::Stage;

/// What an agent says of a drop travels with a node's log: this long after the answers it has come, or will not.
const DENIALS: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(300);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make pods, Services and policies in a namespace of their own, see who reaches whom, and take all of it away
    Test(TestArgs),
    /// What runs in the pods that are asked
    #[command(hide = true)]
    Serve,
    /// What runs in the pods that ask
    #[command(hide = true)]
    Knock {
        /// JSON
        knocks: String,
    },
    /// What runs in the pods that hear of drops
    #[command(hide = true)]
    Watch { namespace: String },
}

#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 when everything is as it must be, else 1.")]
struct TestArgs {
    #[command(flatten)]
    which: Which,
    /// The image to run, as the nodes' runtimes know it [default: the one that the agents run]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Only these nodes, one or two [default: two that are ready]
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Seconds until the pods must run, and again until they must have asked
    #[arg(long, value_name = "N", default_value_t = 120)]
    timeout: u64,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Test(args) => block_on(test(&args)),
        Command::Serve => knock::serve(),
        Command::Knock { knocks } => knock::knock_all(&knocks),
        Command::Watch { namespace } => block_on(watcher::watch(&namespace)),
    }
}

async fn test(args: &TestArgs) -> Result<ExitCode> {
    let cluster = Cluster::of(&args.which).await?;
    let daemon_set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": AGENT, "namespace": NAMESPACE },
    });
    let agents = cluster.get(&daemon_set).await?.with_context(|| {
        format!("{} has no DaemonSet {NAMESPACE}/{AGENT}: `weir install` makes Weir its network", cluster.url)
    })?;
    let container = &agents["spec"]["template"]["spec"]["containers"][0];
    let name = args.image.as_deref().or_else(|| image_of(&agents)).context("the agents have no image")?;
    let policy = container["imagePullPolicy"].as_str().unwrap_or("IfNotPresent");
    let image = Image { name: name.to_owned(), policy: policy.to_owned() };
    let nodes = choose(&cluster.list("v1", "Node", None, "").await?, &args.nodes)?;

    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let stage = Stage::set(&cluster, Duration::from_secs(args.timeout)).await?;
    eprintln!("weir connectivity test: {} in {}, on {}", stage.namespace, cluster.url, nodes.join(" and "));
    let outcome = tokio::select! {
        outcome = measure(&stage, &nodes, &image) => outcome,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("told to end")),
    };
    let struck = tokio::select! {
        struck = stage.strike() => struck,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted again")),
        _ = terminate.recv() => Err(anyhow::anyhow!("told to end")),
    };
    if let Err(error) = &struck {
        eprintln!("weir connectivity test: {error:#}: kubectl delete namespace {}", stage.namespace);
    }
    let report = outcome?;
    unless_closed(args.output.print(&report, |colour| report.table(colour)))?;
    Ok(if report.failed == 0 && struck.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// From nothing to all answers, and what the agents say to them.
async fn measure(stage: &Stage<'_>, nodes: &[String], image: &Image) -> Result<Report> {
    let namespace = stage.namespace.as_str();
    for object in objects::policies(namespace).iter().chain(&objects::services(namespace)) {
        stage.cluster.apply(object).await?;
    }
    let places: Vec<Place<'_>> =
        nodes.iter().enumerate().map(|(index, node)| Place { namespace, node, number: index + 1 }).collect();
    stage.open().await?;
    let (mut servers, mut watchers) = (Vec::new(), Vec::new());
    for place in &places {
        servers.extend(objects::servers(place, image));
        watchers.push(objects::watcher(place, image));
    }
    for pod in servers.iter().chain(&watchers) {
        stage.cluster.apply(pod).await?;
    }
    let running = stage.running(&[servers, watchers.clone()].concat()).await?;
    let setting = Setting {
        namespace: namespace.to_owned(),
        pods: running,
        services: stage.cluster.list("v1", "Service", Some(namespace), "").await?,
        nodes: stage.cluster.list("v1", "Node", None, "").await?,
    };
    let mut asked = Vec::new();
    for place in &places {
        for role in question::Role::ALL {
            let questions = setting.questions(role, place, &places)?;
            let knocks: Vec<_> = questions.iter().map(|question| &question.knock).collect();
            let pod = objects::knocker(place, image, role, &serde_json::to_string(&knocks)?);
            stage.cluster.apply(&pod).await?;
            asked.push((pod, questions));
        }
    }
    let mut answered = Vec::new();
    for (pod, questions) in asked {
        let answers: Vec<knock::Answer> = serde_json::from_str(&stage.last_words(&pod).await?)
            .with_context(|| format!("understand {}", objects::title(&pod)))?;
        ensure!(answers.len() == questions.len(), "{} has not answered everything", objects::title(&pod));
        answered.extend(questions.into_iter().zip(answers));
    }
    let begun = Instant::now();
    loop {
        let heard = stage.drops(&watchers).await?;
        let report = Report::of(namespace, nodes, &image.name, &answered, &heard);
        if report.failed == 0 || begun.elapsed() > DENIALS {
            return Ok(report);
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// The nodes to test: those named, or two that are ready, before others those that take any pod.
fn choose(nodes: &[Value], wanted: &[String]) -> Result<Vec<String>> {
    let name = |node: &Value| node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if !wanted.is_empty() {
        ensure!(wanted.len() <= 2, "--node: one or two nodes, not {}", wanted.len());
        ensure!(
            wanted.iter().collect::<BTreeSet<_>>().len() == wanted.len(),
            "--node: name two different nodes"
        );
        for wanted in wanted {
            if !nodes.iter().any(|node| name(node) == *wanted) {
                let known: Vec<_> = nodes.iter().map(name).collect();
                bail!("--node {wanted}: the cluster has no such node; it has {}", known.join(", "));
            }
        }
        return Ok(wanted.to_vec());
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is_ready = |node: &Value| {
        let conditions = list(&node["status"]["conditions"]);
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    let mut ready: Vec<&Value> = nodes.iter().filter(|node| is_ready(node)).collect();
    ready.sort_by_key(|node| {
        let taints = list(&node["spec"]["taints"]);
        (taints.iter().any(|taint| taint["effect"] != "PreferNoSchedule"), name(node))
    });
    ensure!(!ready.is_empty(), "no node of the cluster is ready: `weir status` on a node says why");
    Ok(ready.into_iter().take(2).map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str, tainted: bool) -> Value {
        let taints = if tainted { json!([{ "effect": "NoSchedule" }]) } else { json!([]) };
        json!({
            "metadata": { "name": name }, "spec": { "taints": taints },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        })
    }

    #[test]
    fn two_ready_nodes_are_taken_and_first_those_for_any_pod() {
        let nodes = [
            node("a", "True", true),
            node("b", "Unknown", false),
            node("c", "True", false),
            node("d", "True", false),
        ];
        assert_eq!(choose(&nodes, &[]).unwrap(), ["c", "d"]);
        assert_eq!(choose(&nodes[..3], &[]).unwrap(), ["c", "a"]);
        assert_eq!(choose(&nodes[..1], &[]).unwrap(), ["a"]);
        assert!(
            choose(&nodes[1..2], &[]).unwrap_err().to_string().contains("no node of the cluster is ready")
        );
    }

    #[test]
    fn nodes_that_are_named_exist_and_are_two_at_most() {
        let nodes = [node("a", "True", false), node("b", "True", false)];
        let wanted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(choose(&nodes, &wanted(&["b"])).unwrap(), ["b"]);
        for (names, says) in [
            (wanted(&["x"]), "--node x: the cluster has no such node; it has a, b"),
            (wanted(&["a", "a"]), "two different nodes"),
            (wanted(&["a", "b", "c"]), "one or two nodes, not 3"),
        ] {
            let error = choose(&nodes, &names).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
