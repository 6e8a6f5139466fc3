//! The objects of a cluster with Weir: those of `deploy/`, rendered, with what only this cluster knows filled in.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

pub(crate) const NAMESPACE: &str = "weir-system";
pub(crate) const AGENT: &str = "weir-agent";
/// On the agents' pods: what they read when they start, so that a change starts them anew.
const CONFIG_ANNOTATION: &str = "weir.dev/config";

/// Whose nodes these are, as far as that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Distribution {
    /// The usual folders
    Plain,
    Kind,
    /// A containerd of its own, that may have folders of its own
    K3s,
}

impl Distribution {
    /// What a node's kubelet says of itself.
    pub(super) fn of(node: &Value) -> Self {
        let version = node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default();
        let provider = node["spec"]["providerID"].as_str().unwrap_or_default();
        if version.contains("+k3s") {
            Self::K3s
        } else if provider.starts_with("kind://") {
            Self::Kind
        } else {
            Self::Plain
        }
    }

    fn manifests(self) -> &'static str {
        match self {
            Self::Plain => include_str!("../../../deploy/rendered/plain.yaml"),
            Self::Kind => include_str!("../../../deploy/rendered/kind.yaml"),
            Self::K3s => include_str!("../../../deploy/rendered/k3s.yaml"),
        }
    }
}

/// What is filled in.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) image: Option<String>,
    /// Options of the agent.
    pub(super) options: BTreeMap<String, String>,
}

/// In the order in which they are applied: what others need comes first.
pub(super) fn of(distribution: Distribution, settings: &Settings) -> Result<Vec<Value>> {
    let mut objects = parse(distribution.manifests())?;
    objects.sort_by_key(|object| match object["kind"].as_str() {
        Some("Namespace") => 0,
        Some("DaemonSet") => 2,
        _ => 1,
    });
    let mut config = Value::Null;
    for object in &mut objects {
        if object["kind"] == "ConfigMap" {
            for (name, value) in &settings.options {
                object["data"][name] = value.as_str().into();
            }
            config = object["data"].clone();
        }
    }
    if config["api-server"].as_str().is_none_or(|url| url.trim().is_empty()) {
        bail!(
            "no address of the API server for the agents to use: name one with --api-server https://HOST:PORT"
        );
    }
    for object in objects.iter_mut().filter(|object| object["kind"] == "DaemonSet") {
        object["spec"]["template"]["metadata"]["annotations"] =
            json!({ CONFIG_ANNOTATION: config.to_string() });
        set_image(object, settings.image.as_deref());
    }
    Ok(objects)
}

/// The DaemonSet that takes Weir off each node.
pub(super) fn uninstall(image: Option<&str>) -> Result<Value> {
    let mut objects = parse(include_str!("../../../deploy/uninstall.yaml"))?;
    let mut object = objects.pop().context("deploy/uninstall.yaml has no object")?;
    set_image(&mut object, image);
    Ok(object)
}

fn set_image(object: &mut Value, image: Option<&str>) {
    let Some(image) = image else { return };
    let pod = &mut object["spec"]["template"]["spec"];
    for list in ["initContainers", "containers"] {
        for container in pod[list].as_array_mut().into_iter().flatten() {
            container["image"] = image.into();
        }
    }
}

/// The image that a DaemonSet runs.
pub(crate) fn image_of(daemon_set: &Value) -> Option<&str> {
    daemon_set["spec"]["template"]["spec"]["containers"][0]["image"].as_str()
}

fn parse(text: &str) -> Result<Vec<Value>> {
    let documents = text.split("\n---\n").filter(|document| !document.trim().is_empty());
    documents
        .map(|document| serde_saphyr::from_str(document).context("parse the manifests of this program"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(api_server: &str) -> Settings {
        let options = BTreeMap::from([("api-server".to_owned(), api_server.to_owned())]);
        Settings { image: Some("registry.example/weir:1".to_owned()), options }
    }

    fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
        objects.iter().find(|object| object["kind"] == kind).unwrap()
    }

    #[test]
    fn every_distribution_has_all_objects_and_what_only_the_cluster_knows_is_filled_in() {
        for distribution in [Distribution::Plain, Distribution::Kind, Distribution::K3s] {
            let objects = of(distribution, &settings("https://192.0.2.10:6443")).unwrap();
            let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
            assert_eq!(kinds.first(), Some(&"Namespace"));
            assert_eq!(kinds.last(), Some(&"DaemonSet"));
            for kind in ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap"] {
                assert!(kinds.contains(&kind), "{distribution:?} has no {kind}");
            }
            assert_eq!(find(&objects, "ConfigMap")["data"]["api-server"], "https://192.0.2.10:6443");
            let pod = &find(&objects, "DaemonSet")["spec"]["template"];
            assert_eq!(pod["spec"]["initContainers"][0]["image"], "registry.example/weir:1");
            assert_eq!(image_of(find(&objects, "DaemonSet")), Some("registry.example/weir:1"));
            let config = pod["metadata"]["annotations"][CONFIG_ANNOTATION].as_str().unwrap();
            assert!(config.contains("192.0.2.10"), "a change must start the agents anew: {config}");
        }
    }

    #[test]
    fn without_an_api_server_nothing_is_made_and_k3s_has_one_on_each_node() {
        let error = of(Distribution::Plain, &Settings::default()).unwrap_err().to_string();
        assert!(error.contains("--api-server"), "{error}");
        let objects = of(Distribution::K3s, &Settings::default()).unwrap();
        assert_eq!(find(&objects, "ConfigMap")["data"]["api-server"], "https://127.0.0.1:6444");
    }

    #[test]
    fn whose_node_it_is_shows_in_what_it_says_of_itself() {
        let node = |version: &str, provider: &str| json!({ "spec": { "providerID": provider }, "status": { "nodeInfo": { "kubeletVersion": version } } });
        assert_eq!(Distribution::of(&node("v1.37.2+k3s1", "k3s://n1")), Distribution::K3s);
        assert_eq!(Distribution::of(&node("v1.37.2", "kind://docker/kind/kind-worker")), Distribution::Kind);
        assert_eq!(Distribution::of(&node("v1.37.2", "")), Distribution::Plain);
    }

    #[test]
    fn the_last_daemon_set_runs_the_image_that_the_agents_had() {
        let object = uninstall(Some("registry.example/weir:1")).unwrap();
        let pod = &object["spec"]["template"]["spec"];
        assert_eq!(pod["initContainers"][0]["image"], "registry.example/weir:1");
        assert_eq!(pod["containers"][0]["securityContext"], pod["initContainers"][0]["securityContext"]);
        assert_eq!(object["metadata"]["name"], "weir-uninstall");
    }
}
