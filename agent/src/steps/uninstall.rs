//! The last step: nothing of ours stays on the node.
//!
//! Pods that are there lose their network and keep running; whoever brings the next network starts them anew. Kernel
//! settings that Weir changed (forwarding, loose reverse path filters) stay: others may rely on them by now.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::below;
use super::remains::{Node, Remains};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Enter this folder first: the node's root, mounted. Links that k3s makes lead somewhere only from inside
    #[arg(long, value_name = "DIR")]
    chroot: Option<PathBuf>,
    /// Where files of the node are looked for, without entering
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    /// Folder where programs and maps are pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/weir")]
    pins: PathBuf,
    /// Where the agent listened
    #[arg(long, value_name = "PATH", default_value = api::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// State of plugin and agent
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weir")]
    state: PathBuf,
    /// Only look: an error that names what is left
    #[arg(long)]
    check: bool,
    /// Then wait to be ended, as a DaemonSet's containers do
    #[arg(long)]
    stay: bool,
}

pub(super) fn uninstall(args: &Args) -> Result<()> {
    if let Some(root) = &args.chroot {
        let place = || format!("--chroot {}", root.display());
        nix::unistd::chroot(root).with_context(place)?;
        std::env::set_current_dir("/").with_context(place)?;
    }
    let socket = below(&args.root, &args.socket);
    if UnixStream::connect(&socket).is_ok() {
        bail!(
            "an agent answers at {}: end it first (kubectl -n weir-system delete daemonset weir-agent)",
            socket.display()
        );
    }
    let node = Node {
        root: &args.root,
        pins: &args.pins,
        run: args.socket.parent().unwrap_or(&args.socket),
        state: &args.state,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?
        .block_on(clear(&node, args.check))?;
    if args.stay {
        // Parked threads may wake for no reason.
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

/// Removes what there is, as much as can be, and is content only when a second look finds nothing.
async fn clear(node: &Node<'_>, only_look: bool) -> Result<()> {
    let mut failures = Vec::new();
    if !only_look {
        let remains = Remains::of(node).await?;
        for one in remains.list() {
            eprintln!("weir-agent: removing {one}");
        }
        failures = remains.remove(node).await;
    }
    let left: Vec<String> = Remains::of(node).await?.list().iter().map(ToString::to_string).collect();
    if left.is_empty() {
        eprintln!("weir-agent: nothing of Weir is on this node");
        return Ok(());
    }
    failures.insert(0, format!("still on this node: {}", left.join(", ")));
    bail!("{}", failures.join("; "))
}
