//! `cargo xtask lint`: clippy over everything, warnings as errors, and the format.

use anyhow::Result;

use crate::{process, setup};

pub(crate) fn command() -> Result<()> {
    let tools = setup::tools()?;
    process::run(tools.cargo().args(["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    process::run(tools.cargo().args(clippy))
}
