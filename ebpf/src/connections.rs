//! Conntrack: finding, stepping and making entries around the pure steps of `common::conntrack`.
//!
//! Three tables. `CT` holds connections and evicts nobody: when it is full, new ones are dropped. It counts those that have
//! not seen a reply, and lets them have a sixteenth of its room; what goes beyond that is a flood, and goes into
//! `CT_HALF`, an LRU, where it evicts only its like. A connection's last packet takes it out of `CT` and leaves a trace in
//! `CT_CLOSED`, for what may be repeated.

use aya_ebpf::helpers::generated::bpf_for_each_map_elem;
use common::conntrack::{ClosedRow, CtEntry, CtKey, UNREPLIED_NS, lifetime_ns, step};
use common::maps::CT_CLOSED_CAPACITY;
use common::net::protocol;
use common::verdict::{DropReason, counter};

use crate::maps::{CT, CT_CLOSED, CT_HALF, HALF_OPEN_LIMIT};
use crate::report;
use crate::sighting::Sighting;

/// Entries are written back only when their lifetime moves by at least this much: most packets write nothing.
const TOUCH_NS: u64 = 1_000_000_000;
/// A full table is swept at most this often.
const SWEEP_INTERVAL_NS: u64 = 1_000_000_000;
/// A flood is answered by `CT_HALF`; a sweep then only corrects the count.
const RECOUNT_INTERVAL_NS: u64 = 10_000_000_000;

/// The live entry of a connection. Of a closed one, a copy in `room`: nothing that happens to it needs to be remembered.
#[inline(always)]
pub(crate) fn find(key: &CtKey, room: &mut CtEntry, now_ns: u64) -> Option<*mut CtEntry> {
    let entry = match CT.get_ptr_mut(key) {
        Some(entry) => entry,
        None => find_elsewhere(key, room, now_ns)?,
    };
    // SAFETY: entries are freed only after an RCU grace period; a concurrent writer is another packet of the same
    // connection and writes the same kind of values.
    if unsafe { (*entry).expires_ns } < now_ns { None } else { Some(entry) }
}

#[inline(always)]
fn find_elsewhere(key: &CtKey, room: &mut CtEntry, now_ns: u64) -> Option<*mut CtEntry> {
    if has_overflowed(now_ns)
        && let Some(entry) = CT_HALF.get_ptr_mut(key)
    {
        return Some(entry);
    }
    (key.protocol == protocol::TCP && find_closed(key, room)).then_some(room as *mut CtEntry)
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
    let is_in_ct = flags & (CtEntry::OVERFLOWED | CtEntry::CLOSED) == 0;
    if is_in_ct && flags & CtEntry::REPLIED == 0 && next & (CtEntry::REPLIED | CtEntry::CLOSED) != 0 {
        count_half_open(-1);
    }
    if next & CtEntry::CLOSED != 0 {
        if flags & CtEntry::CLOSED == 0 {
            // SAFETY: as in `find`.
            sighting.entry = CtEntry { flags: next, expires_ns: next_expires_ns, ..unsafe { *entry } };
            close(sighting);
        }
        return Ok(());
    }
    if flags & CtEntry::OVERFLOWED != 0 && next & CtEntry::REPLIED != 0 {
        let flags = next & !CtEntry::OVERFLOWED;
        // SAFETY: as in `find`.
        sighting.entry = CtEntry { flags, expires_ns: next_expires_ns, ..unsafe { *entry } };
        // The copy in `CT_HALF` stays as it was: should `CT` be full, the connection has not begun.
        return leave_the_flood(sighting);
    }
    // SAFETY: as in `find`.
    unsafe {
        (*entry).flags = next;
        (*entry).expires_ns = next_expires_ns;
    }
    Ok(())
}

/// The connection's last packet: room given back at once is handed out again while it is in the processor's cache.
#[inline(never)]
fn close(sighting: &Sighting) {
    if CT.remove(&sighting.key).is_err() {
        let _absent = CT_HALF.remove(&sighting.key);
    }
    if let Some(row) = CT_CLOSED.get_ptr_mut(sighting.key.hash() & (CT_CLOSED_CAPACITY - 1)) {
        // SAFETY: a row of an array map, which is never freed. What two CPUs write there at once does not pass the check.
        unsafe {
            (*row).key = sighting.key;
            (*row).entry = sighting.entry;
            (*row).check = ClosedRow::check(&sighting.key, &sighting.entry);
        }
    }
}

/// True, with a copy of the entry in `room`, if the connection has lately been closed.
#[inline(never)]
fn find_closed(key: &CtKey, room: &mut CtEntry) -> bool {
    let Some(row) = CT_CLOSED.get_ptr(key.hash() & (CT_CLOSED_CAPACITY - 1)) else { return false };
    // SAFETY: as in `close`.
    let (difference, check) = unsafe {
        *room = (*row).entry;
        ((*row).key.difference(key), (*row).check)
    };
    // The check word tells halves of two rows from one. It is no proof of whose row it is: somebody may have looked for
    // ports with which it fits.
    difference == 0 && check == ClosedRow::check(key, room)
}

/// The first reply to a connection out of a flood: it is none of it.
#[inline(never)]
fn leave_the_flood(sighting: &Sighting) -> Result<(), DropReason> {
    insert(sighting)?;
    let _gone = CT_HALF.remove(&sighting.key);
    Ok(())
}

#[inline(always)]
fn insert(sighting: &Sighting) -> Result<(), DropReason> {
    let mut kept = CT.insert(&sighting.key, &sighting.entry, 0);
    if kept.is_err() && sweep(sighting.now_ns, SWEEP_INTERVAL_NS) {
        kept = CT.insert(&sighting.key, &sighting.entry, 0);
    }
    kept.map_err(|_| DropReason::CtFull)
}

/// `CT` is full: forgets what has expired, if the last time is `interval_ns` ago. The agent does this long before; without
/// it, connections must still expire.
#[inline(never)]
fn sweep(now_ns: u64, interval_ns: u64) -> bool {
    let Some(load) = report::load() else { return false };
    // SAFETY: a pointer into the only row of an array map, which is never freed. Two CPUs may both sweep: harmless.
    unsafe {
        if now_ns.wrapping_sub((*load).sweep_ns) < interval_ns {
            return false;
        }
        (*load).sweep_ns = now_ns;
    }
    forget_all_expired(now_ns);
    true
}

/// Walks `CT` and forgets what has expired; how many connections are left.
#[inline(never)]
pub(crate) fn forget_all_expired(now_ns: u64) -> u32 {
    let mut walk = Walk { now_ns, live: 0, half_open: 0, expired: 0 };
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
    if let Some(load) = report::load() {
        // SAFETY: as in `has_overflowed`.
        unsafe { (*load).half_open = walk.half_open };
    }
    walk.live as u32
}

struct Walk {
    now_ns: u64,
    live: u64,
    half_open: i64,
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
            (*walk).half_open += i64::from((*entry).flags & CtEntry::REPLIED == 0);
        }
    }
    0
}

/// Tracks a connection from its first packet on: `sighting.entry`.
#[inline(always)]
pub(crate) fn begin(sighting: &mut Sighting) -> Result<(), DropReason> {
    if let Some(entry) = CT.get_ptr_mut(&sighting.key) {
        // A SYN that starts anew on a tuple still there: the old connection is over.
        // SAFETY: as in `find`.
        unsafe {
            if (*entry).flags & CtEntry::REPLIED != 0 {
                count_half_open(1);
            }
            *entry = sighting.entry;
        }
        return Ok(());
    }
    if is_flooded(sighting.now_ns) {
        return join_the_flood(sighting);
    }
    insert(sighting)?;
    count_half_open(1);
    Ok(())
}

#[inline(never)]
fn join_the_flood(sighting: &mut Sighting) -> Result<(), DropReason> {
    if let Some(load) = report::load() {
        // SAFETY: as in `has_overflowed`.
        unsafe { (*load).overflowed_ns = sighting.now_ns };
    }
    sighting.entry.flags |= CtEntry::OVERFLOWED;
    CT_HALF.insert(&sighting.key, &sighting.entry, 0).map_err(|_| DropReason::CtFull)
}

/// Whether connections without a reply have used up their part of `CT`.
#[inline(always)]
fn is_flooded(now_ns: u64) -> bool {
    // SAFETY: a constant that the loader has set.
    let limit = i64::from(unsafe { (&raw const HALF_OPEN_LIMIT).read_volatile() });
    half_open() >= limit && !(sweep(now_ns, RECOUNT_INTERVAL_NS) && half_open() < limit)
}

#[inline(always)]
fn half_open() -> i64 {
    // SAFETY: as in `has_overflowed`.
    report::load().map_or(0, |load| unsafe { (*load).half_open })
}

#[inline(always)]
fn count_half_open(change: i64) {
    let Some(load) = report::load() else { return };
    // SAFETY: as in `has_overflowed`.
    let half_open = unsafe { &raw mut (*load).half_open };
    // What core offers for this target ends with loads and stores. (The addition that does not ask for the old value is
    // what kernels before 5.12 have, too.)
    #[cfg(target_arch = "bpf")]
    // SAFETY: an aligned word of a map's row.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) half_open, in(reg) change);
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        *half_open += change;
    }
}

/// Whether `CT_HALF` may hold anything that is alive.
#[inline(always)]
fn has_overflowed(now_ns: u64) -> bool {
    // SAFETY: a pointer into the only row of an array map, which is never freed; its words are read and written whole.
    report::load().is_some_and(|load| unsafe { (*load).overflowed_ns } + UNREPLIED_NS > now_ns)
}

#[inline(always)]
pub(crate) fn forget(key: &CtKey, flags: u32) {
    if CT.remove(key).is_ok() {
        if flags & CtEntry::REPLIED == 0 {
            count_half_open(-1);
        }
        return;
    }
    let _absent = CT_HALF.remove(key);
    if let Some(row) = CT_CLOSED.get_ptr_mut(key.hash() & (CT_CLOSED_CAPACITY - 1)) {
        // SAFETY: as in `close`.
        unsafe { (*row).check = 0 };
    }
}
