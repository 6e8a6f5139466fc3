//! Which boot of the machine this is, and how long it has lasted.

use std::fs;
use std::io;
use std::time::Duration;

/// Different after every boot: a namespace of another boot is gone, whatever the disk says.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

/// The time since boot, sleep included. Nobody sets this clock.
pub(crate) fn uptime() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse().ok());
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/uptime is `{text}`")))
}
