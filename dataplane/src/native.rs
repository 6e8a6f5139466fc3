//! What pods reach by their own addresses, and whether all else outside the node is masqueraded.
//!
//! No part of the planned tables: no verdict hangs on it, only the way that a new connection takes.

use std::collections::BTreeSet;

use common::config::Config;
use common::maps as names;
use policy::tables::Cidr;

use crate::Dataplane;
use crate::error::Error;
use crate::maps::{cidr_key, removed};

/// Compares with what the kernel holds, not with what was written last: somebody may have changed it.
pub(crate) fn set(dataplane: &mut Dataplane, native: Option<&BTreeSet<Cidr>>) -> Result<bool, Error> {
    let present = dataplane.audit.native()?;
    let maps = &mut dataplane.maps;
    let none = BTreeSet::new();
    let wanted = native.unwrap_or(&none);
    let was_on = maps.config()?.flags & Config::MASQUERADE != 0;
    let is_on = native.is_some();
    // Blocks come before the switch and go after it: no connection that stays in the cluster is masqueraded in between.
    if !is_on && was_on {
        maps.set_flag(Config::MASQUERADE, false)?;
    }
    for cidr in wanted.difference(&present) {
        maps.native.insert(&cidr_key(*cidr), 0, 0).map_err(Error::map("write", names::NATIVE))?;
    }
    if is_on && !was_on {
        maps.set_flag(Config::MASQUERADE, true)?;
    }
    for cidr in present.difference(wanted) {
        removed(maps.native.remove(&cidr_key(*cidr)), names::NATIVE)?;
    }
    Ok(was_on != is_on || *wanted != present)
}
