//! `weir-cni`: the CNI plugin.
//!
//! A runtime starts it once per command, with the command in the environment and the network configuration on standard
//! input; the answer, also a failure, is one JSON object on standard output, and nothing else is ever written there. It
//! starts, asks the kernel and the agent, and ends: no threads but short helpers, no state but the address ledger.
#![forbid(unsafe_code)]

mod agent;
mod bandwidth;
mod boot;
mod command;
mod config;
mod endpoint;
mod invocation;
mod ipam;
mod ipam_store;
mod port_mapping;
mod rehearsal;
mod result;
mod spec;
pub mod upkeep;
mod wiring;

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

pub use rehearsal::{Rehearsal, rehearse};

use crate::invocation::{Command, Invocation};
use crate::spec::{Failure, Version, code};

/// The program.
pub fn main() -> ExitCode {
    match std::env::var("CNI_COMMAND") {
        Ok(command) if !command.is_empty() => {}
        _ => return print(&about()),
    }
    let input = read_input();
    let version = Version::of_input(input.as_deref().unwrap_or_default());
    let answer = input.and_then(|input| answer(&input));
    match answer {
        Ok(Some(answer)) => print(&answer.to_string()),
        Ok(None) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("weir-cni: {failure}");
            print(&failure.to_json(version).to_string());
            ExitCode::FAILURE
        }
    }
}

fn answer(input: &[u8]) -> Result<Option<Value>, Failure> {
    let invocation = Invocation::from_env(&|name| std::env::var_os(name))?;
    if invocation.command == Command::Version {
        return Ok(Some(spec::version_answer(Version::of_input(input))));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::new(code::IO, "start the runtime").with(error))?;
    if called_loopback() {
        return runtime.block_on(command::loopback::run(&invocation, input));
    }
    runtime.block_on(command::run(&invocation, input))
}

/// By which of our two names the runtime has called us.
fn called_loopback() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.is_some_and(|path| path.file_name().is_some_and(|name| name == "loopback"))
}

/// A person who tries `CNI_COMMAND=VERSION weir-cni` in a terminal need not type an empty configuration.
fn read_input() -> Result<Vec<u8>, Failure> {
    let mut input = Vec::new();
    if !io::stdin().is_terminal() {
        io::stdin().lock().read_to_end(&mut input).map_err(|error| {
            Failure::new(code::IO, "read the configuration on standard input").with(error)
        })?;
    }
    Ok(input)
}

fn print(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-cni: write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn about() -> String {
    format!(
        "weir-cni {}, the CNI plugin of Weir\nCNI protocol versions supported: {}",
        env!("CARGO_PKG_VERSION"),
        spec::supported_versions().join(", ")
    )
}
