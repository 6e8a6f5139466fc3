//! A real Kubernetes on this machine without Docker.

mod image;
mod tools;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build what a cluster consists of from pinned Go modules, once for all clones; `up` does so too
    Build,
}

pub(crate) fn command(args: Args) -> Result<()> {
    match args.command {
        Command::Build => {
            let tools = tools::tools()?;
            println!("{}", tools.bin.display());
            Ok(())
        }
    }
}
