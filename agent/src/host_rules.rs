//! Our table of nf_tables: what netfilter does to the packets that take the host's stack.
//!
//! One table, `inet weir`, in the node's network namespace, replaced whole in one transaction. Pods among themselves never
//! meet it.

use anyhow::{Context as _, Result};
use common::verdict::MASQUERADE_MARK;
use netlink::nftables::{Chain, Expression, Hook, Nftables, Register, Rule, Snapshot, Table};
use tracing::info;

/// The only table that is ours.
pub(crate) const TABLE: &str = "weir";
/// What the names of our interfaces begin with: all of them lead to pods.
const OURS: &[u8] = b"weir";

pub(crate) struct HostRules {
    nftables: Nftables,
    masquerade: bool,
    /// The table as the kernel showed it when it was written last.
    written: Option<Snapshot>,
}

impl HostRules {
    /// Puts the rules in place; `None` where there is nothing to do, and an earlier agent's rules are gone.
    pub(crate) fn new(masquerade: bool) -> Result<Option<Self>> {
        if !masquerade {
            // A kernel without nf_tables has none of our rules either.
            if let Ok(nftables) = Nftables::new()
                && nftables.remove(TABLE).is_err()
            {
                info!("this kernel has no nf_tables");
            }
            return Ok(None);
        }
        let nftables = Nftables::new()?;
        let mut rules = Self { nftables, masquerade, written: None };
        rules.apply().context(
            "--masquerade: the kernel needs nf_tables with NAT (CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ)",
        )?;
        Ok(Some(rules))
    }

    /// Makes the kernel have our rules, whatever it had before.
    pub(crate) fn apply(&mut self) -> Result<()> {
        self.nftables.replace(&self.table())?;
        self.written = self.nftables.read(TABLE)?;
        Ok(())
    }

    /// Whether the kernel still has what was written last.
    pub(crate) fn is_as_desired(&self) -> Result<bool> {
        Ok(self.nftables.read(TABLE)? == self.written)
    }

    /// Puts back what somebody else has changed. Whether there was anything.
    pub(crate) fn mend(&mut self) -> Result<bool> {
        if self.is_as_desired()? {
            return Ok(false);
        }
        self.apply()?;
        Ok(true)
    }

    fn table(&self) -> Table {
        let postrouting = self.masquerade.then(masquerade).into_iter().collect();
        let chains = vec![Chain { name: "postrouting", hook: Hook::Postrouting, rules: postrouting }];
        Table { name: TABLE, chains }
    }
}

/// What the kernel programs have marked, unless somebody (a Service's proxy) has turned it round to a pod of this node: its
/// answer comes back this way by itself, and its policy is about the real source.
fn masquerade() -> Rule {
    let register = Register::A;
    let mark = MASQUERADE_MARK.to_ne_bytes().to_vec();
    vec![
        Expression::Mark { into: register },
        Expression::Mask { register, mask: mark.clone() },
        Expression::Equal { register, value: mark },
        Expression::OutInterface { into: register },
        Expression::Differs { register, value: OURS.to_vec() },
        Expression::Masquerade,
    ]
}
