//! Other processes in a pod: `weir sandbox exec`, and the same for tests.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitCode, Output, Stdio};

use anyhow::{Context, bail};
use netlink::Netns;
use tokio::process::Command;

use crate::ground;
use crate::process::{self, Owned};
use crate::report::OUTSIDE;
use crate::state::{self, State};
use crate::stub::{Place, spawn};
use crate::supervisor::Sandbox;

/// Becomes `command` in a pod (or in a workload's first) of a sandbox that is up: in its network namespace and its node's
/// cgroup, with its names.
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

/// By `namespace/name` or `name`, of a pod or of its workload; of a workload's pods the first.
fn find(state: &State, wanted: &str) -> anyhow::Result<String> {
    if state.pods.contains_key(wanted) {
        return Ok(wanted.to_owned());
    }
    let is = |whole: &str| whole == wanted || whole.split_once('/').is_some_and(|(_, name)| name == wanted);
    let mut found: BTreeMap<&str, &String> = BTreeMap::new();
    for (key, pod) in &state.pods {
        let workload = pod.workload.split_once(' ').map_or("", |(_, name)| name);
        if is(key) {
            found.entry(key).or_insert(key);
        } else if is(workload) {
            found.entry(&pod.workload).or_insert(key);
        }
    }
    let list = |names: Vec<&str>| names.join(", ");
    match found.len() {
        1 => Ok(found.into_values().next().cloned().unwrap_or_default()),
        0 => {
            let known = list(state.pods.keys().map(String::as_str).collect());
            bail!("there is no pod {wanted} in sandbox {}; there are {known}", state.id)
        }
        _ => bail!("{wanted} may be any of these: {}", list(found.into_keys().collect())),
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

    /// The network namespace of an end as reports name it: `namespace/name`, `node/NAME`, `outside`; and of `router`,
    /// which stands between them.
    pub fn netns(&self, end: &str) -> anyhow::Result<&Netns> {
        let node = |name| self.nodes.iter().find(|node| node.name == name).map(|node| &node.netns);
        let found = match (end, end.strip_prefix("node/")) {
            (OUTSIDE, _) => Some(&self.underlay.outside),
            ("router", _) => Some(&self.underlay.router),
            (_, Some(name)) => node(name),
            _ => self.pods.get(end).map(|pod| pod.netns(&self.nodes[pod.node])),
        };
        found.with_context(|| format!("there is no {end} in this sandbox"))
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
    pub fn start(&self, command: &mut Command) -> anyhow::Result<Owned> {
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
        child.output().await.with_context(|| format!("wait for {program} in {}", self.key))
    }

    /// The namespace file of the pod, for tools that enter it themselves.
    pub fn netns(&self) -> &Path {
        let pod = &self.sandbox.pods[&self.key];
        pod.netns(&self.sandbox.nodes[pod.node]).path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{PodState, Process};

    #[track_caller]
    fn check(wanted: &str, expected: Result<&str, &str>) {
        let process = Process { pid: 1, started: 1 };
        let pod = |workload: &str| PodState {
            workload: workload.into(),
            node: 0,
            stub: process,
            resolv_conf: "/dev/null".into(),
        };
        let pods = [
            ("shop/web-1", "Deployment shop/web"),
            ("shop/web-2", "Deployment shop/web"),
            ("ops/web", "Pod ops/web"),
            ("shop/db-0", "StatefulSet shop/db"),
        ];
        let pods = pods.map(|(key, workload)| (key.to_owned(), pod(workload))).into();
        let state = State { id: "a1".into(), supervisor: process, nodes: Vec::new(), pods };
        let found = find(&state, wanted).map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_pod_is_found_by_its_own_name_or_its_workloads() {
        check("shop/web-2", Ok("shop/web-2"));
        check("web-2", Ok("shop/web-2"));
        check("shop/web", Ok("shop/web-1"));
        check("db", Ok("shop/db-0"));
    }

    #[test]
    fn a_name_that_means_several_is_refused_with_a_list() {
        check("web", Err("web may be any of these: Deployment shop/web, ops/web"));
        check(
            "x",
            Err("there is no pod x in sandbox a1; there are ops/web, shop/db-0, shop/web-1, shop/web-2"),
        );
    }
}
