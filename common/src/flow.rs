//! A flow event as it crosses the ring buffer.

use crate::id::{RuleId, RuleSetId};
use crate::net::{Addr, Be16};

/// One new connection, or one drop, seen by this node.
///
/// The tuple is the packet's own for a drop and the initiator's for a new connection. Egress is judged on the source's
/// node, ingress on the destination's: where both are on this node, one event carries both answers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub time_ns: u64,
    pub source: Addr,
    pub destination: Addr,
    pub source_port: Be16,
    pub destination_port: Be16,
    pub protocol: u8,
    /// A [`crate::verdict::DropReason`] or [`crate::verdict::PassReason`]; for a connection with both directions judged,
    /// the reason of ingress.
    pub reason: u8,
    /// The [`crate::verdict::Direction`] that decided a drop; for a connection the last one judged; 0 for none.
    pub direction: u8,
    /// Which directions were judged here: bit 0 ingress, bit 1 egress.
    pub judged: u8,
    /// The rules that allowed it, [`RuleId::NONE`] where no rule did.
    pub ingress_rule: RuleId,
    pub egress_rule: RuleId,
    /// The rule sets in force when the answer was given.
    pub ingress_rules: RuleSetId,
    pub egress_rules: RuleSetId,
    /// Bytes of the packet, headers included.
    pub bytes: u32,
    /// The device that the packet came in by.
    pub ifindex: u32,
}

const _: () = assert!(size_of::<FlowEvent>() == 88 && align_of::<FlowEvent>() == 8);

impl FlowEvent {
    pub const JUDGED_INGRESS: u8 = 1;
    pub const JUDGED_EGRESS: u8 = 2;
}
