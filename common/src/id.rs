//! Numbers that stand for content.
//!
//! Rule sets, peer classes, rules and backend sets are named by a 64-bit hash of what they contain. So two agents, or one
//! agent before and after a restart, give the same content the same number without having to remember anything, and a
//! number in a pinned map never changes its meaning.

use core::cmp::Ordering;
use core::fmt;

macro_rules! content_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name([u32; 2]);

        impl $name {
            #[inline(always)]
            pub const fn new(value: u64) -> Self {
                Self([(value >> 32) as u32, value as u32])
            }

            #[inline(always)]
            pub const fn value(self) -> u64 {
                ((self.0[0] as u64) << 32) | self.0[1] as u64
            }
        }

        // As derived, in one comparison: tables are trees of these.
        impl Ord for $name {
            #[inline(always)]
            fn cmp(&self, other: &Self) -> Ordering {
                self.value().cmp(&other.value())
            }
        }

        impl PartialOrd for $name {
            #[inline(always)]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.value())
            }
        }

        const _: () = assert!(size_of::<$name>() == 8 && align_of::<$name>() == 4);
    };
}

content_id! {
    /// What one endpoint allows in one direction.
    RuleSetId
}

impl RuleSetId {
    /// The endpoint is not isolated in this direction: everything passes without a lookup.
    pub const OPEN: Self = Self::new(0);

    #[inline(always)]
    pub const fn is_open(self) -> bool {
        self.value() == 0
    }
}

content_id! {
    /// The set of peer selectors in use that an address matches.
    ClassId
}

impl ClassId {
    /// Matches no selector in use.
    pub const NONE: Self = Self::new(0);
    /// In a rule row: any peer, whatever its class. Looked up where the row for the peer's own class is missing.
    pub const ANY: Self = Self::new(u64::MAX);
}

content_id! {
    /// One rule of one policy: what a verdict names.
    RuleId
}

impl RuleId {
    /// No rule decided: nothing isolates the endpoint, or nothing allows the flow.
    pub const NONE: Self = Self::new(0);
}

content_id! {
    /// A list of backends.
    BackendSetId
}
