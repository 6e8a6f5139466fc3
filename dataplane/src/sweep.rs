//! Forgetting expired connections. The programs ignore an expired entry whenever they meet it; this only gives its room
//! back before the table is full.

use common::maps as names;

use crate::error::Error;
use crate::maps::Maps;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    pub live: usize,
    pub expired: usize,
}

pub(crate) fn expired(maps: &mut Maps) -> Result<SweepReport, Error> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_err(|errno| Error::Flows(errno.into()))?;
    let now_ns = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    let mut report = SweepReport::default();
    let mut expired = Vec::new();
    for row in maps.ct.iter() {
        let (key, entry) = row.map_err(Error::map("read", names::CT))?;
        if entry.expires_ns < now_ns {
            expired.push(key);
        } else {
            report.live += 1;
        }
    }
    for key in expired {
        // Gone by itself, or brought back to life by a packet since we looked: the packet then starts a new entry.
        if maps.ct.remove(&key).is_ok() {
            report.expired += 1;
        }
    }
    Ok(report)
}
