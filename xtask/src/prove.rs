//! `cargo xtask prove`: random worlds before the judges of NetworkPolicy, for as long as one likes.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::{bench, process, setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where to begin; what a failure prints shows it again. Absent: somewhere else each time
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn command(args: Args) -> Result<()> {
    let tools = setup::tools()?;
    process::run(tools.cargo().args(["build", "--locked", "--package", "tests", "--bin", "weir-prove"]))?;
    let seed = match args.seed {
        Some(seed) => seed,
        // Series are numbered from here on: a thousand a second never meet those of the second before.
        None => SystemTime::now().duration_since(UNIX_EPOCH).context("what time is it?")?.as_secs() * 1000,
    };
    println!("judging for {} s from seed {seed} on", args.seconds);
    let mut prove: Command = bench::as_root(&workspace::target().join("debug/weir-prove"))?;
    process::run(prove.args([args.seconds, seed].map(|number| number.to_string())))
}
