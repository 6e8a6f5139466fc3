//! What the kernel answers for a new connection, given the tables.
//!
//! The steps are the kernel's, one by one; the third opinion beside it is the oracle's. What the kernel lets pass
//! without asking the tables is not in here: the node's own traffic to its pods, and established connections.

use std::net::IpAddr;

use common::id::{ClassId, RuleId, RuleSetId};
use common::net::{Addr, Be16};
use common::rules::{RuleKey, RuleRow, row_protocol};

use crate::tables::{Cidr, RulePrefix, Tables};

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// 0 for protocols without ports.
    pub destination_port: u16,
    /// As in the IP header.
    pub protocol: u8,
}

/// The answer of each end that is an endpoint of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub egress: Option<Judgement>,
    pub ingress: Option<Judgement>,
}

impl Answer {
    /// Whether this node lets the connection pass.
    pub fn allowed(&self) -> bool {
        [self.egress, self.ingress].iter().flatten().all(|judgement| judgement.allowed)
    }
}

/// One direction's answer and what decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub allowed: bool,
    /// [`RuleId::NONE`] for an open endpoint, a default deny, and a pod that speaks to itself.
    pub rule: RuleId,
    /// [`RuleSetId::OPEN`] for an open endpoint and a pod that speaks to itself.
    pub rule_set: RuleSetId,
}

impl Judgement {
    const OPEN: Self = Self { allowed: true, rule: RuleId::NONE, rule_set: RuleSetId::OPEN };
}

impl Tables {
    /// The answer to a new connection.
    pub fn lookup(&self, flow: &Flow) -> Answer {
        let (source, destination) = (Addr::from(flow.source), Addr::from(flow.destination));
        let judge = |rule_set, peer| {
            if source == destination { Judgement::OPEN } else { self.judge(rule_set, peer, flow) }
        };
        Answer {
            egress: self.endpoints.get(&source).map(|row| judge(row.egress, destination)),
            ingress: self.endpoints.get(&destination).map(|row| judge(row.ingress, source)),
        }
    }

    /// The class of an address.
    pub fn class(&self, addr: Addr) -> ClassId {
        match self.peers.get(&addr) {
            Some(class) => *class,
            None => self.class_of_block(Cidr { addr, bits: 128 }),
        }
    }

    /// The class that the innermost row around a block gives it.
    pub(crate) fn class_of_block(&self, block: Cidr) -> ClassId {
        let mut around = (0..=block.bits).rev().map(|bits| Cidr::around(block.addr, bits));
        around.find_map(|cidr| self.cidrs.get(&cidr)).copied().unwrap_or(ClassId::NONE)
    }

    fn judge(&self, rule_set: RuleSetId, peer: Addr, flow: &Flow) -> Judgement {
        if rule_set.is_open() {
            return Judgement::OPEN;
        }
        let protocol = row_protocol(flow.protocol);
        let of_class = |class| self.rule(rule_set, class, protocol, flow.destination_port);
        match of_class(self.class(peer)).or_else(|| of_class(ClassId::ANY)) {
            Some(row) => Judgement { allowed: row.action == RuleRow::ALLOW, rule: row.rule, rule_set },
            None => Judgement { allowed: false, rule: RuleId::NONE, rule_set },
        }
    }

    /// The longest prefix that fits.
    fn rule(&self, rule_set: RuleSetId, class: ClassId, protocol: u8, port: u16) -> Option<RuleRow> {
        (0..=16).rev().find_map(|port_bits: u32| {
            let mask = u16::MAX.checked_shl(16 - port_bits).unwrap_or(0);
            let key = RuleKey { rule_set, class, protocol, zero: 0, port: Be16::new(port & mask) };
            self.rules.get(&RulePrefix { key, bits: RuleKey::BITS_ANY_PORT + port_bits }).copied()
        })
    }
}
