//! Calling a CNI plugin as a container runtime does: environment, JSON on stdin, result on stdout.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netlink::Netns;
use serde_json::Value;

use crate::place;

/// A plugin on a node, with its configuration.
pub(crate) struct Network {
    pub(crate) program: PathBuf,
    /// Where the plugin finds others (`CNI_PATH`).
    pub(crate) path: PathBuf,
    pub(crate) config: Value,
    pub(crate) node: Netns,
}

/// What ADD gave, and how long the call took.
pub(crate) struct Added {
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) took: Duration,
}

impl Network {
    /// Wires the pod `default/NAME`.
    pub(crate) fn add(&self, name: &str, netns: &Netns) -> Result<Added> {
        let (result, took) = self.call("ADD", name, netns)?;
        let result: Value = serde_json::from_str(&result).context("parse the result of ADD")?;
        let ips = result["ips"].as_array().context("the result of ADD has no ips")?;
        let ip = |entry: &Value| {
            let address = entry["address"].as_str().context("an entry of ips has no address")?;
            Ok(address
                .parse::<ipnet::IpNet>()
                .with_context(|| format!("parse the address {address}"))?
                .addr())
        };
        Ok(Added { ips: ips.iter().map(ip).collect::<Result<_>>()?, took })
    }

    pub(crate) fn del(&self, name: &str, netns: &Netns) -> Result<Duration> {
        Ok(self.call("DEL", name, netns)?.1)
    }

    fn call(&self, verb: &str, name: &str, netns: &Netns) -> Result<(String, Duration)> {
        let container = format!("bench-{name}");
        let pod = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container}"
        );
        let mut command = Command::new(&self.program);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &container)
            .env("CNI_NETNS", netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.path)
            .env("CNI_ARGS", pod)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = place::spawn_in(&self.node, &mut command)?;
        let mut stdin = child.stdin.take().context("a plugin has no stdin")?;
        stdin.write_all(self.config.to_string().as_bytes()).context("give a plugin its configuration")?;
        drop(stdin);
        let output = child.wait_with_output().context("wait for a plugin")?;
        let took = begun.elapsed();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{verb} of {name} by {} ended with {}: {}{}",
            self.program.display(),
            output.status,
            said.trim(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok((said, took))
    }
}
