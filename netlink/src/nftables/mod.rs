//! nf_tables: one table at a time, replaced whole in one transaction, and read back to see whether it is still so.
//!
//! Only the expressions that Weir's rules need, in the kernel's own words (`linux/netfilter/nf_tables.h`). What the rules
//! are for is said by who makes them. No `nft` is needed; `nft list ruleset` shows them.

mod conntrack;
mod expression;
mod message;
mod set;
mod socket;

pub use expression::{End, Expression, Family, Register};
pub use set::{Field, Set, Words};
pub use socket::{Nftables, Snapshot};

/// A table of family `inet`: it sees IPv4 and IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: &'static str,
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
}

/// A chain of type `nat` at a hook of netfilter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    pub hook: Hook,
    pub rules: Vec<Rule>,
}

/// What is done one after the other, until an expression does not match.
pub type Rule = Vec<Expression>;

/// Where packets meet a `nat` chain; only the first of each connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Came in, not routed yet: destinations are translated here.
    Prerouting,
    /// Made by this host: the same.
    Output,
    /// On the way out: sources are translated here.
    Postrouting,
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    /// `dstnat` and `srcnat`, as `nft` calls them.
    fn priority(self) -> i32 {
        match self {
            Self::Prerouting | Self::Output => -100,
            Self::Postrouting => 100,
        }
    }
}
