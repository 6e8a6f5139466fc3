//! Which kernel this is, and whether it will do.

use std::path::Path;

use common::release::{KERNEL_FLOOR, release_numbers};

use crate::error::Error;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Refuses a kernel that the programs cannot run on, with what to do about it.
pub(crate) fn check() -> Result<(), Error> {
    let release = release();
    if release_numbers(&release) < KERNEL_FLOOR {
        return Err(Error::OldKernel { found: release });
    }
    if Path::new(BTF).exists() { Ok(()) } else { Err(Error::NoBtf) }
}

/// Whether the running kernel is of this release or a later one; a release we cannot read counts as old.
pub(crate) fn kernel_at_least(major: u32, minor: u32) -> bool {
    release_numbers(&release()) >= (major, minor)
}

fn release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}
