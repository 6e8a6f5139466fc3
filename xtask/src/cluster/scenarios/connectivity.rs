//! `weir connectivity test`, as a person calls it: what it finds on a cluster that is well, and that it leaves nothing.

use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::town::{Town, eventually};
use crate::image::{self, Profile};

/// Each of its namespaces has this label.
const OURS: &str = "app.kubernetes.io/part-of=weir-connectivity-test";

pub(crate) fn connectivity_test_finds_all_well_and_leaves_nothing(town: &mut Town) -> Result<()> {
    town.ready("kube-system", &["deployment/coredns"], "Available")?;
    let (mut whole, mut other) = (start(town)?, start(town)?);
    eventually("both have made their namespaces", || {
        let names = namespaces(town)?;
        ensure!(names.lines().count() == 2, "these are there: {names}");
        Ok(())
    })?;
    // Whoever has seen enough of it.
    other.interrupt().context("interrupt one")?;
    let interrupted = other.output().context("wait for the one that was interrupted")?;
    let code = interrupted.status.code();
    ensure!(code == Some(1), "interrupted, it ends with {code:?}\n{}", said(&interrupted));
    let left = namespaces(town)?;
    ensure!(left.lines().count() <= 1, "interrupted, it left one of these: {left}");
    let output = whole.output().context("wait for weir connectivity test")?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| said(&output))?;
    let checks = report["checks"].as_array().context("a report without checks")?;
    let wrong: Vec<&Value> = checks.iter().filter(|check| !check["wrong"].is_null()).collect();
    ensure!(output.status.success() && wrong.is_empty(), "{wrong:#?}\n{}", said(&output));
    for place in ["same-node", "other-node", "any"] {
        for family in ["IPv4", "IPv6"] {
            for protocol in ["TCP", "UDP"] {
                for expected in ["allowed", "denied"] {
                    let of = |check: &&Value| {
                        check["where"] == place
                            && check["family"] == family
                            && check["protocol"] == protocol
                            && check["expected"] == expected
                    };
                    ensure!(
                        checks.iter().any(|check| of(&check)),
                        "nothing {expected}: {place}, {family}, {protocol}"
                    );
                }
            }
        }
    }
    let denied = checks.iter().filter(|check| check["expected"] == "denied");
    let unnamed: Vec<&Value> = denied.filter(|check| check["policies"].is_null()).collect();
    ensure!(unnamed.is_empty(), "denied, and no agent says by what: {unnamed:#?}");
    ensure!(namespaces(town)?.is_empty(), "it ended and left {}", namespaces(town)?);
    Ok(())
}

/// A `weir connectivity test` under way. One that nobody waits for is interrupted, so that it takes its namespace away.
struct Under(Option<Child>);

impl Under {
    fn interrupt(&self) -> Result<()> {
        let child = self.0.as_ref().context("it has ended")?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).context("send SIGINT")
    }

    fn output(&mut self) -> Result<Output> {
        self.0.take().context("it has ended")?.wait_with_output().context("read what it says")
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        // One that ended by itself cannot be interrupted, and leaves nothing.
        if self.interrupt().is_ok() {
            drop(self.output());
        }
    }
}

fn start(town: &Town) -> Result<Under> {
    let mut weir = Command::new(image::program("weir", Profile::Debug));
    weir.args(["connectivity", "test", "--output=json", "--kubeconfig"]).arg(town.kubectl.config());
    weir.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child =
        town.cluster.control_plane()?.in_network(|| weir.spawn())?.context("start weir connectivity test");
    child.map(|child| Under(Some(child)))
}

fn namespaces(town: &Town) -> Result<String> {
    town.kubectl.run(&["get", "namespaces", "--output=name", &format!("--selector={OURS}")])
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
