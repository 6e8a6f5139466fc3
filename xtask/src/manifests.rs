//! `cargo xtask manifests`: other people's manifests on the real dataplane.
//!
//! What lies in ../shared/data is laid as published; what each of them should do is written down in `tests/manifests`:
//! one expectation for the shop, and for each policy recipe a folder with pods that fit it and the outcome that the
//! recipe's own text promises.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::binaries::{self, Profile};
use crate::test::Count;
use crate::{setup, workspace};

/// The shop's twelve workloads must be wired, with their policies in force, in this time.
const UP_MS: u64 = 3000;
const SHOP_WORKLOADS: usize = 12;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only those whose name contains this
    only: Option<String>,
}

pub(crate) fn command(args: Args) -> Result<()> {
    let data = workspace::root().join("../shared/data");
    ensure!(
        data.is_dir(),
        "{} does not exist: it holds the published manifests that this tier brings up",
        data.display()
    );
    ensure!(workspace::is_root(), "the manifests are brought up in network namespaces: run this as root");
    let mut cases = vec![shop(&data)];
    cases.extend(recipes(&data)?);
    if let Some(only) = &args.only {
        cases.retain(|case| case.name.contains(only.as_str()));
    }
    let tools = setup::tools()?;
    let weir = binaries::build(&tools, Profile::Debug)?.join("weir");
    let mut count = Count::default();
    for case in &cases {
        match case.run(&weir) {
            Ok(report) => {
                count.passed += 1;
                println!("{} ... ok, {report}", case.name);
            }
            Err(error) => {
                count.failed += 1;
                println!("{} ... FAILED\n{error:#}\n", case.name);
            }
        }
    }
    count.close()
}

/// Manifests and what they should do.
struct Case {
    name: String,
    files: Vec<PathBuf>,
    expect: PathBuf,
    options: &'static [&'static str],
    /// What is asked of the report beyond the table.
    check: fn(&Value) -> Result<()>,
}

impl Case {
    /// Brings it up, compares its table with the expectation, and says in a line what was measured.
    fn run(&self, weir: &Path) -> Result<String> {
        let mut command = Command::new(weir);
        command.args(["sandbox", "--output", "json", "--expect"]).arg(&self.expect);
        command.args(self.options);
        for file in &self.files {
            command.arg("--filename").arg(file);
        }
        let output = command.output().with_context(|| format!("start {}", weir.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "weir sandbox ended with {}:\n{}", output.status, said.trim_end());
        let report: Value =
            serde_json::from_slice(&output.stdout).context("parse what weir sandbox printed")?;
        (self.check)(&report)?;
        Ok(format!(
            "{} pods, {} probes, up in {} ms",
            length(&report["pods"]),
            length(&report["probes"]),
            report["timings"]["up_ms"]
        ))
    }
}

fn length(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

fn shop(data: &Path) -> Case {
    Case {
        name: "online-boutique".to_owned(),
        files: vec![data.join("online-boutique")],
        expect: workspace::root().join("tests/manifests/online-boutique.expect.yaml"),
        options: &[],
        check: |report| {
            let pods = report["pods"].as_array().context("the report has no pods")?;
            let workloads: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["workload"].as_str()).collect();
            ensure!(
                workloads.len() == SHOP_WORKLOADS,
                "{} workloads came up, {SHOP_WORKLOADS} are in the manifests: {workloads:?}",
                workloads.len()
            );
            let up = report["timings"]["up_ms"].as_u64().context("the report has no timings.up_ms")?;
            ensure!(up <= UP_MS, "it took {up} ms to come up, {UP_MS} are the most");
            Ok(())
        },
    }
}

/// One case for each recipe. A recipe without an outcome, or an outcome without its recipe, is an error.
fn recipes(data: &Path) -> Result<Vec<Case>> {
    let published = names(&data.join("policy-recipes"), ".yaml")?;
    let folder = workspace::root().join("tests/manifests/recipes");
    let known = names(&folder, "")?;
    if let Some(name) = published.symmetric_difference(&known).next() {
        bail!("recipe {name}: it must lie both in ../shared/data/policy-recipes and in {}", folder.display());
    }
    let case = |name: &String| Case {
        name: format!("recipe {name}"),
        files: vec![folder.join(name), data.join("policy-recipes").join(format!("{name}.yaml"))],
        expect: folder.join(name).join("expect.yaml"),
        // Some speak of the resolver.
        options: &["--all"],
        check: |_| Ok(()),
    };
    Ok(published.iter().map(case).collect())
}

/// The names in a folder that end with `ending`, without it.
fn names(folder: &Path, ending: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let name = entry.with_context(|| format!("list {}", folder.display()))?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(ending)).map(str::to_owned));
    }
    Ok(names)
}
