//! Weir itself, installed from `deploy/` as on any cluster: an overlay, and the API server's address.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::kubectl::Kubectl;
use super::layout::API_URL;
use super::state::Cluster;
use crate::workspace;

pub(crate) const NAMESPACE: &str = "weir-system";

/// What the overlay of the cluster's layout renders to, on all nodes or on this one; no API server is needed for that.
pub(crate) fn objects(cluster: &Cluster, kubectl: &Kubectl, only: Option<&str>) -> Result<String> {
    let folder = kustomization(cluster, only)?;
    kubectl.run(&["kustomize", &folder])
}

/// A folder with what this cluster adds to the overlay, as a person would write it down for theirs.
pub(crate) fn kustomization(cluster: &Cluster, only: Option<&str>) -> Result<String> {
    let overlay = workspace::root().join("deploy/overlays").join(cluster.layout.name());
    let folder = cluster.folder().join("deploy");
    let patch = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "weir-config", "namespace": NAMESPACE },
        "data": { "api-server": API_URL },
    });
    let mut patches = vec![json!({ "patch": patch.to_string() })];
    if let Some(node) = only {
        let patch = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": { "name": "weir-agent", "namespace": NAMESPACE },
            "spec": { "template": { "spec": { "nodeSelector": { "kubernetes.io/hostname": node } } } },
        });
        patches.push(json!({ "patch": patch.to_string() }));
    }
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [relative(&folder, &overlay)],
        "patches": patches,
    });
    let file = folder.join("kustomization.yaml");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, kustomization.to_string()))
        .with_context(|| format!("write {}", file.display()))?;
    Ok(folder.display().to_string())
}

/// The way from one folder to another: kustomize takes no absolute one.
fn relative(from: &Path, to: &Path) -> String {
    let up = "../".repeat(from.components().count() - 1);
    format!("{up}{}", to.display().to_string().trim_start_matches('/'))
}
