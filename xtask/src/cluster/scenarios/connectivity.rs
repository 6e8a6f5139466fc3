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
    let (whole, other) = (start(town)?, start(town)?);
    eventually("both have made their namespaces", || {
        let names = namespaces(town)?;
        ensure!(names.lines().count() == 2, "these are there: {names}");
        Ok(())
    })?;
    // Whoever has seen enough of it.
    kill(Pid::from_raw(other.id().cast_signed()), Signal::SIGINT).context("interrupt one")?;
    let interrupted = other.wait_with_output().context("wait for the one that was interrupted")?;
    let code = interrupted.status.code();
    ensure!(code == Some(1), "interrupted, it ends with {code:?}\n{}", said(&interrupted));
    let left = namespaces(town)?;
    ensure!(left.lines().count() <= 1, "interrupted, it left one of these: {left}");
    let output = whole.wait_with_output().context("wait for weir connectivity test")?;
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

fn start(town: &Town) -> Result<Child> {
    let mut weir = Command::new(image::program("weir", Profile::Debug));
    weir.args(["connectivity", "test", "--output=json", "--kubeconfig"]).arg(town.kubectl.config());
    weir.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    town.cluster.control_plane()?.in_network(|| weir.spawn())?.context("start weir connectivity test")
}

fn namespaces(town: &Town) -> Result<String> {
    town.kubectl.run(&["get", "namespaces", "--output=name", &format!("--selector={OURS}")])
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
