//! Building the programs that the demo, the manifests and the benchmarks run.

use std::path::PathBuf;

use anyhow::Result;

use crate::process;
use crate::setup::Tools;
use crate::workspace;

/// Which build. The kernel programs are optimised in both; user space only shows in CPU time, so what is measured wants
/// `Release`, and everything else the build that takes a third of the time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

/// Builds `weir`, `weir-agent`, `weir-cni` and `weir-stub` and says in which folder they are.
pub(crate) fn build(tools: &Tools, profile: Profile) -> Result<PathBuf> {
    let mut command = tools.cargo();
    command.args(["build", "--locked", "--package", "cli", "--package", "agent", "--package", "cni"]);
    command.args(["--package", "sandbox", "--bins"]);
    let folder = match profile {
        Profile::Debug => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    process::run(&mut command)?;
    Ok(workspace::target().join(folder))
}
