//! `cargo xtask test`: the tiers of tests.
//!
//! A tier never skips itself: where what it needs is missing it fails, and a tier in which no test ran has failed too.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::binaries::{self, Profile};
use crate::cluster::scenarios;
use crate::setup::{self, Tools};
use crate::{chromium, deploy, manifests, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Absent: unit, kernel, netns and browser
    #[arg(value_enum)]
    tier: Option<Tier>,
    /// Of the cluster tier only the scenarios whose names contain this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    #[command(flatten)]
    cluster: scenarios::Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Needs nothing: the pure crates, and what of the others can be decided with pen and paper
    Unit,
    /// Needs root: the verifier, and packets through BPF_PROG_TEST_RUN
    Kernel,
    /// Needs root: real links, real traffic, the binaries as a runtime calls them
    Netns,
    /// Needs root, and fetches Chromium: pages as people see them
    Browser,
    /// Needs root and ../shared/data: the sandbox on other people's manifests
    Manifests,
    /// Needs root, and builds Kubernetes the first time (13 minutes): scenarios on a real cluster
    Cluster,
    /// Builds helm and kubectl from Go modules: what Kustomize, Helm and `weir install` say is the same
    Deploy,
}

/// How many tests of a run passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Prints the closing line, and is an error if anything failed or nothing ran.
    pub(crate) fn close(self) -> Result<()> {
        println!("{} passed, {} failed", self.passed, self.failed);
        ensure!(self.failed == 0, "{} of {} failed", self.failed, self.passed + self.failed);
        ensure!(self.passed > 0, "nothing ran");
        Ok(())
    }
}

pub(crate) fn command(args: Args) -> Result<()> {
    let tiers = match args.tier {
        Some(Tier::Manifests) => return manifests::command(manifests::Args::default()),
        Some(Tier::Cluster) => return scenarios::run(args.only.as_deref(), &args.cluster)?.close(),
        Some(tier) => vec![tier],
        None => vec![Tier::Unit, Tier::Kernel, Tier::Netns, Tier::Browser],
    };
    for tier in &tiers {
        ensure!(
            matches!(tier, Tier::Unit | Tier::Deploy) || workspace::is_root(),
            "the {tier:?} tier loads kernel programs and makes network namespaces, which needs root: run it as root, or \
             `cargo xtask test unit` for what needs none"
        );
    }
    let tools = setup::tools()?;
    let mut total = Count::default();
    for tier in tiers {
        println!("== {tier:?} tier");
        total.add(run(tier, &tools)?);
    }
    total.close()
}

fn run(tier: Tier, tools: &Tools) -> Result<Count> {
    let mut count = Count::default();
    match tier {
        Tier::Unit => {
            // What needs nothing whole, tests and documentation; of the crates whose `tests/` folder needs root the rest.
            count.add(cargo_test(
                tools,
                &["agent", "api", "cli", "common", "dataplane", "ingress", "policy", "xtask"],
                &[],
            )?);
            count.add(cargo_test(tools, &["bench", "cni", "netlink", "sandbox"], &["--lib", "--bins"])?);
            // What fuzzers found, without their engine.
            count.add(cargo_test(tools, &["fuzz"], &["--lib", "--test", "replay"])?);
        }
        Tier::Kernel => count.add(cargo_test(tools, &["tests", "fuzz"], &["--test", "kernel_*"])?),
        Tier::Netns => {
            let folder = binaries::build(tools, Profile::Debug)?;
            println!("binaries under test: {}", folder.display());
            count.add(cargo_test(tools, &["tests"], &["--test", "netns_*"])?);
            for package in ["netlink", "cni", "sandbox"] {
                if workspace::root().join(package).join("tests").is_dir() {
                    count.add(cargo_test(tools, &[package], &["--test", "*"])?);
                }
            }
        }
        Tier::Browser => {
            let chromium = chromium::executable()?;
            let folder = binaries::build(tools, Profile::Debug)?;
            println!("binaries under test: {}", folder.display());
            let mut command = cargo_test_command(tools, &["tests"], &["--test", "browser_*"]);
            count.add(counted(command.env("WEIR_CHROMIUM", chromium))?);
        }
        Tier::Manifests | Tier::Cluster => bail!("{tier:?} has its own command"),
        Tier::Deploy => count.add(deploy::test()?),
    }
    ensure!(count.passed + count.failed > 0, "the {tier:?} tier ran no test");
    Ok(count)
}

/// One call of `cargo test`, its output shown as it comes.
fn cargo_test(tools: &Tools, packages: &[&str], selection: &[&str]) -> Result<Count> {
    counted(&mut cargo_test_command(tools, packages, selection))
}

fn cargo_test_command(tools: &Tools, packages: &[&str], selection: &[&str]) -> Command {
    let mut command = tools.cargo();
    command.args(["test", "--locked", "--no-fail-fast"]);
    for package in packages {
        command.args(["--package", package]);
    }
    command.args(selection);
    command
}

/// Runs `command` and adds up the closing lines of the test programs it runs. Where it fails without a failed test (it did
/// not build), that is one failure.
fn counted(command: &mut Command) -> Result<Count> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no stdout")?;
    let mut count = Count::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read what cargo test prints")?;
        println!("{line}");
        std::io::stdout().flush().context("write to stdout")?;
        count.add(closing_line(&line).unwrap_or_default());
    }
    let status = child.wait().context("wait for cargo test")?;
    if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

/// `test result: ok. 3 passed; 0 failed; 0 ignored; …`
fn closing_line(line: &str) -> Option<Count> {
    let (_, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let part = rest.split("; ").find(|part| part.ends_with(word))?;
        part.split_whitespace().next()?.parse().ok()
    };
    Some(Count { passed: number("passed")?, failed: number("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_of_a_test_program_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.05s";
        assert_eq!(closing_line(line), Some(Count { passed: 12, failed: 3 }));
        assert_eq!(closing_line("test a_flow ... ok"), None);
    }
}
