//! Sets and maps: what a rule looks up, in one step however many rows there are.

use std::net::IpAddr;

use super::message::{self, Attributes, message};
use nix::libc;

/// A set, or with fields in `value` a map. Keys and values are [`Words`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: &'static str,
    pub key: &'static [Field],
    pub value: &'static [Field],
    pub rows: Vec<(Words, Words)>,
}

/// A part of a key or value. It fills whole words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    V4,
    V6,
    Protocol,
    Port,
}

impl Field {
    /// As `nft` knows the type; the kernel only passes it on.
    fn kind(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
        }
    }

    fn length(self) -> u32 {
        if self == Self::V6 { 16 } else { 4 }
    }
}

/// Fields one after the other, as registers hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Words(Vec<u8>);

impl Words {
    #[must_use]
    pub fn address(mut self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.0.extend(ip.octets()),
            IpAddr::V6(ip) => self.0.extend(ip.octets()),
        }
        self
    }

    #[must_use]
    pub fn protocol(mut self, number: u8) -> Self {
        self.0.extend([number, 0, 0, 0]);
        self
    }

    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.0.extend(port.to_be_bytes());
        self.0.extend([0, 0]);
        self
    }
}

const MAP: u32 = 8;
/// One message holds at most 64 KiB of them.
const ROWS_A_MESSAGE: usize = 500;

impl Set {
    /// The set, then its rows. `number` tells it from others of the same transaction.
    pub(super) fn messages(&self, table: &str, number: u32) -> Vec<Vec<u8>> {
        let kind = |fields: &[Field]| fields.iter().fold(0, |kind, field| kind << 6 | field.kind());
        let length = |fields: &[Field]| fields.iter().map(|field| field.length()).sum();
        let mut set = Attributes::default().text(1, table).text(2, self.name);
        set = set.number(3, if self.value.is_empty() { 0 } else { MAP });
        set = set.number(4, kind(self.key)).number(5, length(self.key)).number(10, number);
        if !self.value.is_empty() {
            set = set.number(6, kind(self.value)).number(7, length(self.value));
        }
        let mut messages = vec![message(message::NEW_SET, libc::NLM_F_CREATE, &set)];
        for rows in self.rows.chunks(ROWS_A_MESSAGE) {
            let rows = rows.iter().fold(Attributes::default(), |list, row| list.nested(1, self.row(row)));
            let rows = Attributes::default().text(1, table).text(2, self.name).nested(3, rows);
            messages.push(message(message::NEW_ROWS, libc::NLM_F_CREATE, &rows));
        }
        messages
    }

    fn row(&self, (key, value): &(Words, Words)) -> Attributes {
        let data = |words: &Words| Attributes::default().bytes(1, &words.0);
        let row = Attributes::default().nested(1, data(key));
        if self.value.is_empty() { row } else { row.nested(2, data(value)) }
    }
}
