//! For the agent, which tidies up where no runtime calls `DEL` or `GC`: what is held, and how it is let go.

use std::path::Path;

use netlink::Handle;

use crate::boot;
use crate::command::del;
use crate::ipam_store::Store;

/// An attachment that holds addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    pub container_id: String,
    pub ifname: String,
}

/// Every attachment that the ledger of this boot has; none where there is no ledger.
pub fn leases(state: &Path) -> Result<Vec<Lease>, String> {
    let Some(locked) = store(state)?.lock_existing().map_err(|failure| failure.to_string())? else {
        return Ok(Vec::new());
    };
    let mut leases: Vec<Lease> = locked
        .ledger
        .holders()
        .map(|holder| Lease { container_id: holder.container_id.clone(), ifname: holder.ifname.clone() })
        .collect();
    leases.sort();
    leases.dedup();
    Ok(leases)
}

/// What `DEL` does but for the agent: the link goes, then the addresses are free again.
pub async fn forget(handle: &Handle, state: &Path, lease: &Lease) -> Result<(), String> {
    let Lease { container_id, ifname } = lease;
    let name = host_name(container_id, ifname);
    del::delete_link(handle, &name).await.map_err(|failure| failure.to_string())?;
    del::release(&store(state)?, container_id, ifname).map_err(|failure| failure.to_string())
}

/// The name of the host's side of an attachment's pair of links.
pub fn host_name(container_id: &str, ifname: &str) -> String {
    crate::endpoint::host_name(container_id, ifname)
}

fn store(state: &Path) -> Result<Store, String> {
    let boot_id = boot::boot_id().map_err(|error| format!("read the boot id: {error}"))?;
    Ok(Store::new(state.to_owned(), boot_id))
}
