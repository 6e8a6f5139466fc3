//! The four things that `weir sandbox` does. (Slot for the runtime half: signatures as the CLI calls them.)

use std::process::ExitCode;

use crate::plan::Options;

/// Brings up, measures, shows, and takes down again (unless `keep`). Call it before the process has a second thread.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    anyhow::bail!("sandbox of {} nodes: no runtime yet", options.nodes)
}

/// Runs a command in a pod (`namespace/name`, or a name that only one pod has) of a sandbox that was kept.
pub fn exec(id: Option<&str>, pod: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    anyhow::bail!("exec {command:?} in pod {pod} of sandbox {id:?}: no runtime yet")
}

/// Takes one kept sandbox down, or all.
pub fn down(id: Option<&str>, all: bool) -> anyhow::Result<ExitCode> {
    anyhow::bail!("down {id:?} (all: {all}): no runtime yet")
}

/// Prints the kept sandboxes.
pub fn list() -> anyhow::Result<ExitCode> {
    anyhow::bail!("list: no runtime yet")
}
