//! The scenario, as root: the table, a change, the flows, a dead agent, nothing left.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::remains::Remains;
use crate::process;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    binaries: PathBuf,
    #[arg(long)]
    examples: PathBuf,
}

/// Who calls whom, before and after the agent's death. The pods are named by what their names begin with.
const KNOCKS: &[(&str, &str)] = &[
    ("shop/frontend", "cart.shop:7070"),
    ("shop/frontend", "db.shop:5432"),
    ("shop/debug", "cart.shop:7070"),
    ("shop/debug", "db.shop:5432"),
    ("shop/cache", "prometheus.ops:9090"),
    ("ops/prometheus", "cart.shop:7070"),
    ("ops/prometheus", "db.shop:5432"),
];

const CHANGE: &str = "frontend-may-read-db.yaml";

pub(crate) fn command(args: Args) -> Result<()> {
    // Ctrl-C ends the sandbox; we notice, and clean up behind it.
    interrupts().thread_block().context("block SIGINT")?;
    let begun = Instant::now();
    let before = Remains::now()?;
    let manifests = Copy::of(&args.examples.join("shop"))?;
    let weir = args.binaries.join("weir");

    title("examples/shop: nodes and pods as network namespaces, every pair of them tried");
    shown(&["weir", "sandbox", "-f", "examples/shop", "--watch"]);
    let mut sandbox = Sandbox::start(&weir, &manifests.path)?;
    sandbox.until_quiet()?;

    title("A policy is added while everything is up: what flipped");
    let change = args.examples.join("shop-change").join(CHANGE);
    print!("{}", fs::read_to_string(&change).with_context(|| format!("read {}", change.display()))?);
    println!();
    fs::copy(&change, manifests.path.join(CHANGE)).context("copy the change")?;
    sandbox.until_line(|line| line.starts_with("(applied"))?;

    title("An agent is killed while traffic flows: no verdict changes");
    let verdicts = sandbox.knock_all()?;
    let traffic = sandbox.traffic("shop/frontend", "cart.shop:7070")?;
    thread::sleep(Duration::from_millis(700));
    let (node, agent) = sandbox.agent_of("shop/frontend")?;
    kill(Pid::from_raw(agent), Signal::SIGKILL)
        .with_context(|| format!("kill the agent, process {agent}"))?;
    println!("{node}: weir-agent, process {agent}, killed with SIGKILL");
    thread::sleep(Duration::from_millis(700));
    let after = sandbox.knock_all()?;
    println!("shop/frontend → cart.shop:7070 meanwhile: {}\n", traffic.end()?);
    for ((from, to), (before, after)) in KNOCKS.iter().zip(verdicts.iter().zip(&after)) {
        println!("  {from:<16} → {to:<20} before: {before:<34} after: {after}");
    }
    let same = |verdicts: &[String]| verdicts.iter().map(|it| it == "denied").collect::<Vec<_>>();
    ensure!(same(&verdicts) == same(&after), "a verdict changed with the agent's death");

    title("A few flows, as the other node's agent saw them");
    sandbox.flows(&node)?;

    title("Down again");
    let id = sandbox.id.clone();
    sandbox.down()?;
    drop(manifests);
    before.ensure_nothing_of(&id)?;
    println!(
        "no namespace, link, mount, cgroup or file is left; {:.1} s in all",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

fn interrupts() -> SigSet {
    SigSet::from_iter([Signal::SIGINT])
}

fn title(text: &str) {
    println!("\n── {text}\n");
}

fn shown(command: &[&str]) {
    println!("# {}\n", command.join(" "));
}

/// A copy of the example that the demo may change; it goes with this value.
struct Copy {
    path: PathBuf,
}

impl Copy {
    fn of(example: &Path) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("weir-demo-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        let copy = Self { path };
        for entry in fs::read_dir(example).with_context(|| format!("list {}", example.display()))? {
            let entry = entry.with_context(|| format!("list {}", example.display()))?;
            let to = copy.path.join(entry.file_name());
            // The expectation speaks of the shop as it is before the change.
            if entry.path().extension().is_some_and(|it| it == "yaml") && entry.file_name() != "expect.yaml" {
                fs::copy(entry.path(), &to).with_context(|| format!("write {}", to.display()))?;
            }
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Its absence is checked in the end; on the way out of a failure there is nobody to tell.
        fs::remove_dir_all(&self.path).ok();
    }
}

/// `weir sandbox --watch`, as a person has it in another terminal.
struct Sandbox {
    weir: PathBuf,
    child: Child,
    /// What it prints, as it comes.
    lines: Receiver<String>,
    /// Known once it is up.
    id: String,
    /// Full names, known once it is up.
    pods: Vec<String>,
}

impl Sandbox {
    fn start(weir: &Path, manifests: &Path) -> Result<Self> {
        let mut command = Command::new(weir);
        command.args(["sandbox", "--watch", "--filename"]).arg(manifests).stdin(Stdio::null());
        // A child has its parent's mask, and this one is the one to hear Ctrl-C.
        interrupts().thread_unblock().context("unblock SIGINT")?;
        let child = command.stdout(Stdio::piped()).spawn();
        interrupts().thread_block().context("block SIGINT")?;
        let mut child = child.with_context(|| format!("start {}", weir.display()))?;
        let stdout = child.stdout.take().context("weir has no stdout")?;
        let (sender, lines) = mpsc::channel();
        // Ends with its sandbox, or with nobody listening any more.
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Self { weir: weir.to_owned(), child, lines, id: String::new(), pods: Vec::new() })
    }

    /// Shows what the sandbox prints until it pauses: then the table is complete.
    fn until_quiet(&mut self) -> Result<()> {
        let mut wait = UP_TIMEOUT;
        loop {
            match self.lines.recv_timeout(wait) {
                Ok(line) => println!("{line}"),
                Err(RecvTimeoutError::Timeout) if wait == QUIET => break,
                Err(RecvTimeoutError::Timeout) => bail!("the sandbox printed nothing within {UP_TIMEOUT:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the sandbox ended: {}", self.child.wait()?),
            }
            wait = QUIET;
        }
        let list = process::output(Command::new(&self.weir).args(["sandbox", "list"]))?;
        let ours = format!("supervisor {}", self.child.id());
        let line =
            list.lines().find(|line| line.ends_with(&ours)).context("weir sandbox list does not show it")?;
        self.id = line.split_whitespace().next().unwrap_or_default().to_owned();
        for status in self.statuses()? {
            let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
            self.pods.extend(endpoints.iter().filter_map(|it| it["name"].as_str()).map(str::to_owned));
        }
        Ok(())
    }

    fn until_line(&mut self, last: impl Fn(&str) -> bool) -> Result<()> {
        loop {
            let line = self.lines.recv_timeout(UP_TIMEOUT).context("wait for the sandbox to print")?;
            println!("{line}");
            if last(&line) {
                return Ok(());
            }
        }
    }

    fn statuses(&self) -> Result<Vec<Value>> {
        let text = process::output(Command::new(&self.weir).args([
            "status",
            "--output",
            "json",
            "--sandbox",
            &self.id,
        ]))?;
        serde_json::from_str(&text).context("parse what weir status printed")
    }

    /// The node of a pod, and its agent's process.
    fn agent_of(&self, pod: &str) -> Result<(String, i32)> {
        let pod = self.pod(pod)?;
        for status in self.statuses()? {
            let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
            if endpoints.iter().any(|it| it["name"] == *pod) {
                let pid = status["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
                let node = status["node"].as_str().unwrap_or_default();
                return Ok((node.to_owned(), pid.context("weir status shows no pid")?));
            }
        }
        bail!("no agent has the endpoint {pod}")
    }

    /// The first pod whose name begins so.
    fn pod(&self, start: &str) -> Result<&str> {
        let pod = self.pods.iter().find(|pod| pod.starts_with(start));
        pod.map(String::as_str).with_context(|| format!("no pod is called {start}…"))
    }

    /// Our own client, in a pod.
    fn client(&self, pod: &str, arguments: [&str; 2]) -> Result<Command> {
        let ourselves = std::env::current_exe().context("find our own program")?;
        let mut command = Command::new(&self.weir);
        command.args(["sandbox", "exec", "--id", &self.id, self.pod(pod)?, "--"]);
        command.arg(ourselves).arg("demo-client").args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(command)
    }

    /// Every knock, all at once.
    fn knock_all(&self) -> Result<Vec<String>> {
        let started: Vec<Child> = KNOCKS
            .iter()
            .map(|(from, to)| self.client(from, ["knock", to])?.spawn().context("start a client"))
            .collect::<Result<_>>()?;
        started.into_iter().map(answer).collect()
    }

    fn traffic(&self, from: &str, to: &str) -> Result<Traffic> {
        Ok(Traffic(self.client(from, ["traffic", to])?.spawn().context("start the traffic")?))
    }

    fn flows(&self, except: &str) -> Result<()> {
        let other = PathBuf::from("/run/weir/sandbox").join(&self.id);
        let nodes = ["node-0", "node-1"].into_iter().find(|node| *node != except).unwrap_or("node-0");
        let socket = other.join(nodes).join("agent.sock");
        let flows = ["flows", "--protocol", "tcp", "--last", "8"];
        shown(&["weir", &flows.join(" ")]);
        process::run(Command::new(&self.weir).args(flows).arg("--socket").arg(socket))
    }

    fn down(mut self) -> Result<()> {
        process::run(Command::new(&self.weir).args(["sandbox", "down", &self.id]))?;
        let status = self.child.wait().context("wait for the sandbox")?;
        ensure!(status.success(), "the sandbox ended with {status}");
        Ok(())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // On the way out of a failure: as Ctrl-C would.
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).ok();
            self.child.wait().ok();
        }
    }
}

/// A client that calls until it is told to stop.
struct Traffic(Child);

impl Traffic {
    fn end(mut self) -> Result<String> {
        drop(self.0.stdin.take());
        answer(self.0)
    }
}

/// What a client printed.
fn answer(child: Child) -> Result<String> {
    let output = child.wait_with_output().context("wait for a client")?;
    ensure!(output.status.success(), "a client ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A cold page cache included.
const UP_TIMEOUT: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_millis(300);
