//! What rules are made of: each expression reads or writes registers, or ends the rule.

use super::message::Attributes;

/// Four words, by the first of which the register is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u32);

impl Register {
    pub const A: Self = Self(8);
}

/// One step of a rule. Where a value is given in bytes, they are as the kernel has them in its register: addresses and
/// ports as on the wire, marks in the machine's own order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// The packet's mark.
    Mark { into: Register },
    /// The name of the interface by which the packet leaves, with zeros up to 16 bytes.
    OutInterface { into: Register },
    /// Keeps only the bits of `mask`.
    Mask { register: Register, mask: Vec<u8> },
    /// Ends the rule unless the register begins with these bytes.
    Equal { register: Register, value: Vec<u8> },
    /// Ends the rule if the register begins with these bytes.
    Differs { register: Register, value: Vec<u8> },
    /// The source becomes an address of the interface by which the packet leaves, its port any that is free.
    Masquerade,
}

/// A port that nobody can guess, and that two processors do not choose at once.
const RANDOM_FULLY: u32 = 16;

const META_MARK: u32 = 3;
const META_OUT_INTERFACE_NAME: u32 = 7;
const COMPARE_EQUAL: u32 = 0;
const COMPARE_DIFFERS: u32 = 1;

impl Expression {
    /// Name and data, as `NFTA_EXPR_*`.
    pub(super) fn attributes(&self) -> Attributes {
        let none = Attributes::default;
        let (name, data) = match self {
            Self::Mark { into } => ("meta", none().number(1, into.0).number(2, META_MARK)),
            Self::OutInterface { into } => {
                ("meta", none().number(1, into.0).number(2, META_OUT_INTERFACE_NAME))
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
        };
        none().text(1, name).nested(2, data)
    }
}

fn compare(register: Register, operation: u32, to: &[u8]) -> Attributes {
    Attributes::default().number(1, register.0).number(2, operation).nested(3, value(to))
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}
