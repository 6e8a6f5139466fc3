//! The file system that pins live on. Where systemd runs it is mounted already.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::mount::MsFlags;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

pub(super) fn mount(at: &Path) -> Result<()> {
    if is_bpffs(at)? {
        eprintln!("weir-agent: a bpffs is mounted at {} already", at.display());
        return Ok(());
    }
    nix::mount::mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount a bpffs at {}", at.display()))?;
    ensure!(is_bpffs(at)?, "{}: a bpffs was mounted there, and is not", at.display());
    eprintln!("weir-agent: mounted a bpffs at {}", at.display());
    Ok(())
}

fn is_bpffs(path: &Path) -> Result<bool> {
    let found = statfs(path).with_context(|| {
        format!("look at {}: it must be the node's, and the kernel must have BPF", path.display())
    })?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}
