//! `weir-bench`: what the ways to wire pods cost, side by side in interleaved rounds of one run; what policies cost; and
//! what a request costs that comes through the ingress.
//!
//! Everything lives in anonymous network namespaces and in a private mount namespace whose files are in memory, and every
//! child dies with this process: however it ends, nothing is left on the machine. Absolute figures are this machine's
//! and this hour's; what is compared, and printed first, are ratios to a raw veth pair within one round.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the table is for a person to read")]

mod attach;
mod chart;
mod clock;
mod cni;
mod datapath;
mod ingress;
mod layout;
mod load;
mod place;
mod policy;
mod report;
mod rounds;
mod serve;
mod statistics;
mod targets;
mod worker;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "weir-bench",
    about = "What the ways to wire pods cost, what policies do, and what a request through the ingress does"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Raw veth pair, bridge plugin, routed veths, and Weir with no, 10 and 1,000 policies
    Datapath(datapath::Args),
    /// Compiling and programming worlds of many pods and policies: time, writes, memory
    Policy(policy::Args),
    /// weir-ingress, nginx, HAProxy and a bare hyper proxy: CPU per request, latency, memory; and changes under load
    Ingress(ingress::Args),
    /// What `ingress` runs beside the proxies
    #[command(hide = true)]
    IngressPart(ingress::Part),
    /// One world of `policy`, which starts these
    #[command(hide = true)]
    PolicyWorker(policy::worker::Args),
    /// One end of a measurement; `datapath` starts these
    #[command(hide = true)]
    Worker,
    /// Become another program that dies with its parent
    #[command(hide = true)]
    Become {
        /// Control group to go into first
        #[arg(long)]
        group: Option<PathBuf>,
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Datapath(args) => datapath::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Ingress(args) => ingress::run(&args),
        Command::IngressPart(part) => ingress::part(&part),
        Command::PolicyWorker(args) => policy::worker::run(&args),
        Command::Worker => worker::run(),
        Command::Become { group, command } => place::become_program(group.as_deref(), &command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
