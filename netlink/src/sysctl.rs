//! Kernel settings of the calling thread's network namespace.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes `value` to `/proc/sys/net/SETTING`, for example `sysctl("ipv4/conf/eth0/rp_filter", "2")`. Slashes, not dots:
/// an interface's name may contain dots.
pub fn sysctl(setting: &str, value: &str) -> Result<()> {
    let path = path_of(setting);
    fs::write(&path, value).map_err(|source| Error::WriteSysctl { path, value: value.into(), source })
}

/// What `/proc/sys/net/SETTING` holds, without the newline.
pub fn read_sysctl(setting: &str) -> Result<String> {
    let path = path_of(setting);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(source) => Err(Error::ReadSysctl { path, source }),
    }
}

/// In a container `/proc/sys` is read-only, whatever its capabilities; there the same folder is mounted a second time
/// (deploy/base/agent.yaml). Either shows the namespace of who looks.
fn path_of(setting: &str) -> PathBuf {
    let mounted = Path::new("/host/proc/sys/net");
    let folder = if mounted.is_dir() { mounted } else { Path::new("/proc/sys/net") };
    folder.join(setting)
}
