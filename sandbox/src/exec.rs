//! Other processes in a pod: `weir sandbox exec`, and the same for tests.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitCode, Output, Stdio};

use anyhow::{Context, bail};
use netlink::Netns;
use tokio::process::Command;

use crate::ground;
use crate::process;
use crate::state::{self, State};
use crate::stub::{Place, spawn};
use crate::supervisor::Sandbox;

/// Becomes `command` in a pod (`namespace/name`, or a name that only one pod has) of a sandbox that is up: in its network
/// namespace and its node's cgroup, with its names.
pub fn exec(id: Option<&str>, pod: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    ground::require_root("weir sandbox exec")?;
    let state = state::choose(id)?;
    let key = find(&state, pod)?;
    let pod = &state.pods[&key];
    if !pod.stub.is_alive() {
        bail!("pod {key} is not there any more");
    }
    let netns = Netns::open(format!("/proc/{}/ns/net", pod.stub.pid))?;
    let place = Place {
        cgroup: state.nodes.get(pod.node).and_then(|node| node.cgroup.clone()),
        parent: None,
        resolv_conf: Some(pod.resolv_conf.clone()),
    };
    let command: Vec<OsString> = command.iter().map(OsString::from).collect();
    // Held until the very exec: the new program inherits the thread's namespace.
    let _inside = netns.enter()?;
    spawn(&place, &command)?;
    Ok(ExitCode::FAILURE)
}

fn find(state: &State, pod: &str) -> anyhow::Result<String> {
    if state.pods.contains_key(pod) {
        return Ok(pod.to_owned());
    }
    let named = |key: &&String| key.split_once('/').is_some_and(|(_, name)| name == pod);
    let keys: Vec<&String> = state.pods.keys().filter(named).collect();
    match keys.as_slice() {
        [key] => Ok((*key).clone()),
        [] => {
            let known: Vec<_> = state.pods.keys().map(String::as_str).collect();
            bail!("there is no pod {pod} in sandbox {}; there are {}", state.id, known.join(", "))
        }
        keys => {
            let keys: Vec<_> = keys.iter().map(|key| key.as_str()).collect();
            bail!("several pods are called {pod}: say which of {}", keys.join(", "))
        }
    }
}

/// A pod of a sandbox that this process holds.
pub struct PodHandle<'a> {
    sandbox: &'a Sandbox,
    key: String,
}

impl Sandbox {
    /// The pod `namespace/name`.
    pub fn pod(&self, key: &str) -> anyhow::Result<PodHandle<'_>> {
        if !self.pods.contains_key(key) {
            bail!("there is no pod {key} in this sandbox");
        }
        Ok(PodHandle { sandbox: self, key: key.to_owned() })
    }
}

impl PodHandle<'_> {
    /// A command that will run in the pod: its network namespace, its node's cgroup, its names. Start it with
    /// [`PodHandle::start`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let sandbox = self.sandbox;
        let pod = &sandbox.pods[&self.key];
        let mut command =
            process::stub(&sandbox.binaries.stub, "spawn", sandbox.nodes[pod.node].cgroup_path());
        let namespace = self.key.split('/').next().unwrap_or_default();
        command.arg("--resolv-conf").arg(sandbox.resolv_conf(namespace)).arg("--").arg(program);
        command
    }

    /// Starts what [`PodHandle::command`] made. It is killed when the child is dropped.
    pub fn start(&self, command: &mut Command) -> anyhow::Result<tokio::process::Child> {
        let pod = &self.sandbox.pods[&self.key];
        process::start_in(pod.netns(&self.sandbox.nodes[pod.node]), command)
    }

    /// Runs a command in the pod to its end.
    pub async fn exec(&self, command: &[&str]) -> anyhow::Result<Output> {
        let Some((program, arguments)) = command.split_first() else {
            bail!("exec in {}: no command", self.key)
        };
        let mut command = self.command(program);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.start(&mut command)?;
        child.wait_with_output().await.with_context(|| format!("wait for {program} in {}", self.key))
    }

    /// The namespace file of the pod, for tools that enter it themselves.
    pub fn netns(&self) -> &Path {
        let pod = &self.sandbox.pods[&self.key];
        pod.netns(&self.sandbox.nodes[pod.node]).path()
    }
}
