//! Waiting for a DaemonSet, with what a person would want to know meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::objects::NAMESPACE;
use crate::cluster::Cluster;

const PERIOD: Duration = Duration::from_millis(500);

/// Waits until the DaemonSet, as it was applied, is ready on every node. Says how many are, and what keeps others.
pub(super) async fn ready(cluster: &Cluster, daemon_set: &Value, limit: Duration) -> Result<()> {
    let name = daemon_set["metadata"]["name"].as_str().unwrap_or_default();
    let labels = selector(daemon_set);
    let begun = Instant::now();
    let mut said = BTreeSet::new();
    let mut say = |text: String| {
        if said.insert(text.clone()) {
            eprintln!("  {text}");
        }
    };
    loop {
        let status = cluster.get(daemon_set).await?.unwrap_or_default();
        let (ready, wanted) = progress(&status);
        if let Some(wanted) = wanted {
            say(format!("{name}: {ready} of {wanted} nodes ready"));
            if ready >= wanted && wanted > 0 {
                return Ok(());
            }
        }
        let pods = cluster.list("v1", "Pod", Some(NAMESPACE), &labels).await?;
        let troubles: Vec<String> = pods.iter().filter_map(trouble).collect();
        troubles.iter().cloned().for_each(&mut say);
        if begun.elapsed() > limit {
            let wanted = wanted.unwrap_or_default();
            let why = if troubles.is_empty() { "no pod says why".to_owned() } else { troubles.join("\n  ") };
            bail!("{name}: after {} s ready on {ready} of {wanted} nodes\n  {why}", limit.as_secs());
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// The label selector of a DaemonSet's pods.
pub(super) fn selector(daemon_set: &Value) -> String {
    let labels = daemon_set["spec"]["selector"]["matchLabels"].as_object();
    let pairs =
        labels.into_iter().flatten().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    pairs.collect::<Vec<_>>().join(",")
}

/// On how many nodes the newest version is ready, and on how many it is to be, once its controller has looked.
fn progress(daemon_set: &Value) -> (u64, Option<u64>) {
    let status = &daemon_set["status"];
    let number = |field: &str| status[field].as_u64().unwrap_or_default();
    if status["observedGeneration"].as_u64() < daemon_set["metadata"]["generation"].as_u64() {
        return (0, None);
    }
    // Of both the smaller: an old pod may be ready still, a new one may not be yet.
    let ready = number("numberReady").min(number("updatedNumberScheduled"));
    (ready, Some(number("desiredNumberScheduled")))
}

/// What keeps a pod from being ready, if it says so.
fn trouble(pod: &Value) -> Option<String> {
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("no node");
    let lists = ["initContainerStatuses", "containerStatuses"].map(|list| pod["status"][list].as_array());
    for status in lists.into_iter().flatten().flatten() {
        let container = status["name"].as_str().unwrap_or_default();
        let waiting = &status["state"]["waiting"];
        let reason = match waiting["reason"].as_str() {
            // On its way.
            Some("PodInitializing" | "ContainerCreating") | None => continue,
            Some(reason) => reason,
        };
        let image = status["image"].as_str().unwrap_or_default();
        let message = waiting["message"].as_str().unwrap_or_default();
        let hint = match reason {
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => format!(
                "the node has no image {image}: load it there (kind load image-archive, k3s ctr images import), or \
                 name another with --image"
            ),
            "CrashLoopBackOff" => format!(
                "it ends at once: kubectl -n {NAMESPACE} logs {} -c {container}",
                pod["metadata"]["name"].as_str().unwrap_or_default()
            ),
            _ => message.to_owned(),
        };
        return Some(format!("{node}: {container}: {reason}: {hint}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_pods_of_the_newest_version_count_and_only_once_the_controller_has_looked() {
        let set = |observed: u64, updated: u64| {
            json!({
                "metadata": { "generation": 2 },
                "status": {
                    "observedGeneration": observed, "numberReady": 3, "updatedNumberScheduled": updated,
                    "desiredNumberScheduled": 3,
                },
            })
        };
        assert_eq!(progress(&set(1, 3)), (0, None));
        assert_eq!(progress(&set(2, 1)), (1, Some(3)));
        assert_eq!(progress(&set(2, 3)), (3, Some(3)));
    }

    #[test]
    fn a_pod_that_waits_says_where_why_and_what_to_do() {
        let pod = |reason: &str| {
            json!({
                "metadata": { "name": "weir-agent-x" }, "spec": { "nodeName": "n1" },
                "status": { "initContainerStatuses": [{
                    "name": "install", "image": "localhost/weir:dev", "state": { "waiting": { "reason": reason } },
                }] },
            })
        };
        assert_eq!(trouble(&pod("PodInitializing")), None);
        let text = trouble(&pod("ErrImagePull")).unwrap();
        assert!(
            text.starts_with("n1: install: ErrImagePull: the node has no image localhost/weir:dev"),
            "{text}"
        );
        assert!(trouble(&pod("CrashLoopBackOff")).unwrap().contains("logs weir-agent-x -c install"));
    }
}
