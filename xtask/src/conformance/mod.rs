//! `cargo xtask conformance`: other people's suites against our binaries.

mod h2spec;
mod ingress;
mod testssl;

use anyhow::Result;
use clap::ValueEnum;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum)]
    suite: Suite,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// HTTP/2 and HPACK, over TLS, against weir-ingress
    H2spec,
    /// What TLS offers, against weir-ingress: grade A or better
    Testssl,
}

pub(crate) fn command(args: Args) -> Result<()> {
    match args.suite {
        Suite::H2spec => h2spec::command(),
        Suite::Testssl => testssl::command(),
    }
}
