//! `weir`, the operator's command.
//!
//! Synchronous on purpose: the sandbox unshares its mount namespace, which the kernel only allows to a process with one
//! thread, so each subcommand starts its own runtime when it is ready for one.

#![forbid(unsafe_code)]

mod agents;
mod capture;
mod cluster;
mod columns;
mod connectivity;
mod doctor;
mod explain;
mod flows;
mod format;
mod ingress;
mod install;
mod policy;
mod proxy;
mod sandbox;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "weir",
    version,
    about = "Pod networking and network policy: see what passes, what does not, and why"
)]
struct Weir {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring manifests up as namespaces on this machine, and show who reaches whom
    Sandbox(sandbox::Args),
    /// Show connections and drops as the agent saw them
    Flows(flows::Args),
    /// Say whether one end may reach another, and why
    Explain(explain::Args),
    /// Look at policies before they are in force
    Policy(policy::Args),
    /// Look at Ingress objects before they are in force, and at what weir-ingress has in force
    Ingress(ingress::Args),
    /// Show what the agent has in force
    Status(status::Args),
    /// Make Weir the network of a Kubernetes cluster
    Install(install::Args),
    /// Take Weir off a cluster, and off each of its nodes
    Uninstall(install::UninstallArgs),
    /// Say whether this machine can run Weir, and whether it does
    Doctor(doctor::Args),
    /// Show the packets of one pod
    Capture(capture::Args),
    /// See by real connections who reaches whom in a cluster, and whether policies hold
    Connectivity(connectivity::Args),
}

fn main() -> ExitCode {
    let result = match Weir::parse().command {
        Command::Sandbox(args) => sandbox::run(args),
        Command::Flows(args) => flows::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Ingress(args) => ingress::run(args),
        Command::Status(args) => status::run(args),
        Command::Install(args) => install::run(args),
        Command::Uninstall(args) => install::uninstall(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Capture(args) => capture::run(args),
        Command::Connectivity(args) => connectivity::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("weir: {error:#}");
        // 1 is for an answer that differs from what was expected, or bad input; see `weir sandbox --help`.
        ExitCode::FAILURE
    })
}
