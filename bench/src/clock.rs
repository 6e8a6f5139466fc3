//! CPU time of processes.
//!
//! What the kernel does for a packet between two namespaces runs in the sender's context (on this kernel softirq time is
//! charged to the process it interrupts), so the CPU time of both ends is what the path costs, their system calls
//! included. A raw veth pair has the same system calls, and the ratio shows what the path adds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// What one measurement took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) wall_ns: u64,
    pub(crate) client_cpu_ns: u64,
    pub(crate) server_cpu_ns: u64,
}

/// A measurement that has begun.
pub(crate) struct Meter {
    client: ClockId,
    server: ClockId,
    begun: Instant,
    client_cpu: Duration,
    server_cpu: Duration,
}

impl Meter {
    /// Measures this process and the process `server`.
    pub(crate) fn start(server: i32) -> Result<Self> {
        let client = ClockId::CLOCK_PROCESS_CPUTIME_ID;
        let server = ClockId::pid_cpu_clock_id(Pid::from_raw(server))
            .with_context(|| format!("find the CPU clock of the server, process {server}"))?;
        Ok(Self {
            client,
            server,
            client_cpu: read(client)?,
            server_cpu: read(server)?,
            begun: Instant::now(),
        })
    }

    /// How long it has been.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn stop(&self) -> Result<Taken> {
        let wall = self.begun.elapsed();
        let client = read(self.client)? - self.client_cpu;
        let server = read(self.server)? - self.server_cpu;
        Ok(Taken {
            wall_ns: nanoseconds(wall),
            client_cpu_ns: nanoseconds(client),
            server_cpu_ns: nanoseconds(server),
        })
    }
}

fn read(clock: ClockId) -> Result<Duration> {
    Ok(clock.now().context("read a CPU clock")?.into())
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    // 584 years fit.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
