//! `cargo xtask demo`: what the README promises, carried out on examples/shop.
//!
//! Set-up and build run as whoever called; the scenario itself needs root, and is this program once more, through sudo where
//! that is needed. It drives the `weir` binary as a person would.

mod client;
mod remains;
mod scenario;

pub(crate) use client::{Args as ClientArgs, command as client};
pub(crate) use scenario::{Args as ScenarioArgs, command as scenario};

use anyhow::{Context, Result};

use crate::binaries::{self, Profile};
use crate::{bench, process, setup, workspace};

pub(crate) fn command() -> Result<()> {
    let tools = setup::tools()?;
    let binaries = binaries::build(&tools, Profile::Debug)?;
    let ourselves = std::env::current_exe().context("find our own program")?;
    let mut scenario = bench::as_root(&ourselves)?;
    scenario.arg("demo-scenario").arg("--binaries").arg(&binaries);
    scenario.arg("--examples").arg(workspace::root().join("examples"));
    process::run(&mut scenario)
}
