//! Policy: what the rule sets of both ends say about a connection.

use aya_ebpf::maps::lpm_trie::Key;
use common::conntrack::{CtEntry, CtKey};
use common::endpoint::EndpointRow;
use common::flow::FlowEvent;
use common::id::{ClassId, RuleId, RuleSetId};
use common::net::{Addr, Be16, protocol};
use common::rules::{RuleKey, RuleRow, row_protocol};
use common::verdict::{Direction, counter};

use crate::maps::{CIDRS, ENDPOINTS, PEERS, RULES};
use crate::report;

/// What the ends of this node say.
#[derive(Clone, Copy)]
pub(crate) struct Judgement {
    /// The [`Direction`] that denied, 0 for none.
    pub(crate) denied: u8,
    /// The direction that denied keeps established connections (`EndpointRow::KEEP_*`).
    pub(crate) kept: u8,
    /// `FlowEvent::JUDGED_*`.
    pub(crate) judged: u8,
    pub(crate) initiator_ifindex: u32,
    pub(crate) responder_ifindex: u32,
    pub(crate) ingress_rule: RuleId,
    pub(crate) egress_rule: RuleId,
    pub(crate) ingress_rules: RuleSetId,
    pub(crate) egress_rules: RuleSetId,
}

impl Judgement {
    pub(crate) const NOTHING: Self = Self {
        denied: 0,
        kept: 0,
        judged: 0,
        initiator_ifindex: 0,
        responder_ifindex: 0,
        ingress_rule: RuleId::NONE,
        egress_rule: RuleId::NONE,
        ingress_rules: RuleSetId::OPEN,
        egress_rules: RuleSetId::OPEN,
    };
}

/// Judges the connection of `key` into `judgement`. `from_low` says which end began it; `flags` are `CtEntry`'s, of which
/// only `FROM_NODE` counts.
#[inline(never)]
pub(crate) fn judge(key: &CtKey, from_low: bool, flags: u32, judgement: &mut Judgement) {
    *judgement = Judgement::NOTHING;
    let (from, to, port) =
        if from_low { (&key.low, &key.high, key.high_port) } else { (&key.high, &key.low, key.low_port) };
    // The node itself may always reach its own pods.
    let judge_ingress = flags & CtEntry::FROM_NODE == 0;
    let mut egress_kept = 0;
    let mut ingress_kept = 0;
    if let Some(row) = endpoint(from) {
        judgement.initiator_ifindex = row.ifindex;
        judgement.egress_rules = row.egress;
        judgement.judged = FlowEvent::JUDGED_EGRESS;
        egress_kept = (row.flags & EndpointRow::KEEP_EGRESS) as u8;
    }
    if let Some(row) = endpoint(to) {
        judgement.responder_ifindex = row.ifindex;
        if judge_ingress {
            judgement.ingress_rules = row.ingress;
            judgement.judged |= FlowEvent::JUDGED_INGRESS;
            ingress_kept = (row.flags & EndpointRow::KEEP_INGRESS) as u8;
        }
    }
    // A pod always reaches itself.
    if from.difference(to) == 0 {
        judgement.judged = 0;
        judgement.ingress_rules = RuleSetId::OPEN;
        judgement.egress_rules = RuleSetId::OPEN;
        return;
    }
    if !judgement.egress_rules.is_open()
        && !rule(&judgement.egress_rules, to, key.protocol, port, &mut judgement.egress_rule)
    {
        judgement.denied = Direction::Egress as u8;
        judgement.kept = egress_kept;
        judgement.judged = FlowEvent::JUDGED_EGRESS;
        return;
    }
    if !judgement.ingress_rules.is_open()
        && !rule(&judgement.ingress_rules, from, key.protocol, port, &mut judgement.ingress_rule)
    {
        judgement.denied = Direction::Ingress as u8;
        judgement.kept = ingress_kept;
    }
}

/// The endpoint of this node with this address.
#[inline(always)]
pub(crate) fn endpoint(addr: &Addr) -> Option<&'static EndpointRow> {
    // SAFETY: rows are replaced, never written in place, and freed only after an RCU grace period.
    unsafe { ENDPOINTS.get(addr) }
}

/// Whether a rule allows the connection, and which.
#[inline(never)]
fn rule(rule_set: &RuleSetId, peer: &Addr, protocol: u8, port: Be16, found: &mut RuleId) -> bool {
    report::count(counter::POLICY_LOOKUPS as u8, 0);
    let port = if protocol::has_ports(protocol) { port } else { Be16::new(0) };
    let class = class(peer);
    let mut key = Key::new(
        RuleKey::BITS,
        RuleKey { rule_set: *rule_set, class, protocol: row_protocol(protocol), zero: 0, port },
    );
    let row = match RULES.get(&key) {
        Some(row) => row,
        None => {
            key.data.class = ClassId::ANY;
            match RULES.get(&key) {
                Some(row) => row,
                None => return false,
            }
        }
    };
    *found = row.rule;
    row.action == RuleRow::ALLOW
}

/// The peer class of an address.
#[inline(always)]
fn class(addr: &Addr) -> ClassId {
    // SAFETY: as for `ENDPOINTS`.
    if let Some(class) = unsafe { PEERS.get(addr) } {
        return *class;
    }
    match CIDRS.get(Key::new(128, *addr)) {
        Some(class) => *class,
        None => ClassId::NONE,
    }
}
