//! Who names which address, kept up to date so that a flow's ends are named without a search.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::slice;
use std::sync::Arc;

use crate::facts::{NodeFacts, PodFacts};
use crate::world::Interface;

/// One who says that an address is its own.
#[derive(Clone, Debug)]
pub(crate) enum Claim {
    Attachment(Arc<Interface>),
    Pod(Arc<PodFacts>),
    Node(Arc<NodeFacts>),
}

impl Claim {
    /// A pod's and a node's are those of these very facts: other facts are another claim.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Attachment(one), Self::Attachment(other)) => one == other,
            (Self::Pod(one), Self::Pod(other)) => Arc::ptr_eq(one, other),
            (Self::Node(one), Self::Node(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// Nearly every address has one who claims it, and there is one for every pod in the cluster.
#[derive(Clone, Debug)]
enum Claimants {
    One(Claim),
    More(Vec<Claim>),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Claims(BTreeMap<IpAddr, Claimants>);

impl Claims {
    /// In no order.
    pub(crate) fn of(&self, ip: IpAddr) -> &[Claim] {
        match self.0.get(&ip) {
            None => &[],
            Some(Claimants::One(claim)) => slice::from_ref(claim),
            Some(Claimants::More(claims)) => claims,
        }
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }

    pub(crate) fn addresses_within(&self, range: RangeInclusive<IpAddr>) -> impl Iterator<Item = IpAddr> {
        self.0.range(range).map(|(ip, _)| *ip)
    }

    /// Claiming twice is claiming once.
    pub(crate) fn insert(&mut self, ip: IpAddr, claim: Claim) {
        let claims = match self.0.remove(&ip) {
            None => Claimants::One(claim),
            Some(Claimants::One(first)) if first.is(&claim) => Claimants::One(first),
            Some(Claimants::One(first)) => Claimants::More(vec![first, claim]),
            Some(Claimants::More(mut claims)) => {
                if !claims.iter().any(|known| known.is(&claim)) {
                    claims.push(claim);
                }
                Claimants::More(claims)
            }
        };
        self.0.insert(ip, claims);
    }

    pub(crate) fn remove(&mut self, ip: IpAddr, claim: &Claim) {
        match self.0.get_mut(&ip) {
            Some(Claimants::More(claims)) => {
                claims.retain(|known| !known.is(claim));
                if let [last] = claims.as_slice() {
                    let last = last.clone();
                    self.0.insert(ip, Claimants::One(last));
                }
            }
            Some(Claimants::One(known)) if known.is(claim) => drop(self.0.remove(&ip)),
            Some(Claimants::One(_)) | None => {}
        }
    }
}
