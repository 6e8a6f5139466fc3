//! What is done to a node before there is an agent on it, and after the last one: steps that end, run as containers of
//! their own, each with no more rights than it needs.

mod bpffs;
pub(crate) mod cni_dirs;
mod install;
mod remains;
mod uninstall;

use std::path::{Path, PathBuf};

use anyhow::Result;

#[derive(clap::Subcommand)]
pub(crate) enum Step {
    /// Mount a bpffs at /sys/fs/bpf, unless one is there
    MountBpffs {
        #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
        at: PathBuf,
    },
    /// Put weir-cni where the node's container runtime looks for plugins
    Install {
        /// Folder that holds weir-cni [default: the one of this program]
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Where the node's root folder is
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
    /// Take all of Weir off this node, once its agent is gone: pods lose their network
    Uninstall(uninstall::Args),
}

pub(crate) fn run(step: Step) -> Result<()> {
    match step {
        Step::MountBpffs { at } => bpffs::mount(&at),
        Step::Install { from, root } => install::install(from.as_deref(), &root),
        Step::Uninstall(args) => uninstall::uninstall(&args),
    }
}

/// Where `path`, absolute on the node, is to be found when the node's root folder is `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
