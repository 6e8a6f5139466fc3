//! The flat table: one lookup learns verdict and rule.
//!
//! For each (rule set, class, protocol) the ports are cut into disjoint ranges, each with one verdict, and covered by
//! prefixes. The kernel looks up (rule set, class of the peer, protocol, port); where nothing matches, it looks up the
//! same with [`ClassId::ANY`]; where nothing matches again, the flow is denied by default. So a rule for everyone costs
//! its rows once, and a class has rows of its own only where its answer differs.

use crate::id::{ClassId, RuleId, RuleSetId};
use crate::net::{Be16, protocol};

/// Key of a `RULES` row (a longest-prefix trie).
///
/// A trie can only leave the *end* of a key open, so the port stands last: 160 bits name one port, fewer a run of ports
/// that share their top bits, 144 bits all of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    pub rule_set: RuleSetId,
    pub class: ClassId,
    /// [`row_protocol`] of the packet's protocol.
    pub protocol: u8,
    pub zero: u8,
    /// Network byte order: only then is a port prefix a run of adjacent ports.
    pub port: Be16,
}

const _: () = assert!(size_of::<RuleKey>() == 20 && align_of::<RuleKey>() == 4);

impl RuleKey {
    /// Bits of a key that names one port.
    pub const BITS: u32 = 160;
    /// Bits of a key that leaves the port open.
    pub const BITS_ANY_PORT: u32 = Self::BITS - 16;
}

/// The protocol as rule rows have it: 0 stands for every protocol without ports (ICMP among them), which only rules
/// for "all ports" allow.
#[inline(always)]
pub const fn row_protocol(packet_protocol: u8) -> u8 {
    if protocol::has_ports(packet_protocol) { packet_protocol } else { 0 }
}

/// Value of a `RULES` row.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRow {
    /// The rule that decided.
    pub rule: RuleId,
    /// [`RuleRow::ALLOW`] or [`RuleRow::DENY`].
    pub action: u32,
}

const _: () = assert!(size_of::<RuleRow>() == 12 && align_of::<RuleRow>() == 4);

impl RuleRow {
    pub const ALLOW: u32 = 1;
    /// NetworkPolicy has no deny; the tiers of ClusterNetworkPolicy will.
    pub const DENY: u32 = 2;
}
