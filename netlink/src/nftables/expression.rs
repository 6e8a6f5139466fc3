//! What rules are made of: each expression reads or writes registers, or ends the rule.

use super::message::Attributes;

/// Four words, by the first of which the register is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u32);

impl Register {
    /// The first.
    pub const A: Self = Self::word(0);

    /// The register that begins with this word, of sixteen.
    pub const fn word(number: u32) -> Self {
        assert!(number < 16);
        Self(8 + number)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// One step of a rule. Where a value is given in bytes, they are as the kernel has them in its register: addresses and
/// ports as on the wire, marks in the machine's own order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// The packet's mark.
    Mark { into: Register },
    /// The number of the packet's [`Family`], one byte.
    Family { into: Register },
    /// The number of the protocol, one byte.
    Protocol { into: Register },
    /// The name of the interface by which the packet came, with zeros up to 16 bytes.
    InInterface { into: Register },
    /// The name of the interface by which the packet leaves, with zeros up to 16 bytes.
    OutInterface { into: Register },
    /// An address of the packet. The rule must have looked at the family.
    Address { end: End, family: Family, into: Register },
    /// The destination's port, of protocols that have them.
    DestinationPort { into: Register },
    /// Whether the destination is this host's own: 2 (`RTN_LOCAL`), in the machine's order.
    DestinationKind { into: Register },
    /// The state of the packet's connection (`IPS_*`), in the machine's order.
    Connection { into: Register },
    /// Ends the rule unless the set has this key; of a map, puts the value `into`.
    Lookup { set: &'static str, key: Register, into: Option<Register> },
    /// Keeps only the bits of `mask`.
    Mask { register: Register, mask: Vec<u8> },
    /// Ends the rule unless the register begins with these bytes.
    Equal { register: Register, value: Vec<u8> },
    /// Ends the rule if the register begins with these bytes.
    Differs { register: Register, value: Vec<u8> },
    /// The source becomes an address of the interface by which the packet leaves, its port any that is free.
    Masquerade,
    /// The destination becomes this address and port.
    Translate { family: Family, address: Register, port: Register },
}

/// A port that nobody can guess, and that two processors do not choose at once.
const RANDOM_FULLY: u32 = 16;

const META_MARK: u32 = 3;
const META_IN_INTERFACE_NAME: u32 = 6;
const META_OUT_INTERFACE_NAME: u32 = 7;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
const IN_NETWORK_HEADER: u32 = 1;
const IN_TRANSPORT_HEADER: u32 = 2;
const KIND_OF_ADDRESS: u32 = 3;
const OF_DESTINATION: u32 = 2;
const CONNECTION_STATUS: u32 = 2;
const DESTINATION_NAT: u32 = 1;
const COMPARE_EQUAL: u32 = 0;
const COMPARE_DIFFERS: u32 = 1;

impl Expression {
    /// Name and data, as `NFTA_EXPR_*`.
    pub(super) fn attributes(&self) -> Attributes {
        let none = Attributes::default;
        let (name, data) = match self {
            Self::Mark { into } => ("meta", meta(*into, META_MARK)),
            Self::Family { into } => ("meta", meta(*into, META_FAMILY)),
            Self::Protocol { into } => ("meta", meta(*into, META_PROTOCOL)),
            Self::InInterface { into } => ("meta", meta(*into, META_IN_INTERFACE_NAME)),
            Self::OutInterface { into } => ("meta", meta(*into, META_OUT_INTERFACE_NAME)),
            Self::Address { end, family, into } => {
                let (offset, length) = place(*end, *family);
                ("payload", payload(*into, IN_NETWORK_HEADER, offset, length))
            }
            Self::DestinationPort { into } => ("payload", payload(*into, IN_TRANSPORT_HEADER, 2, 2)),
            Self::DestinationKind { into } => {
                ("fib", none().number(1, into.0).number(2, KIND_OF_ADDRESS).number(3, OF_DESTINATION))
            }
            Self::Connection { into } => ("ct", none().number(1, into.0).number(2, CONNECTION_STATUS)),
            Self::Lookup { set, key, into } => {
                let asked = none().text(1, set).number(2, key.0);
                ("lookup", into.iter().fold(asked, |asked, into| asked.number(3, into.0)))
            }
            Self::Mask { register, mask } => {
                let nothing = vec![0; mask.len()];
                let length = u32::try_from(mask.len()).expect("no longer than a register");
                let registers = none().number(1, register.0).number(2, register.0).number(3, length);
                ("bitwise", registers.nested(4, value(mask)).nested(5, value(&nothing)))
            }
            Self::Equal { register, value } => ("cmp", compare(*register, COMPARE_EQUAL, value)),
            Self::Differs { register, value } => ("cmp", compare(*register, COMPARE_DIFFERS, value)),
            Self::Masquerade => ("masq", none().number(1, RANDOM_FULLY)),
            Self::Translate { family, address, port } => {
                let how = none().number(1, DESTINATION_NAT).number(2, family.number().into());
                ("nat", how.number(3, address.0).number(5, port.0))
            }
        };
        none().text(1, name).nested(2, data)
    }
}

fn meta(into: Register, what: u32) -> Attributes {
    Attributes::default().number(1, into.0).number(2, what)
}

fn payload(into: Register, header: u32, offset: u32, length: u32) -> Attributes {
    Attributes::default().number(1, into.0).number(2, header).number(3, offset).number(4, length)
}

/// Offset in the header, and length.
fn place(end: End, family: Family) -> (u32, u32) {
    match (family, end) {
        (Family::V4, End::Source) => (12, 4),
        (Family::V4, End::Destination) => (16, 4),
        (Family::V6, End::Source) => (8, 16),
        (Family::V6, End::Destination) => (24, 16),
    }
}

fn compare(register: Register, operation: u32, to: &[u8]) -> Attributes {
    Attributes::default().number(1, register.0).number(2, operation).nested(3, value(to))
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}
