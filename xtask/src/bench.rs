//! `cargo xtask bench`: builds what is measured, gets what it is measured against, and runs the crate `bench` as root.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::Subcommand;

use crate::binaries::{self, Profile};
use crate::{cluster, debian, process, setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// CPU per transaction and throughput, against a raw veth pair, the bridge plugin and routed veths
    Datapath {
        /// Given to the benchmark as they are: `--rounds 3 --seconds 0.2 --only weir`, see `--help` there
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Time, map writes and memory for worlds of many pods and policies
    Policy {
        /// Given to the benchmark as they are: `--pods 10000 --policies 1000 --only mixed`, see `--help` there
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// On a real Kubernetes (docs/cluster.md): what an agent pays among a thousand nodes, how fast pods start
    #[command(subcommand)]
    Cluster(cluster::bench::Bench),
}

pub(crate) fn command(args: Args) -> Result<()> {
    let (name, options) = match args.bench {
        Bench::Datapath { options } => ("datapath", options),
        Bench::Policy { options } => ("policy", options),
        Bench::Cluster(bench) => return cluster::bench::command(&bench),
    };
    let tools = setup::tools()?;
    process::run(tools.cargo().args(["build", "--locked", "--release", "--package", "bench"]))?;
    let mut bench = as_root(&workspace::target().join("release/weir-bench"))?;
    bench.arg(name).arg("--binaries").arg(binaries::build(&tools, Profile::Release)?);
    if name == "datapath" {
        bench.arg("--plugins").arg(reference_plugins()?);
    }
    process::run(bench.arg("--out").arg(workspace::target().join("bench")).args(options))
}

/// Debian's build of the reference CNI plugins, unpacked into the cache.
fn reference_plugins() -> Result<PathBuf> {
    let folder = workspace::cache()?.join("containernetworking-plugins");
    let plugins = folder.join("usr/lib/cni");
    if !plugins.join("bridge").is_file() {
        debian::unpack("containernetworking-plugins", None, &[], &folder)?;
    }
    for plugin in ["bridge", "host-local"] {
        ensure!(plugins.join(plugin).is_file(), "Debian's containernetworking-plugins has no {plugin}");
    }
    Ok(plugins)
}

/// `program`, through sudo where we are not root.
pub(crate) fn as_root(program: &std::path::Path) -> Result<Command> {
    if workspace::is_root() {
        return Ok(Command::new(program));
    }
    let sudo = Command::new("sudo").arg("--version").output();
    ensure!(
        sudo.is_ok_and(|output| output.status.success()),
        "{} needs root, and there is no sudo to ask: run this as root",
        program.display()
    );
    eprintln!("network namespaces and kernel programs need root: asking through sudo");
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    Ok(command)
}
