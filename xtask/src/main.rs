//! `cargo xtask`: everything a developer or CI runs, one file a subcommand.
//!
//! Each subcommand first does the set-up it needs, so nothing here wants a second command before it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "xtask speaks to a person")]

mod bench;
mod binaries;
mod chromium;
mod cluster;
mod conformance;
mod debian;
mod demo;
mod deploy;
mod fuzz;
mod image;
mod lint;
mod manifests;
mod peers;
mod process;
mod prove;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, demo, tests and benchmarks of Weir")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get the tools that a build needs into $XDG_CACHE_HOME/weir; every other subcommand calls it
    Setup(setup::Args),
    /// Bring examples/shop up in the sandbox, change a policy, kill an agent, show the flows
    Demo,
    /// Run one tier of tests, or all of them
    Test(test::Args),
    /// Random worlds: the specification, the tables, the kernel and the incremental compiler must give one answer
    Prove(prove::Args),
    /// Look for inputs that break an invariant: libFuzzer on packets, programs, manifests and CNI calls
    Fuzz(fuzz::Args),
    /// Clippy over the whole workspace, and the format
    Lint,
    /// Check the laws of this tree that no compiler knows
    Tidy,
    /// Other people's manifests on the real dataplane: ../shared/data
    Manifests(manifests::Args),
    /// Measure side by side with other ways to wire pods
    Bench(bench::Args),
    /// Other people's suites against our binaries: h2spec
    Conformance(conformance::Args),
    /// A real Kubernetes on this machine, without Docker, with Weir as its network
    Cluster(cluster::Args),
    /// The image that a cluster runs, without Docker: static programs on nothing else, reproducible, with their SBOM
    Image(image::Args),
    /// The part of the demo that needs root
    #[command(hide = true)]
    DemoScenario(demo::ScenarioArgs),
    /// What runs in the demo's pods
    #[command(hide = true)]
    DemoClient(demo::ClientArgs),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Setup(args) => setup::command(args),
        Command::Test(args) => test::command(args),
        Command::Prove(args) => prove::command(args),
        Command::Fuzz(args) => fuzz::command(args),
        Command::Lint => lint::command(),
        Command::Tidy => tidy::command(),
        Command::Manifests(args) => manifests::command(args),
        Command::Bench(args) => bench::command(args),
        Command::Conformance(args) => conformance::command(args),
        Command::Cluster(args) => cluster::command(args),
        Command::Image(args) => image::command(args),
        Command::Demo => demo::command(),
        Command::DemoScenario(args) => demo::scenario(args),
        Command::DemoClient(args) => demo::client(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
