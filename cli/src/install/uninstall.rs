//! `weir uninstall`: the agents go, then from each node what they left, then the objects.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::objects::{self, AGENT, NAMESPACE};
use super::watch;
use crate::agents::block_on;
use crate::cluster::{Cluster, Which};

#[derive(clap::Args)]
#[command(after_help = "Pods lose their network and keep running: start them anew under the next one.\n\
    Exit status: 0 when nothing of Weir is on any node or in the API server, else 1.")]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// The image that cleans up [default: the one that the agents run]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Seconds until every node must be clean
    #[arg(long, value_name = "N", default_value_t = 180)]
    timeout: u64,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let limit = Duration::from_secs(args.timeout);
    block_on(async {
        let cluster = Cluster::of(&args.which).await?;
        let namespace = object("v1", "Namespace", NAMESPACE, None);
        if cluster.get(&namespace).await?.is_none() {
            eprintln!("weir uninstall: {} has no namespace {NAMESPACE}: nothing to do", cluster.url);
            return Ok(ExitCode::SUCCESS);
        }
        let agents = object("apps/v1", "DaemonSet", AGENT, Some(NAMESPACE));
        let installed = cluster.get(&agents).await?;
        let image = args.image.as_deref().or_else(|| objects::image_of(installed.as_ref()?));
        let last = objects::uninstall(image)?;
        if let Some(installed) = &installed {
            cluster.delete(&agents).await?;
            eprintln!("weir uninstall: the agents of {} end", cluster.url);
            // One that runs would put back what is taken away.
            gone(&cluster, installed, limit).await?;
        }
        cluster.apply(&last).await?;
        watch::ready(&cluster, &last, limit).await.context(
            "not every node is clean: weir-uninstall stays and goes on; call this again when it can finish there",
        )?;
        for (version, kind, name) in [
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", AGENT),
            ("rbac.authorization.k8s.io/v1", "ClusterRole", AGENT),
        ] {
            cluster.delete(&object(version, kind, name, None)).await?;
        }
        cluster.delete(&namespace).await?;
        until(limit, &format!("namespace {NAMESPACE}"), async || {
            Ok(cluster.get(&namespace).await?.is_none())
        })
        .await?;
        eprintln!("weir uninstall: nothing of Weir is left");
        Ok(ExitCode::SUCCESS)
    })
}

/// Waits until a DaemonSet has no pod any more.
async fn gone(cluster: &Cluster, daemon_set: &Value, limit: Duration) -> Result<()> {
    let labels = watch::selector(daemon_set);
    until(limit, AGENT, async || Ok(cluster.list("v1", "Pod", Some(NAMESPACE), &labels).await?.is_empty()))
        .await
}

async fn until(limit: Duration, what: &str, look: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !look().await? {
        if begun.elapsed() > limit {
            bail!("{what} is still there after {} s", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

fn object(version: &str, kind: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name } });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}
