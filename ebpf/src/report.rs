//! Exact counters and flow events.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use common::config::{Config, Load};
use common::flow::FlowEvent;
use common::verdict::counter;

use crate::maps::{CONFIG, COUNTERS, FLOWS, LOAD};
use crate::sighting::Sighting;

/// The reader of flow events is woken by the first after a pause of this length. It drains what comes after that by itself,
/// until it finds nothing for twice as long (`dataplane/src/flows.rs`): waking it costs more than the event.
const PAUSE_NS: u64 = 10_000_000;

/// Counts one packet under a reason or a slot of [`counter`].
#[inline(always)]
pub(crate) fn count(slot: u8, bytes: u32) {
    if let Some(cell) = COUNTERS.get_ptr_mut(u32::from(slot)) {
        // SAFETY: the pointer is into this CPU's own copy, and tc programs do not interrupt each other on one CPU.
        unsafe {
            (*cell).packets += 1;
            (*cell).bytes += u64::from(bytes);
        }
    }
}

/// Counts `n` events that have no bytes.
#[inline(always)]
pub(crate) fn count_many(slot: u8, n: u64) {
    if let Some(cell) = COUNTERS.get_ptr_mut(u32::from(slot)) {
        // SAFETY: as in `count`.
        unsafe { (*cell).packets += n };
    }
}

#[inline(always)]
pub(crate) fn config() -> Option<*mut Config> {
    CONFIG.get_ptr_mut(0)
}

#[inline(always)]
pub(crate) fn load() -> Option<*mut Load> {
    LOAD.get_ptr_mut(0)
}

/// Puts one event into the ring; what does not fit is counted.
#[inline(never)]
pub(crate) fn emit(sighting: &Sighting, reason: u8, direction: u8) {
    let Some(mut entry) = FLOWS.reserve::<FlowEvent>(0) else {
        count(counter::FLOW_EVENTS_LOST as u8, 0);
        return;
    };
    // Events are put in order by their time: the coarse clock would not do.
    // SAFETY: plain helper call.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    let packet = &sighting.packet;
    let judgement = &sighting.judgement;
    let event = entry.as_mut_ptr();
    // Field by field into the ring: an event built on the stack first would take a sixth of it.
    // SAFETY: the ring's memory is ours until it is submitted, and every field is written.
    unsafe {
        (*event).time_ns = time_ns;
        (*event).source = packet.source;
        (*event).destination = packet.destination;
        (*event).source_port = packet.source_port;
        (*event).destination_port = packet.destination_port;
        (*event).protocol = packet.protocol;
        (*event).reason = reason;
        (*event).direction = direction;
        (*event).judged = judgement.judged;
        (*event).ingress_rule = judgement.ingress_rule;
        (*event).egress_rule = judgement.egress_rule;
        (*event).ingress_rules = judgement.ingress_rules;
        (*event).egress_rules = judgement.egress_rules;
        (*event).bytes = sighting.bytes;
        (*event).ifindex = sighting.ifindex;
    }
    entry.submit(wake_flags(time_ns));
    count(counter::FLOW_EVENTS as u8, 0);
}

/// Two CPUs may both decide to wake the reader: harmless.
#[inline(always)]
fn wake_flags(now_ns: u64) -> u64 {
    let Some(load) = load() else { return u64::from(BPF_RB_FORCE_WAKEUP) };
    // SAFETY: a pointer into the only row of an array map, which is never freed.
    let last_ns = unsafe { core::mem::replace(&mut (*load).flow_event_ns, now_ns) };
    u64::from(if now_ns.wrapping_sub(last_ns) > PAUSE_NS { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}
