//! What every scenario has: a cluster with Weir on two nodes, and eyes and hands in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::{Flow, FlowLine, Status};
use serde_json::{Value, json};

use crate::cluster::kubectl::Kubectl;
use crate::cluster::machine::Machine;
use crate::cluster::probe::{self, Answer, Target};
use crate::cluster::state::Cluster;

/// Every wait is at most so long: a machine that does three other things at once takes ten times as long as an idle one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const GLANCE: Duration = Duration::from_millis(200);
/// Kubernetes' own server of names, echoes and probes.
pub(crate) const AGNHOST: &str = "localhost/agnhost:1";

pub(crate) struct Town {
    pub(crate) cluster: Cluster,
    pub(crate) kubectl: Kubectl,
    /// How often the agent is to be replaced under load.
    pub(crate) rolls: usize,
}

/// A pod that runs.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) node: String,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) uid: String,
    pub(crate) restarts: u64,
}

/// Asks again and again until the answer is right; the last wrong one is the error.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(answer) => return Ok(answer),
            Err(error) if begun.elapsed() > PATIENCE => {
                return Err(error).with_context(|| format!("{what}: not after {} s", PATIENCE.as_secs()));
            }
            Err(_) => thread::sleep(GLANCE),
        }
    }
}

impl Town {
    /// The pods of a namespace that have addresses and are not about to go.
    pub(crate) fn pods(&self, namespace: &str) -> Result<Vec<Pod>> {
        let list = self.kubectl.json(&["get", "pods", "--namespace", namespace])?;
        let items = list["items"].as_array().context("a list without items")?;
        Ok(items
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(pod)
            .collect())
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        let value = self.kubectl.json(&["get", "pod", name, "--namespace", namespace])?;
        pod(&value).with_context(|| format!("pod {namespace}/{name} has no address"))
    }

    /// Waits until each of these (`pods --all`, `deployment/web`) is ready.
    pub(crate) fn ready(&self, namespace: &str, what: &[&str], condition: &str) -> Result<()> {
        let (limit, condition) =
            (format!("--timeout={}s", PATIENCE.as_secs()), format!("--for=condition={condition}"));
        let arguments = [&["wait", &condition, &limit, "--namespace", namespace], what].concat();
        self.kubectl.run(&arguments).map(drop)
    }

    /// A namespace with these pods in it, all of them running. It goes away with the value.
    pub(crate) fn settle(&self, namespace: &str, labels: Value, pods: &[Value]) -> Result<Settlement> {
        let settlement = Settlement { kubectl: self.kubectl.clone(), namespace: namespace.to_owned() };
        let mut items = vec![json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace, "labels": labels },
        })];
        items.extend_from_slice(pods);
        self.apply(namespace, &items)?;
        if !pods.is_empty() {
            self.ready(namespace, &["pods", "--all"], "Ready")?;
        }
        Ok(settlement)
    }

    /// Applies objects; those of kinds that live in namespaces go to `namespace`.
    pub(crate) fn apply(&self, namespace: &str, objects: &[Value]) -> Result<()> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        self.kubectl.feed(&["apply", "--namespace", namespace, "--filename=-"], &list.to_string()).map(drop)
    }

    /// A process in the pod, as this machine knows it.
    pub(crate) fn pid(&self, pod: &Pod) -> Result<i32> {
        let first = self.processes(pod)?.into_iter().next();
        first.with_context(|| format!("no process runs in {}", pod.name))
    }

    /// The processes of all containers of the pod.
    pub(crate) fn processes(&self, pod: &Pod) -> Result<Vec<i32>> {
        let node = probe::unified_cgroup(self.cluster.machine(&pod.node)?.pid)?;
        let folder = below(&node, &format!("pod{}", pod.uid))
            .with_context(|| format!("{} has no cgroup on {}", pod.name, pod.node))?;
        Ok(processes(&folder))
    }

    /// Knocks at all of these from within the pod.
    pub(crate) fn knock(&self, from: &Pod, targets: &[Target]) -> Result<Vec<Answer>> {
        probe::from_place_of(self.pid(from)?, targets)
            .with_context(|| format!("knock at doors from {}", from.name))
    }

    /// `GET path` of a node's agent.
    pub(crate) fn ask(&self, node: &str, path: &str) -> Result<String> {
        let answer = self.cluster.machine(node)?.inside(|| {
            let mut socket = UnixStream::connect(api::DEFAULT_SOCKET)
                .with_context(|| format!("connect to the agent of {node}"))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            write!(socket, "GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            socket.read_to_string(&mut text).with_context(|| format!("read {path} of {node}"))?;
            Ok(text)
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "GET {path} of {node}: {head}");
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            return unchunked(body).with_context(|| format!("read {path} of {node}"));
        }
        Ok(body.to_owned())
    }

    pub(crate) fn status(&self, node: &str) -> Result<Status> {
        serde_json::from_str(&self.ask(node, "/v1/status")?).with_context(|| format!("status of {node}"))
    }

    /// What the agents have kept of drops, those of the nodes that are up.
    pub(crate) fn denials(&self) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        let is_up = |node: &String| self.cluster.machine(node).is_ok_and(Machine::is_alive);
        for node in self.nodes().into_iter().filter(is_up) {
            for line in self.ask(&node, "/v1/flows?verdict=denied")?.lines() {
                match serde_json::from_str(line).with_context(|| format!("a flow of {node}: {line}"))? {
                    FlowLine::Flow(flow) => flows.push(*flow),
                    FlowLine::Lost { .. } => {}
                }
            }
        }
        Ok(flows)
    }

    pub(crate) fn nodes(&self) -> Vec<String> {
        (1..=self.cluster.nodes).map(crate::cluster::state::node_name).collect()
    }
}

fn pod(value: &Value) -> Option<Pod> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (metadata, status) = (&value["metadata"], &value["status"]);
    let ips = status["podIPs"].as_array()?.iter().filter_map(|ip| ip["ip"].as_str()?.parse().ok());
    let labels = metadata["labels"].as_object().into_iter().flatten();
    let restarts = status["containerStatuses"].as_array().into_iter().flatten();
    Some(Pod {
        name: format!("{}/{}", text(&metadata["namespace"])?, text(&metadata["name"])?),
        labels: labels.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect(),
        node: text(&value["spec"]["nodeName"])?,
        ips: ips.collect(),
        uid: text(&metadata["uid"])?,
        restarts: restarts.filter_map(|container| container["restartCount"].as_u64()).sum(),
    })
}

/// The folder of this name somewhere below.
fn below(folder: &Path, name: &str) -> Option<PathBuf> {
    let inner: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    let inner = inner.into_iter().filter(|path| path.is_dir());
    inner.into_iter().find_map(|path| if path.ends_with(name) { Some(path) } else { below(&path, name) })
}

/// Those of the control group, then those below it.
fn processes(folder: &Path) -> Vec<i32> {
    // It may be gone by now, and then it has none.
    let own = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.extend(processes(&entry.path()));
    }
    found
}

/// The pieces of an answer whose length was not known in advance.
fn unchunked(mut text: &str) -> Result<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n").context("a piece without a size")?;
        let size = usize::from_str_radix(size.trim(), 16).context("a piece's size")?;
        if size == 0 {
            return Ok(whole);
        }
        whole.push_str(rest.get(..size).context("a piece that is cut off")?);
        text = rest.get(size + 2..).context("a piece that is cut off")?;
    }
}

/// A namespace that goes away with its scenario, however that ends.
pub(crate) struct Settlement {
    kubectl: Kubectl,
    namespace: String,
}

impl Settlement {
    /// Waits until nothing is left of it.
    pub(crate) fn leave(self) -> Result<()> {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl.run(&["delete", "namespace", &self.namespace, &limit]).map(drop)
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        // What a scenario that failed leaves is in nobody's way but the next one's of the same name.
        self.kubectl
            .run(&["delete", "namespace", &self.namespace, "--wait=false", "--ignore-not-found"])
            .ok();
    }
}

/// A pod of agnhost with these arguments, on this node.
pub(crate) fn agnhost(name: &str, node: &str, labels: Value, arguments: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": node },
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "agnhost", "image": AGNHOST, "imagePullPolicy": "Never", "args": arguments,
            }],
        },
    })
}

/// A pod that tells its name to whoever asks, by TCP at 8080 and by UDP at 8081.
pub(crate) fn server(name: &str, node: &str, labels: Value) -> Value {
    agnhost(name, node, labels, &["netexec", "--http-port=8080", "--udp-port=8081"])
}

/// That something is not so.
pub(crate) fn refuse<T>(complaints: &[String]) -> Result<T> {
    let shown: Vec<_> = complaints.iter().take(12).map(String::as_str).collect();
    bail!("{} wrong, among them:\n  {}", complaints.len(), shown.join("\n  "))
}
