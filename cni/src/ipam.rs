//! Who holds which address: a ledger, pure, without a clock or a disk.
//!
//! Addresses that were never used come first (in order), then the one released longest ago: other nodes may for a
//! moment still believe that a just released address is the old pod. At most [`REMEMBERED`] releases are remembered, so
//! the ledger stays small whatever the size of the range; what is forgotten counts as never used.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How many releases are remembered. More than any node has pods; 40 bytes each on disk.
pub(crate) const REMEMBERED: usize = 1024;

/// Invariants: no address is both held and released, and none is released twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    held: BTreeMap<IpAddr, Holder>,
    /// The longest released first. The order counts, not the times: clocks are set.
    released: VecDeque<Released>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The network configuration's name: garbage collection is about one network.
    pub(crate) network: String,
    pub(crate) container_id: String,
    pub(crate) ifname: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Released {
    ip: IpAddr,
    /// Seconds since 1970, for people.
    at: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("all addresses of {} are taken", list(.ranges))]
    Full { ranges: Vec<IpNet> },
    #[error("address {ip} is held by container {} for its {}", .by.container_id, .by.ifname)]
    Taken { ip: IpAddr, by: Holder },
    #[error("address {ip} is not one that {} can give out", list(.ranges))]
    Outside { ip: IpAddr, ranges: Vec<IpNet> },
    #[error("addresses {0} and {1} are of one family: an interface gets one of each")]
    SameFamily(IpAddr, IpAddr),
    #[error("container {} already holds {} for its {}: delete it first", .holder.container_id, list(.ips), .holder.ifname)]
    AlreadyHeld { holder: Holder, ips: Vec<IpAddr> },
}

impl Ledger {
    /// Gives `holder` one address of each family that `ranges` has: the wanted one, or the longest unused. All or none.
    pub(crate) fn allocate(
        &mut self,
        holder: &Holder,
        ranges: &[IpNet],
        wanted: &[IpAddr],
    ) -> Result<Vec<IpAddr>, Refusal> {
        let ips = self.held_by(&holder.container_id, &holder.ifname);
        if !ips.is_empty() {
            return Err(Refusal::AlreadyHeld { holder: holder.clone(), ips });
        }
        for (n, ip) in wanted.iter().enumerate() {
            if let Some(other) = wanted[..n].iter().find(|other| other.is_ipv4() == ip.is_ipv4()) {
                return Err(Refusal::SameFamily(*other, *ip));
            }
            if !ranges.iter().any(|range| is_usable(range, *ip)) {
                return Err(Refusal::Outside { ip: *ip, ranges: ranges.to_vec() });
            }
            if let Some(by) = self.held.get(ip) {
                return Err(Refusal::Taken { ip: *ip, by: by.clone() });
            }
        }
        let mut chosen = Vec::new();
        for is_v4 in [true, false] {
            let of_family: Vec<IpNet> =
                ranges.iter().copied().filter(|range| range.addr().is_ipv4() == is_v4).collect();
            if of_family.is_empty() {
                continue;
            }
            let ip = wanted.iter().copied().find(|ip| ip.is_ipv4() == is_v4);
            match ip.or_else(|| self.longest_unused(&of_family)) {
                Some(ip) => chosen.push(ip),
                None => return Err(Refusal::Full { ranges: of_family }),
            }
        }
        self.released.retain(|released| !chosen.contains(&released.ip));
        self.held.extend(chosen.iter().map(|ip| (*ip, holder.clone())));
        Ok(chosen)
    }

    /// Takes back what the attachment holds; nothing if it holds nothing.
    pub(crate) fn release(&mut self, container_id: &str, ifname: &str, at: u64) -> Vec<IpAddr> {
        let ips = self.held_by(container_id, ifname);
        self.release_all(&ips, at);
        ips
    }

    /// After a reboot no pod is left.
    pub(crate) fn release_everything(&mut self, at: u64) {
        let ips: Vec<IpAddr> = self.held.keys().copied().collect();
        self.release_all(&ips, at);
    }

    pub(crate) fn held_by(&self, container_id: &str, ifname: &str) -> Vec<IpAddr> {
        let is_theirs = |holder: &Holder| holder.container_id == container_id && holder.ifname == ifname;
        self.held.iter().filter(|(_, holder)| is_theirs(holder)).map(|(ip, _)| *ip).collect()
    }

    /// Every holder, once per address.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.held.values()
    }

    fn release_all(&mut self, ips: &[IpAddr], at: u64) {
        for ip in ips {
            if self.held.remove(ip).is_some() {
                self.released.push_back(Released { ip: *ip, at });
            }
        }
        while self.released.len() > REMEMBERED {
            self.released.pop_front();
        }
    }

    fn longest_unused(&self, ranges: &[IpNet]) -> Option<IpAddr> {
        let released: HashSet<IpAddr> = self.released.iter().map(|released| released.ip).collect();
        let never_used = ranges
            .iter()
            .flat_map(addresses)
            .find(|ip| !self.held.contains_key(ip) && !released.contains(ip));
        never_used.or_else(|| {
            let mut oldest_first = self.released.iter().map(|released| released.ip);
            oldest_first.find(|ip| ranges.iter().any(|range| is_usable(range, *ip)))
        })
    }
}

/// The addresses of the range that can be given out, lowest first. The whole of an IPv6 range is never walked: a used
/// address has an entry in the ledger, and there are few of those.
fn addresses(range: &IpNet) -> impl Iterator<Item = IpAddr> {
    let (first, last) = match range {
        IpNet::V4(range) => {
            (u128::from(u32::from(range.network())), u128::from(u32::from(range.broadcast())))
        }
        IpNet::V6(range) => (u128::from(range.network()), u128::from(range.broadcast())),
    };
    let range = *range;
    (first..=last)
        .map(move |number| match range {
            // Both ends came from a u32.
            IpNet::V4(_) => IpAddr::from((number as u32).to_be_bytes()),
            IpNet::V6(_) => IpAddr::from(number.to_be_bytes()),
        })
        .filter(move |ip| is_usable(&range, *ip))
}

/// Not the network's own address and, in IPv4, not the broadcast address; ranges of one or two addresses have neither.
fn is_usable(range: &IpNet, ip: IpAddr) -> bool {
    let has_special = range.prefix_len() + 1 < range.max_prefix_len();
    let is_special = ip == range.network() || (ip.is_ipv4() && ip == range.broadcast());
    range.contains(&ip) && !(has_special && is_special)
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
