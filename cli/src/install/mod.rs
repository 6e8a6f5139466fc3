//! `weir install` and `weir uninstall`: what `kubectl apply -k deploy/…` does, with what only the cluster knows filled in,
//! and waited for.

mod objects;
mod uninstall;
mod watch;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::agents::{block_on, unless_closed};
use crate::cluster::{Cluster, Which};
use objects::{Distribution, Settings};

pub(crate) use objects::{AGENT, NAMESPACE, image_of};
pub(crate) use uninstall::{Args as UninstallArgs, run as uninstall};

#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 when an agent is ready on every node, else 1.")]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// Whose nodes these are [default: as they say themselves]
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// The image, as the nodes' runtimes know it [default: localhost/weir:dev]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Where nodes reach the API server [default: as the cluster says]
    #[arg(long, value_name = "URL")]
    api_server: Option<String>,
    /// An option of the agent (`weir-agent --help`), without its dashes; may be repeated
    #[arg(long = "set", value_name = "OPTION=VALUE")]
    set: Vec<String>,
    /// Print the objects, for `kubectl apply -f -`, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Seconds until every agent must be ready
    #[arg(long, value_name = "N", default_value_t = 180)]
    timeout: u64,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    block_on(async {
        let mut settings = Settings { image: args.image.clone(), options: options(&args.set)? };
        let cluster = Cluster::of(&args.which).await?;
        let nodes = cluster.list("v1", "Node", None, "").await?;
        let distribution = match args.distribution {
            Some(distribution) => distribution,
            None => nodes.first().map(Distribution::of).context("this cluster has no node yet")?,
        };
        // k3s has one on each node.
        if let Some(url) = &args.api_server {
            settings.options.insert("api-server".to_owned(), url.clone());
        } else if distribution != Distribution::K3s && !settings.options.contains_key("api-server") {
            settings.options.insert("api-server".to_owned(), cluster.api_server().await?);
        }
        let objects = objects::of(distribution, &settings)?;
        if args.dry_run {
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
            let mut out = std::io::stdout().lock();
            let written = writeln!(out, "{}", serde_json::to_string_pretty(&list)?);
            return unless_closed(written.map_err(Into::into)).map(|()| ExitCode::SUCCESS);
        }
        for object in &objects {
            cluster.apply(object).await?;
        }
        let agents = objects.last().context("there is a DaemonSet")?;
        eprintln!("weir install: applied to {}, {} nodes", cluster.url, nodes.len());
        watch::ready(&cluster, agents, Duration::from_secs(args.timeout)).await?;
        eprintln!("weir install: Weir is the network of {} nodes", nodes.len());
        Ok(ExitCode::SUCCESS)
    })
}

fn options(set: &[String]) -> Result<std::collections::BTreeMap<String, String>> {
    let pairs = set.iter().map(|pair| match pair.split_once('=') {
        Some((name, value)) if !name.is_empty() && !name.starts_with('-') => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => bail!("--set {pair}: expected OPTION=VALUE, such as routing=direct"),
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_set_without_its_dashes() {
        let given = ["routing=direct".to_owned(), "non-masquerade-cidr=10.0.0.0/8".to_owned()];
        assert_eq!(options(&given).unwrap()["non-masquerade-cidr"], "10.0.0.0/8");
        for wrong in ["--routing=direct", "routing", "=direct"] {
            let error = options(&[wrong.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("OPTION=VALUE"), "{error}");
        }
    }
}
