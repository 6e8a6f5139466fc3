//! The pods whose incoming packets take the queue of their device on the host's side, where something limits them.

use std::collections::BTreeSet;

use common::config::Config;
use common::maps as names;

use crate::Dataplane;
use crate::error::Error;
use crate::maps::removed;

/// Compares with what the kernel holds, as [`crate::native::set`] does.
pub(crate) fn set(dataplane: &mut Dataplane, wanted: &BTreeSet<u32>) -> Result<bool, Error> {
    let maps = &mut dataplane.maps;
    let present: Result<BTreeSet<u32>, _> = maps.limited.keys().collect();
    let present = present.map_err(Error::map("read", names::LIMITED))?;
    let was_on = maps.config()?.flags & Config::LIMITS != 0;
    let is_on = !wanted.is_empty();
    for ifindex in wanted.difference(&present) {
        maps.limited.insert(ifindex, 0, 0).map_err(Error::map("write", names::LIMITED))?;
    }
    if was_on != is_on {
        maps.set_flag(Config::LIMITS, is_on)?;
    }
    for ifindex in present.difference(wanted) {
        removed(maps.limited.remove(ifindex), names::LIMITED)?;
    }
    Ok(was_on != is_on || *wanted != present)
}
