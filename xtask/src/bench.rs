//! `cargo xtask bench`: builds what is measured, gets what it is measured against, and runs the crate `bench` as root.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::Subcommand;

use crate::binaries::{self, Profile};
use crate::{cluster, debian, peers, process, setup, workspace};

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
    /// CPU per request, latency and memory of weir-ingress beside nginx, HAProxy and a bare hyper proxy; and changes under load
    Ingress {
        /// Given to the benchmark as they are: `--rounds 3 --only http1-1k`, see `--help` there
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
}

pub(crate) fn command(args: Args) -> Result<()> {
    let tools = setup::tools()?;
    match args.bench {
        Bench::Cluster(bench) => cluster::bench::command(&bench),
        Bench::Datapath { options } => {
            let plugins = reference_plugins()?;
            let binaries = binaries::build(&tools, Profile::Release)?;
            let mut bench = build(&tools)?;
            bench.arg("datapath").arg("--binaries").arg(&binaries).arg("--plugins").arg(&plugins);
            measure(bench, &options)
        }
        Bench::Policy { options } => {
            let binaries = binaries::build(&tools, Profile::Release)?;
            let mut bench = build(&tools)?;
            bench.arg("policy").arg("--binaries").arg(&binaries);
            measure(bench, &options)
        }
        Bench::Ingress { options } => {
            let (nginx, haproxy) = (peers::server("nginx")?, peers::server("haproxy")?);
            // By itself, as it is shipped: in one go with other packages its dependencies would have their features, too.
            let packages = ["--profile", "proxy", "--package", "ingress", "--bin", "weir-ingress"];
            process::run(tools.cargo().args(["build", "--locked"]).args(packages))?;
            let mut bench = build(&tools)?;
            bench.arg("ingress").arg("--weir").arg(workspace::target().join("proxy/weir-ingress"));
            bench.arg("--nginx").arg(nginx).arg("--haproxy").arg(haproxy);
            measure(bench, &options)
        }
    }
}

/// The benchmark itself.
fn build(tools: &setup::Tools) -> Result<Command> {
    process::run(tools.cargo().args(["build", "--locked", "--release", "--package", "bench"]))?;
    as_root(&workspace::target().join("release/weir-bench"))
}

fn measure(mut bench: Command, options: &[String]) -> Result<()> {
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
