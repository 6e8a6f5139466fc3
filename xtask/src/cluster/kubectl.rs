//! `kubectl` in the control plane's network, where the API server is.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::machine::Machine;
use super::pki::ADMIN;
use super::state::Cluster;

/// Between two questions.
const GLANCE: Duration = Duration::from_millis(150);

#[derive(Clone)]
pub(crate) struct Kubectl {
    binary: PathBuf,
    config: PathBuf,
    control_plane: Machine,
}

impl Kubectl {
    pub(crate) fn new(cluster: &Cluster, bin: &std::path::Path) -> Result<Self> {
        Ok(Self {
            binary: bin.join("kubectl"),
            config: cluster.pki().join(ADMIN),
            control_plane: cluster.control_plane()?.clone(),
        })
    }

    /// For others who speak to this API server.
    pub(crate) fn config(&self) -> &std::path::Path {
        &self.config
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.binary);
        // Not the person's own, of another cluster.
        command.env("KUBECONFIG", &self.config).args(arguments);
        command
    }

    /// With our own standard streams.
    pub(crate) fn pass_on<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<std::process::ExitStatus> {
        let mut command = self.command(arguments);
        self.control_plane.in_network(|| command.status())?.context("start kubectl")
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(arguments);
        self.control_plane.in_network(|| command.stdin(Stdio::null()).output())?.context("start kubectl")
    }

    /// What it prints; what it complains about is the error.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        said(arguments, self.output(arguments)?)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["--output=json"]].concat())?;
        serde_json::from_str(&text).context("parse what kubectl printed")
    }

    /// Applies manifests, YAML or JSON. The server looks at them closer than kubectl would, which first would read all of
    /// the server's schema.
    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        self.feed(&["apply", "--server-side", "--filename=-"], manifests).map(drop)
    }

    /// Runs it with `input`.
    pub(crate) fn feed(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.control_plane.in_network(|| command.spawn())?.context("start kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no stdin")?;
        stdin.write_all(input.as_bytes()).context("write to kubectl")?;
        drop(stdin);
        said(arguments, child.wait_with_output().context("wait for kubectl")?)
    }

    /// Asks until `done` gets something out of what is printed, failures included.
    pub(crate) fn until<T>(
        &self,
        limit: Duration,
        what: &str,
        arguments: &[&str],
        mut done: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            let output = self.output(arguments)?;
            if output.status.success()
                && let Some(found) = done(&String::from_utf8_lossy(&output.stdout))
            {
                return Ok(found);
            }
            if begun.elapsed() > limit {
                let answer = if output.status.success() { output.stdout } else { output.stderr };
                bail!(
                    "{what}: not after {} s; kubectl {} says: {}",
                    limit.as_secs(),
                    arguments.join(" "),
                    String::from_utf8_lossy(&answer).trim()
                );
            }
            ensure!(self.control_plane.is_alive(), "the control plane has ended: see its logs");
            thread::sleep(GLANCE);
        }
    }
}

fn said(arguments: &[&str], output: Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), errors.trim());
    String::from_utf8(output.stdout).context("read what kubectl printed")
}
