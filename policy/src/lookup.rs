//! What the kernel answers for a new connection, given the tables.

use std::net::IpAddr;

use common::id::{RuleId, RuleSetId};

use crate::tables::Tables;

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
    /// [`RuleId::NONE`] for an open endpoint and for a default deny.
    pub rule: RuleId,
    pub rule_set: RuleSetId,
}

impl Tables {
    pub fn lookup(&self, _flow: &Flow) -> Answer {
        Answer::default()
    }
}
