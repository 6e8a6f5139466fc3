//! Forgetting expired connections. The programs ignore an expired entry whenever they meet it; this only gives its room
//! back before the table is full. The kernel walks its table itself: from here each entry would cost a system call.

use aya::{TestRun, TestRunOptions};
use common::maps as names;
use common::verdict::counter;

use crate::Dataplane;
use crate::error::Error;
use crate::load::classifier;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    pub live: u64,
    pub expired: u64,
}

const PROGRAM: &str = "sweep";

pub(crate) fn expired(dataplane: &mut Dataplane) -> Result<SweepReport, Error> {
    let before = expired_so_far(dataplane)?;
    let live = walk(dataplane)?;
    Ok(SweepReport { live, expired: expired_so_far(dataplane)?.saturating_sub(before) })
}

/// Walks the table; how many connections live.
pub(crate) fn walk(dataplane: &mut Dataplane) -> Result<u64, Error> {
    // The program looks at no packet, but the kernel insists on one: an Ethernet header and a little.
    let frame = [0; 64];
    let result = classifier(&mut dataplane.ebpf, PROGRAM)?
        .test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() })
        .map_err(|source| Error::Load { program: PROGRAM, source: Box::new(source) })?;
    Ok(u64::from(result.return_value))
}

fn expired_so_far(dataplane: &Dataplane) -> Result<u64, Error> {
    let cells =
        dataplane.maps.counters.get(&counter::CT_EXPIRED, 0).map_err(Error::map("read", names::COUNTERS))?;
    Ok(cells.iter().map(|cell| cell.packets).sum())
}
