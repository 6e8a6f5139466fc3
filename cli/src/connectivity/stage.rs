//! The namespace of a test, and the waiting for what happens in it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::GLANCE;
use super::objects::{namespace, title};
use super::watcher::Heard;
use crate::cluster::Cluster;

/// Until nothing is left of a namespace.
const FAREWELL: Duration = Duration::from_secs(120);

pub(super) struct Stage<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) namespace: String,
    limit: Duration,
}

impl<'a> Stage<'a> {
    /// Makes the namespace.
    pub(super) async fn set(cluster: &'a Cluster, limit: Duration) -> Result<Self> {
        let made = cluster.create(&namespace()).await?;
        let namespace = made["metadata"]["name"].as_str().context("a namespace without a name")?.to_owned();
        Ok(Self { cluster, namespace, limit })
    }

    /// Waits until pods may be made here: they need an account, which comes by itself.
    pub(super) async fn open(&self) -> Result<()> {
        let begun = Instant::now();
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "default", "namespace": self.namespace },
        });
        while self.cluster.get(&account).await?.is_none() {
            if begun.elapsed() > self.limit {
                bail!(
                    "after {} s there is no {}: does kube-controller-manager run?",
                    self.limit.as_secs(),
                    title(&account)
                );
            }
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    /// Waits until each of these has begun, and says how it is now.
    pub(super) async fn running(&self, pods: &[Value]) -> Result<Vec<Value>> {
        self.until(pods, |pod| {
            let ips = pod["status"]["podIPs"].as_array();
            pod["status"]["phase"] == "Running" && ips.is_some_and(|ips| !ips.is_empty())
        })
        .await
    }

    /// Waits until the pod has ended well, and reads its log.
    pub(super) async fn last_words(&self, pod: &Value) -> Result<String> {
        self.until(std::slice::from_ref(pod), |pod| pod["status"]["phase"] == "Succeeded").await?;
        self.log(pod).await
    }

    /// What the watchers have heard until now, or why they cannot.
    pub(super) async fn drops(&self, watchers: &[Value]) -> Result<Vec<Heard>> {
        let mut heard = Vec::new();
        for watcher in watchers {
            for line in self.log(watcher).await?.lines() {
                heard
                    .push(serde_json::from_str(line).with_context(|| format!("{}: {line}", title(watcher)))?);
            }
        }
        Ok(heard)
    }

    /// Takes all of it away, and waits until it is gone.
    pub(super) async fn strike(&self) -> Result<()> {
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace } });
        self.cluster.delete(&namespace).await?;
        let begun = Instant::now();
        while self.cluster.get(&namespace).await?.is_some() {
            if begun.elapsed() > FAREWELL {
                bail!("the namespace is still there after {} s", FAREWELL.as_secs());
            }
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    async fn log(&self, pod: &Value) -> Result<String> {
        let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
        self.cluster.log(&self.namespace, name).await
    }

    async fn until(&self, pods: &[Value], done: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let begun = Instant::now();
        loop {
            let all = self.cluster.list("v1", "Pod", Some(&self.namespace), "").await?;
            let name = |pod: &Value| pod["metadata"]["name"].clone();
            let is_meant = |pod: &Value| pods.iter().any(|wanted| name(wanted) == name(pod));
            let now: Vec<Value> = all.into_iter().filter(is_meant).collect();
            if let Some(pod) = now.iter().find(|pod| pod["status"]["phase"] == "Failed") {
                let log = self.log(pod).await.unwrap_or_default();
                bail!("{} has failed: {} {}", title_of_pod(pod), reason(pod), log.trim());
            }
            if now.len() == pods.len() && now.iter().all(&done) {
                return Ok(now);
            }
            if begun.elapsed() > self.limit {
                let late: Vec<&Value> = now.iter().filter(|pod| !done(pod)).collect();
                let said = self.why(&late).await?.join("\n  ");
                bail!("after {} s not all pods are where they should be\n  {said}", self.limit.as_secs());
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Why these are late, a line for each reason.
    async fn why(&self, late: &[&Value]) -> Result<Vec<String>> {
        let events = self.cluster.list("v1", "Event", Some(&self.namespace), "").await?;
        let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in late {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let is_warning =
                |event: &&Value| event["type"] == "Warning" && event["involvedObject"]["name"] == name;
            let warning = events.iter().rfind(is_warning).and_then(|event| event["message"].as_str());
            let reason = match (reason(pod), warning) {
                // On its way, as far as it knows itself.
                (reason, Some(warning)) if matches!(&*reason, "ContainerCreating" | "Pending") => {
                    warning.to_owned()
                }
                (reason, _) => reason,
            };
            let node = pod["spec"]["nodeName"].as_str().unwrap_or("no node");
            reasons.entry(reason).or_default().push(format!("{name} on {node}"));
        }
        Ok(reasons.into_iter().map(|(reason, pods)| format!("{}: {reason}", pods.join(", "))).collect())
    }
}

/// An object of a list does not say its kind.
fn title_of_pod(pod: &Value) -> String {
    let mut pod = pod.clone();
    pod["kind"] = "Pod".into();
    title(&pod)
}

/// Why the pod is as it is, as far as it says.
fn reason(pod: &Value) -> String {
    let status = &pod["status"];
    let state = &status["containerStatuses"][0]["state"];
    let of = |part: &Value| {
        let words = ["reason", "message"].map(|field| part[field].as_str().unwrap_or_default());
        words.join(" ").trim().to_owned()
    };
    let found =
        [&state["waiting"], &state["terminated"], status].into_iter().map(of).find(|text| !text.is_empty());
    found.unwrap_or_else(|| status["phase"].as_str().unwrap_or("nothing known of it").to_owned())
}
