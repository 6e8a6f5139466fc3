//! A real Kubernetes on this machine without Docker.

pub(crate) mod bench;
mod control_plane;
mod init;
mod kubectl;
mod layout;
mod load;
mod machine;
mod node;
mod orders;
mod pki;
mod plain;
mod probe;
pub(crate) mod scenarios;
mod state;
mod store;
pub(crate) mod tools;
mod underlay;
mod up;
mod weir;

pub(crate) use tools::go_command;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command as Process;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::image;
use kubectl::Kubectl;
use layout::Layout;
use state::Cluster;
use up::{Network, Wish};

#[derive(Parser)]
pub(crate) struct Args {
    /// Where the cluster's state and logs are: each folder can hold one cluster [default: target/cluster]
    #[arg(long, value_name = "DIR", global = true)]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build what a cluster consists of from pinned Go modules, once for all clones; `up` does so too
    Build,
    /// Bring a cluster up: control plane, nodes, CoreDNS
    Up {
        /// How many nodes
        #[arg(default_value_t = 2)]
        nodes: usize,
        /// Whose CNI folders and address ranges the nodes have
        #[arg(long, default_value = "kind")]
        layout: Layout,
        /// Who wires the pods
        #[arg(long, default_value = "weir")]
        cni: Network,
        /// How Weir is built
        #[arg(long, value_enum, default_value = "debug")]
        profile: image::Profile,
    },
    /// Take the cluster down, and leave nothing but its logs
    Down,
    /// kubectl, as the cluster's administrator
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a command, or else a shell, on a node (or on `control-plane`)
    Sh {
        machine: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Pull a node's plug
    StopNode { number: usize },
    /// Start a stopped node again
    StartNode { number: usize },
    /// Make a machine's namespaces and leave a PID 1 in them
    #[command(hide = true)]
    Machine {
        orders: PathBuf,
        #[arg(long = "cgroup")]
        cgroups: Vec<PathBuf>,
    },
    /// Stand in the place of a process and knock at doors
    #[command(hide = true)]
    Probe { pid: i32 },
    /// Stand in the place of a process and keep connections busy
    #[command(hide = true)]
    Load { pid: i32, server: SocketAddr, connections: usize },
    /// A machine's PID 1
    #[command(hide = true)]
    Init { orders: PathBuf },
}

pub(crate) fn command(args: Args) -> Result<()> {
    let folder = args.folder.unwrap_or_else(state::default_folder);
    let folder = std::path::absolute(&folder).with_context(|| format!("--folder {}", folder.display()))?;
    match args.command {
        Command::Build => {
            let tools = tools::tools()?;
            println!("{}", tools.bin.display());
            Ok(())
        }
        Command::Up { nodes, layout, cni, profile } => {
            up::up(&Wish { folder, nodes, layout, network: cni, profile, images: Vec::new() })?;
            println!(
                "`cargo xtask cluster kubectl get pods -A` shows what runs, `cargo xtask cluster down` ends it"
            );
            Ok(())
        }
        Command::Down => match Cluster::load(&folder)? {
            Some(cluster) => cluster.take_down(),
            None => bail!("no cluster is up in {}", folder.display()),
        },
        Command::Kubectl { arguments } => {
            let cluster = Cluster::running(&folder)?;
            let status = Kubectl::new(&cluster, &tools::tools()?.bin)?.pass_on(&arguments)?;
            std::process::exit(status.code().unwrap_or(1));
        }
        Command::Sh { machine, command } => {
            let cluster = Cluster::running(&folder)?;
            let machine = cluster.machine(&machine)?;
            let mut words = command.into_iter();
            let mut process = Process::new(words.next().unwrap_or_else(|| "sh".into()));
            process.args(words);
            let status = machine.inside(|| process.status().context("start the command"))?;
            std::process::exit(status.code().unwrap_or(1));
        }
        Command::StopNode { number } => {
            let mut cluster = Cluster::running(&folder)?;
            cluster.stop_node(number)
        }
        Command::StartNode { number } => {
            let mut cluster = Cluster::running(&folder)?;
            cluster.start_node(number)
        }
        Command::Machine { orders, cgroups } => machine::launch(&orders, &cgroups),
        Command::Probe { pid } => probe::command(pid),
        Command::Load { pid, server, connections } => load::command(pid, server, connections),
        Command::Init { orders } => init::run(&orders),
    }
}
