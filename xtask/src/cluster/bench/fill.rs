//! A large cluster around one real node: objects that only the API server knows, and kwok, which plays their kubelets.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::scenarios::town::{Town, eventually};
use super::super::tools::{self, PAUSE};
use super::proxy::{Connection, Proxy};

/// On the nodes that kwok plays.
const PLAYED: &str = "kwok.x-k8s.io/node";
/// Policies and applications of a namespace.
const APPLICATIONS: usize = 10;
const WRITERS: usize = 4;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) nodes: usize,
    pub(super) pods: usize,
    pub(super) namespaces: usize,
    pub(super) policies: usize,
    /// Real pods, on the one real node.
    pub(super) local: usize,
}

pub(super) fn namespace(number: usize) -> String {
    format!("town-{number:03}")
}

fn node(number: usize) -> String {
    format!("far-{number:04}")
}

/// Where an object is created, and the object.
pub(super) type Creation = (String, Value);

impl Size {
    pub(super) fn namespaces(&self) -> Vec<Creation> {
        let namespace = |number: usize| {
            let labels = json!({ "team": format!("t{}", number % 10) });
            let metadata = json!({ "name": namespace(number), "labels": labels });
            (
                "/api/v1/namespaces".to_owned(),
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }),
            )
        };
        (0..self.namespaces).map(namespace).collect()
    }

    /// Nodes without a DaemonSet's pod: they have no operating system.
    pub(super) fn nodes(&self) -> Vec<Creation> {
        let node = |number: usize| {
            let (high, low) = (number / 256, number % 256);
            let object = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": node(number), "annotations": { PLAYED: "fake" }, "labels": { "type": "kwok" } },
                "spec": {
                    "podCIDR": format!("10.{}.{low}.0/24", 128 + high),
                    "podCIDRs": [format!("10.{}.{low}.0/24", 128 + high), format!("fd00:128:0:{number:x}::/64")],
                    "taints": [{ "key": PLAYED, "value": "fake", "effect": "NoSchedule" }],
                },
                "status": {
                    "addresses": [{ "type": "InternalIP", "address": format!("10.91.{high}.{low}") }],
                    "allocatable": { "cpu": "32", "memory": "256Gi", "pods": "110" },
                    "capacity": { "cpu": "32", "memory": "256Gi", "pods": "110" },
                },
            });
            ("/api/v1/nodes".to_owned(), object)
        };
        (0..self.nodes).map(node).collect()
    }

    /// As a Deployment's would look.
    pub(super) fn pods(&self) -> Vec<Creation> {
        (0..self.pods).map(|number| self.pod(number, &format!("pod-{number:05}"))).collect()
    }

    /// The `number`th pod, under this name.
    pub(super) fn pod(&self, number: usize, name: &str) -> Creation {
        let mut pod = pod(name, &node(number % self.nodes.max(1)), number / self.namespaces.max(1));
        pod["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
        (format!("/api/v1/namespaces/{}/pods", namespace(number % self.namespaces.max(1))), pod)
    }

    /// Pods of the real node.
    pub(super) fn local_pods(&self, on: &str) -> Vec<Creation> {
        let local = |number: usize| {
            let namespace = namespace(number % self.namespaces);
            (format!("/api/v1/namespaces/{namespace}/pods"), pod(&format!("local-{number:03}"), on, number))
        };
        (0..self.local).map(local).collect()
    }

    /// Each about one application of its namespace: pods of it, pods elsewhere by two labels, and blocks.
    pub(super) fn policies(&self) -> Vec<Creation> {
        let policy = |number: usize| {
            let (of, app) = (number % self.namespaces, number / self.namespaces);
            let labels = |key: &str, value: String| json!({ "matchLabels": { key: value } });
            let object = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "name": format!("policy-{app:02}") },
                "spec": {
                    "podSelector": labels("app", format!("a{}", app % APPLICATIONS)),
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [
                        {
                            "from": [
                                { "podSelector": labels("app", format!("a{}", (app + 1) % APPLICATIONS)) },
                                {
                                    "namespaceSelector": labels("team", format!("t{}", number % 7)),
                                    "podSelector": labels("tier", format!("r{}", number % 3)),
                                },
                            ],
                            "ports": [{ "port": 80 }, { "port": 8000 + number % 50, "endPort": 8100 }],
                        },
                        {
                            "from": [{ "ipBlock": {
                                "cidr": format!("192.168.{}.0/24", number % 256),
                                "except": [format!("192.168.{}.128/25", number % 256)],
                            } }],
                            "ports": [{ "port": 443 }],
                        },
                    ],
                    "egress": [
                        { "ports": [{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }] },
                        { "to": [{ "podSelector": {} }] },
                    ],
                },
            });
            (format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", namespace(of)), object)
        };
        (0..self.policies).map(policy).collect()
    }
}

fn pod(name: &str, node: &str, number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                "app": format!("a{}", number % APPLICATIONS), "tier": format!("r{}", number % 3),
                "pod-template-hash": format!("{:010x}", number % APPLICATIONS),
                "app.kubernetes.io/managed-by": "bench",
            },
        },
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false, "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": PAUSE, "imagePullPolicy": "Never",
                "ports": [{ "name": "http", "containerPort": 80 }],
                "env": [{ "name": "LOG_LEVEL", "value": "info" }],
                "resources": { "requests": { "cpu": "1m", "memory": "1Mi" } },
            }],
        },
    })
}

/// Creates all of them, some at a time.
pub(super) fn create(proxy: &Proxy, creations: Vec<Creation>) -> Result<()> {
    let left = Mutex::new(VecDeque::from(creations));
    thread::scope(|scope| {
        let write = || -> Result<()> {
            let mut connection = proxy.connect()?;
            loop {
                let next = left.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
                let Some((path, object)) = next else { return Ok(()) };
                connection.create(&path, &object)?;
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        writers.into_iter().try_for_each(|it| it.join().unwrap_or_else(|it| std::panic::resume_unwind(it)))
    })
}

/// Waits until namespaces may have pods: their accounts come by themselves.
pub(super) fn accounts(connection: &mut Connection, size: &Size) -> Result<()> {
    eventually("each namespace has its account", || {
        let accounts = connection.get("/api/v1/serviceaccounts?fieldSelector=metadata.name%3Ddefault")?;
        let found = accounts["items"].as_array().map_or(0, Vec::len);
        ensure!(found >= size.namespaces, "{found} of {} accounts", size.namespaces);
        Ok(())
    })
}

pub(super) fn accounts_of(connection: &mut Connection, namespace: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
    eventually("the namespace has its account", || connection.get(&path).map(drop))
}

/// Plays the kubelets of the nodes that are not there.
pub(super) struct Kwok(Child);

impl Kwok {
    pub(super) fn start(town: &Town) -> Result<Self> {
        let program = tools::kwok()?;
        let path = town.cluster.logs().join("kwok.log");
        let log = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        let mut command = Command::new(program);
        command.arg("--kubeconfig").arg(town.kubectl.config());
        command.arg(format!("--manage-nodes-with-annotation-selector={PLAYED}=fake"));
        let stages = town.cluster.folder().join("kwok.yaml");
        fs::write(&stages, include_str!("../manifests/kwok.yaml"))
            .with_context(|| format!("write {}", stages.display()))?;
        command.arg("--node-lease-duration-seconds=40").arg("--config").arg(&stages);
        command.stdin(Stdio::null()).stdout(log.try_clone().context("share kwok's log")?).stderr(log);
        let child = town.cluster.control_plane()?.inside(|| command.spawn().context("start kwok"))?;
        Ok(Self(child))
    }
}

impl Drop for Kwok {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().unwrap_or_default();
        self.0.wait().ok();
    }
}

/// Waits until every pod runs, and so has an address.
pub(super) fn settled(connection: &mut Connection, limit: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let late = connection.get("/api/v1/pods?fieldSelector=status.phase%3DPending&limit=1")?;
        let Some(pod) = late["items"].as_array().and_then(|pods| pods.first()) else { return Ok(()) };
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        ensure!(begun.elapsed() < limit, "after {} s {name} does not run", limit.as_secs());
        thread::sleep(Duration::from_secs(1));
    }
}
