//! Weir as it is installed: one `weir-agent` a node, fed from a folder of manifests, and `weir-cni` for each pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::node::{CABLE, Node, Routes, namespace};
use super::{Cluster, Pod, Programs};
use crate::{attach, cni, place, serve};

pub(super) async fn build(programs: &Programs, policies: usize) -> Result<Cluster> {
    let folder = Path::new(place::FILES).join(format!("weir-{policies}"));
    let source = folder.join("objects");
    fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
    let nodes = Node::pair(Routes::Agent).await?;
    put(&source, "nodes.json", (0..).zip(&nodes).map(|(number, node)| node_object(number, node)).collect())?;
    put(&source, "policies.json", (0..policies).map(policy_object).collect())?;
    let mut cast = Cast::new();
    put(&source, "pods.json", cast.objects())?;

    let [first, second] = &nodes;
    let near_agent = Agent::start(programs, first, 0, &folder)?;
    let far_agent = Agent::start(programs, second, 1, &folder)?;
    let near = near_agent.network(programs, first)?;
    let far = far_agent.network(programs, second)?;
    let client = cast.wire("client", &near).await?;
    let near_server = cast.wire("near", &near).await?;
    let far_server = cast.wire("far", &far).await?;
    // What an API server would tell the other node: which addresses the pods got.
    put(&source, "pods.json", cast.objects())?;
    Ok(Cluster {
        client,
        near: near_server,
        far: Some(far_server),
        network: Some(near),
        _keep: vec![Box::new(near_agent), Box::new(far_agent), Box::new(nodes)],
    })
}

fn node_name(number: usize) -> String {
    format!("bench-{number}")
}

/// One `weir-agent`; it goes with this value.
struct Agent {
    child: Child,
    folder: PathBuf,
}

impl Agent {
    fn start(programs: &Programs, node: &Node, number: usize, folder: &Path) -> Result<Self> {
        let name = node_name(number);
        let own = folder.join(&name);
        place::mount_bpffs(&own.join("bpf"))?;
        let log = fs::File::create(own.join("agent.log")).context("make the log of an agent")?;
        let mut command = place::ourselves("become")?;
        command.arg("--").arg(programs.binaries.join("weir-agent"));
        command.arg("--node").arg(&name).arg("--source").arg(folder.join("objects"));
        command.arg("--pins").arg(own.join("bpf")).arg("--socket").arg(own.join("agent.sock"));
        command.arg("--conflist").arg(own.join("10-weir.conflist")).arg("--cni-state").arg(own.join("cni"));
        command.args(["--underlay", CABLE]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(Self { child: place::spawn_in(&node.netns, &mut command)?, folder: own })
    }

    /// Waits until the agent is ready, which it shows by writing the conflist.
    fn network(&self, programs: &Programs, node: &Node) -> Result<cni::Network> {
        let conflist = self.folder.join("10-weir.conflist");
        let deadline = Instant::now() + READY_TIMEOUT;
        while !conflist.exists() {
            let log = || fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default();
            let gone = !Path::new(&format!("/proc/{}/exe", self.child.id())).exists();
            ensure!(!gone, "the agent is gone: {}", log());
            ensure!(
                Instant::now() < deadline,
                "no conflist after {READY_TIMEOUT:?}; the agent says: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let list: Value = serde_json::from_slice(&fs::read(&conflist).context("read the conflist")?)
            .context("parse the conflist")?;
        let mut config = list["plugins"][0].clone();
        config["name"] = list["name"].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        Ok(cni::Network {
            program: programs.binaries.join("weir-cni"),
            path: programs.binaries.clone(),
            config,
            node: node.netns.try_clone()?,
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after this.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The pods of the cluster, as the API server would know them.
struct Cast {
    pods: Vec<(String, Value)>,
}

impl Cast {
    fn new() -> Self {
        let mut pods = vec![
            ("client".to_owned(), pod_object("client", "client", 0)),
            ("near".to_owned(), pod_object("near", "server", 0)),
            ("far".to_owned(), pod_object("far", "server", 1)),
        ];
        // Those that `attach` will wire and take away again, selected by as many policies as the server is.
        pods.extend((0..attach::MAX_PODS).map(attach::pod_name).map(|name| {
            let object = pod_object(&name, "server", 0);
            (name, object)
        }));
        Self { pods }
    }

    fn objects(&self) -> Vec<Value> {
        self.pods.iter().map(|(_, object)| object.clone()).collect()
    }

    /// Wires a pod and notes its addresses.
    async fn wire(&mut self, name: &str, network: &cni::Network) -> Result<Pod> {
        let netns = namespace().await?;
        let added = network.add(name, &netns)?;
        let Some((_, object)) = self.pods.iter_mut().find(|(pod, _)| pod == name) else {
            bail!("no pod is called {name}")
        };
        let ips: Vec<Value> = added.ips.iter().map(|ip| json!({ "ip": ip })).collect();
        object["status"] = json!({ "phase": "Running", "podIP": added.ips.first(), "podIPs": ips });
        let ip = added.ips.iter().find(|ip| ip.is_ipv4()).context("the plugin gave no IPv4 address")?;
        Pod::start(&netns, *ip)
    }
}

fn node_object(number: usize, node: &Node) -> Value {
    let pod_cidr = IpNet::from(node.pod_cidr);
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": node_name(number) },
        "spec": { "podCIDR": pod_cidr, "podCIDRs": [pod_cidr] },
        "status": { "addresses": [{ "type": "InternalIP", "address": node.ip }] },
    })
}

fn pod_object(name: &str, app: &str, node: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "default", "name": name, "uid": name, "labels": { "app": app } },
        "spec": { "nodeName": node_name(node), "containers": [{ "name": "bench", "image": "bench" }] },
    })
}

/// Even ones isolate the servers, odd ones the client; the first of each kind allows what is measured, the others what
/// nobody does, each with a selector or a block of its own.
fn policy_object(number: usize) -> Value {
    let ports = json!([{ "protocol": "TCP", "port": serve::ECHO_PORT, "endPort": serve::SINK_PORT }]);
    let app = |app: &str| json!({ "podSelector": { "matchLabels": { "app": app } } });
    let (selected, direction, rule) = match number {
        0 => ("server", "Ingress", json!({ "from": [app("client")], "ports": ports })),
        1 => ("client", "Egress", json!({ "to": [app("server")], "ports": ports })),
        _ if number.is_multiple_of(2) => {
            ("server", "Ingress", json!({ "from": [app(&format!("team-{number}"))], "ports": ports }))
        }
        _ => {
            let cidr = format!("172.{}.{}.0/24", 16 + number / 256, number % 256);
            ("client", "Egress", json!({ "to": [{ "ipBlock": { "cidr": cidr } }], "ports": ports }))
        }
    };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "default", "name": format!("policy-{number}") },
        "spec": {
            "podSelector": { "matchLabels": { "app": selected } },
            "policyTypes": [direction],
            direction.to_lowercase(): [rule],
        },
    })
}

/// Replaces a file of the agents' source by renaming, so that no half of it is read.
fn put(source: &Path, name: &str, objects: Vec<Value>) -> Result<()> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    let partial = source.with_extension("partial");
    fs::write(&partial, list.to_string()).with_context(|| format!("write {}", partial.display()))?;
    let path = source.join(name);
    fs::rename(&partial, &path).with_context(|| format!("move {} to {}", partial.display(), path.display()))
}

/// A thousand policies are compiled in this time too.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
