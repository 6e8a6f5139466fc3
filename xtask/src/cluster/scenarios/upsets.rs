//! What goes wrong in a cluster: a node that loses power, an API server that is gone, a cable that is cut.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::probes::deny_all;
use super::table::{Expected, Question, hold};
use super::town::{Pod, Town, eventually, server};
use crate::cluster::control_plane;
use crate::cluster::probe::{Answer, Protocol, Target};
use crate::cluster::underlay;

/// `web` may be asked by `friend`, all else is denied.
struct Scene {
    pods: Vec<Pod>,
}

impl Scene {
    fn objects(town: &Town) -> Vec<Value> {
        let mut objects = vec![deny_all(), open("web", "ingress", "from"), open("friend", "egress", "to")];
        for node in town.nodes() {
            for app in ["web", "friend", "stranger"] {
                objects.push(server(&format!("{app}-{node}"), &node, json!({ "app": app })));
            }
        }
        objects
    }

    fn of(town: &Town, namespace: &str) -> Result<Self> {
        Ok(Self { pods: town.pods(namespace)? })
    }

    fn app(&self, name: &str) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| pod.labels.get("app").is_some_and(|app| app == name))
    }

    /// Friends reach `web` on both nodes and strangers do not, where the two ends are as `which` says.
    fn holds(&self, town: &Town, namespace: &str, which: impl Fn(&Pod, &Pod) -> bool) -> Result<()> {
        let denied = Expected::Denied(format!("{namespace}/deny-all"));
        let mut questions = Vec::new();
        for (app, expected) in [("friend", Expected::Allowed), ("stranger", denied)] {
            for from in self.app(app) {
                for to in self.app("web").filter(|to| which(from, to)) {
                    let expected = expected.clone();
                    questions.push(Question { from, to, protocol: Protocol::Http, port: 8080, expected });
                }
            }
        }
        ensure!(!questions.is_empty(), "the scene has no pods");
        hold(town, &questions)
    }
}

fn open(app: &str, direction: &str, peers: &str) -> Value {
    let other = if app == "web" { "friend" } else { "web" };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": app },
        "spec": {
            "podSelector": { "matchLabels": { "app": app } },
            "policyTypes": [if direction == "ingress" { "Ingress" } else { "Egress" }],
            direction: [{
                peers: [{ "podSelector": { "matchLabels": { "app": other } } }], "ports": [{ "port": 8080 }],
            }],
        },
    })
}

pub(crate) fn a_node_that_lost_power_comes_back(town: &mut Town) -> Result<()> {
    let namespace = "reboot";
    let settlement = town.settle(namespace, json!({}), &Scene::objects(town))?;
    Scene::of(town, namespace)?.holds(town, namespace, |_, _| true).context("before")?;
    town.cluster.stop_node(2)?;
    // The other node goes on.
    let scene = Scene::of(town, namespace)?;
    let here = |from: &Pod, to: &Pod| from.node == "node-1" && to.node == "node-1";
    scene.holds(town, namespace, here).context("while the other node is off")?;
    town.cluster.start_node(2)?;
    eventually("the pods run again", || {
        for pod in town.pods(namespace)?.iter().filter(|pod| pod.node == "node-2") {
            ensure!(pod.restarts > 0, "{} has not been started again", pod.name);
        }
        town.ready(namespace, &["pods", "--all"], "Ready")
    })?;
    Scene::of(town, namespace)?.holds(town, namespace, |_, _| true).context("after")?;
    settlement.leave()
}

pub(crate) fn an_api_server_that_is_gone_changes_no_verdict(town: &mut Town) -> Result<()> {
    let namespace = "headless";
    let settlement = town.settle(namespace, json!({}), &Scene::objects(town))?;
    let scene = Scene::of(town, namespace)?;
    scene.holds(town, namespace, |_, _| true).context("before")?;
    let hold_file = town.cluster.disk(control_plane::NAME).join("hold-kube-apiserver");
    std::fs::write(&hold_file, "").with_context(|| format!("write {}", hold_file.display()))?;
    let killed = town
        .cluster
        .control_plane()?
        .output(Command::new("sh").args(["-c", "kill -9 $(cat /run/kube-apiserver.pid)"]));
    let gone = killed.and_then(|output| {
        ensure!(output.status.success(), "kill the API server: {}", String::from_utf8_lossy(&output.stderr));
        eventually("the API server is gone", || {
            let answers = town.kubectl.output(&["get", "--raw=/readyz"])?.status.success();
            ensure!(!answers, "it still answers");
            Ok(())
        })?;
        scene.holds(town, namespace, |_, _| true)
    });
    // Whatever came of it, it comes back.
    std::fs::remove_file(&hold_file).with_context(|| format!("remove {}", hold_file.display()))?;
    gone.context("while the API server is gone")?;
    eventually("the API server answers", || town.kubectl.run(&["get", "--raw=/readyz"]).map(drop))?;
    // The watches are taken up: what changes now arrives.
    befriend_the_strangers(town, namespace)?;
    let scene = Scene::of(town, namespace)?;
    ensure!(scene.app("friend").count() == 4, "four friends, two of them were strangers");
    scene.holds(town, namespace, |_, _| true).context("after")?;
    settlement.leave()
}

pub(crate) fn a_cut_cable_is_no_policy_and_heals(town: &mut Town) -> Result<()> {
    let namespace = "partition";
    let settlement = town.settle(namespace, json!({}), &Scene::objects(town))?;
    let scene = Scene::of(town, namespace)?;
    scene.holds(town, namespace, |_, _| true).context("before")?;
    underlay::plug(town.cluster.control_plane()?, "node-2", false)?;
    let cut = cut_off(town, namespace, &scene);
    underlay::plug(town.cluster.control_plane()?, "node-2", true)?;
    cut.context("while the cable is cut")?;
    // The strangers became friends meanwhile, which the node without a cable could not know.
    let scene = Scene::of(town, namespace)?;
    scene.holds(town, namespace, |_, _| true).context("after")?;
    settlement.leave()
}

fn cut_off(town: &Town, namespace: &str, scene: &Scene) -> Result<()> {
    // On each side everything is as it was, by the agent's own word.
    scene.holds(town, namespace, |from, to| from.node == to.node)?;
    let from = scene.app("friend").find(|pod| pod.node == "node-1").context("no friend on node-1")?;
    let to = scene.app("web").find(|pod| pod.node == "node-2").context("no web on node-2")?;
    let targets: Vec<_> =
        to.ips.iter().map(|ip| Target { protocol: Protocol::Tcp, address: (*ip, 8080).into() }).collect();
    for answer in town.knock(from, &targets)? {
        // Silence, or the node's own word that there is no way.
        ensure!(!matches!(answer, Answer::Yes(_)), "an answer through a cut cable");
    }
    befriend_the_strangers(town, namespace)?;
    let pods = Scene::of(town, namespace)?;
    pods.holds(town, namespace, |from, to| from.node == "node-1" && to.node == "node-1")
}

fn befriend_the_strangers(town: &Town, namespace: &str) -> Result<()> {
    let label =
        ["label", "pods", "--selector=app=stranger", "app=friend", "--overwrite", "--namespace", namespace];
    town.kubectl.run(&label).map(drop)
}
