//! Conntrack: finding, stepping and making entries around the pure steps of `common::conntrack`.
//!
//! Three tables. `CT_HALF`, an LRU, holds connections that have not seen a reply; a flood of SYNs evicts only its like.
//! `CT` holds live connections and evicts nobody: when it is full, new connections are dropped. An entry moves into `CT`
//! with its first reply and out of it with its last packet, into `CT_CLOSED`, a small LRU for what may be repeated.

use aya_ebpf::helpers::generated::bpf_for_each_map_elem;
use common::conntrack::{CtEntry, CtKey, lifetime_ns, step};
use common::net::protocol;
use common::verdict::{DropReason, counter};

use crate::maps::{CT, CT_CLOSED, CT_HALF};
use crate::report;
use crate::sighting::Sighting;

/// Entries are written back only when their lifetime moves by at least this much: most packets write nothing.
const TOUCH_NS: u64 = 1_000_000_000;
const SWEEP_INTERVAL_NS: u64 = 1_000_000_000;

/// The live entry of a connection.
#[inline(always)]
pub(crate) fn find(key: &CtKey, now_ns: u64) -> Option<*mut CtEntry> {
    let entry = match CT.get_ptr_mut(key) {
        Some(entry) => entry,
        None => find_young_or_closed(key)?,
    };
    // SAFETY: entries are freed only after an RCU grace period; a concurrent writer is another packet of the same
    // connection and writes the same kind of values.
    if unsafe { (*entry).expires_ns } < now_ns { None } else { Some(entry) }
}

#[inline(always)]
fn find_young_or_closed(key: &CtKey) -> Option<*mut CtEntry> {
    match CT_HALF.get_ptr_mut(key) {
        Some(entry) => Some(entry),
        None if key.protocol == protocol::TCP => CT_CLOSED.get_ptr_mut(key),
        None => None,
    }
}

/// One more packet of a connection, whose entry is `entry`.
#[inline(always)]
pub(crate) fn touch(sighting: &mut Sighting, entry: *mut CtEntry) -> Result<(), DropReason> {
    let protocol = sighting.packet.protocol;
    // SAFETY: as in `find`.
    let (flags, expires_ns) = unsafe { ((*entry).flags, (*entry).expires_ns) };
    let next = step(flags, sighting.from_low != 0, protocol, sighting.packet.tcp_flags);
    let next_expires_ns = sighting.now_ns + lifetime_ns(protocol, next);
    if next == flags {
        if next_expires_ns > expires_ns + TOUCH_NS {
            // SAFETY: as in `find`.
            unsafe { (*entry).expires_ns = next_expires_ns };
        }
        return Ok(());
    }
    // SAFETY: as in `find`.
    sighting.entry = CtEntry { flags: next, expires_ns: next_expires_ns, ..unsafe { *entry } };
    let changed = flags ^ next;
    if changed & (CtEntry::CLOSED | CtEntry::REPLIED) != 0 {
        // The copy it leaves in the other table stays as it was: should `CT` be full, the connection has not begun.
        return change(sighting, changed);
    }
    // SAFETY: as in `find`.
    unsafe {
        (*entry).flags = next;
        (*entry).expires_ns = next_expires_ns;
    }
    Ok(())
}

/// The connection saw its first reply, and moves to `CT`; or its end, and is forgotten.
///
/// Whatever is given back at once is handed out again while it is still in the processor's cache: a table full of closed
/// connections would cost every new one the eviction of an old one.
#[inline(never)]
fn change(sighting: &Sighting, changed: u32) -> Result<(), DropReason> {
    if changed & CtEntry::CLOSED != 0 {
        forget(&sighting.key);
        return CT_CLOSED.insert(&sighting.key, &sighting.entry, 0).map_err(|_| DropReason::CtFull);
    }
    let mut kept = CT.insert(&sighting.key, &sighting.entry, 0);
    if kept.is_err() && sweep(sighting.now_ns) {
        kept = CT.insert(&sighting.key, &sighting.entry, 0);
    }
    if kept.is_err() {
        return Err(DropReason::CtFull);
    }
    let _gone = CT_HALF.remove(&sighting.key);
    Ok(())
}

/// `CT` is full: forgets what has expired, at most once a second. The agent does this long before; without it, connections
/// must still expire.
#[inline(never)]
fn sweep(now_ns: u64) -> bool {
    let Some(config) = report::config() else { return false };
    // SAFETY: a pointer into the only row of an array map, which is never freed. Two CPUs may both sweep: harmless.
    unsafe {
        if now_ns.wrapping_sub((*config).sweep_ns) < SWEEP_INTERVAL_NS {
            return false;
        }
        (*config).sweep_ns = now_ns;
    }
    forget_all_expired(now_ns);
    true
}

/// Walks `CT` and forgets what has expired; how many connections are left.
#[inline(never)]
pub(crate) fn forget_all_expired(now_ns: u64) -> u32 {
    let mut walk = Walk { now_ns, live: 0, expired: 0 };
    // SAFETY: the map outlives the program, the callback has the signature that the helper asks for (kernel 5.13), and
    // its context is on this stack.
    unsafe {
        bpf_for_each_map_elem(
            (&raw const CT).cast_mut().cast(),
            forget_expired as *mut core::ffi::c_void,
            (&raw mut walk).cast(),
            0,
        );
    }
    report::count_many(counter::CT_EXPIRED as u8, walk.expired);
    walk.live as u32
}

struct Walk {
    now_ns: u64,
    live: u64,
    expired: u64,
}

/// Called by the kernel for each entry of `CT`; 0 goes on.
#[inline(never)]
unsafe extern "C" fn forget_expired(
    _map: *mut core::ffi::c_void,
    key: *const CtKey,
    entry: *const CtEntry,
    walk: *mut Walk,
) -> i64 {
    // SAFETY: the kernel passes a key and a value of the map, and the context given to the helper.
    unsafe {
        if (*entry).expires_ns < (*walk).now_ns {
            let _gone = CT.remove(&*key);
            (*walk).expired += 1;
        } else {
            (*walk).live += 1;
        }
    }
    0
}

/// Tracks a connection from its first packet on: `sighting.entry`.
#[inline(always)]
pub(crate) fn begin(sighting: &Sighting) -> Result<(), DropReason> {
    // A SYN that starts anew on a tuple still in `CT`: the old connection is over. Asked first, as removing takes a lock.
    if CT.get_ptr(&sighting.key).is_some() {
        let _gone = CT.remove(&sighting.key);
    }
    CT_HALF.insert(&sighting.key, &sighting.entry, 0).map_err(|_| DropReason::CtFull)
}

#[inline(always)]
pub(crate) fn forget(key: &CtKey) {
    if CT.remove(key).is_err() && CT_HALF.remove(key).is_err() {
        let _absent = CT_CLOSED.remove(key);
    }
}
