//! Runs of ports: who allows which, and as trie prefixes.
//!
//! NetworkPolicy speaks of `port..=endPort`; the kernel's trie speaks of prefixes. A run becomes at most 30 of them.

use std::collections::BTreeMap;

/// Who decides each port of one protocol: the first to claim it.
///
/// Invariant: runs are disjoint, `first <= last`; keyed by `first`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims<T> {
    runs: BTreeMap<u16, (u16, T)>,
}

impl<T> Default for Claims<T> {
    fn default() -> Self {
        Self { runs: BTreeMap::new() }
    }
}

impl<T: Copy + Eq + Ord> Claims<T> {
    /// Takes those of `first..=last` that are still free.
    pub(crate) fn claim(&mut self, first: u16, last: u16, owner: T) {
        let mut next = Some(first);
        // A run that begins before `first` may reach into it.
        if let Some((_, (end, _))) = self.runs.range(..first).next_back()
            && *end >= first
        {
            next = end.checked_add(1);
        }
        while let Some(free) = next.filter(|free| *free <= last) {
            match self.runs.range(free..=last).next() {
                None => {
                    self.runs.insert(free, (last, owner));
                    return;
                }
                Some((start, (end, _))) => {
                    let (start, end) = (*start, *end);
                    if start > free {
                        self.runs.insert(free, (start - 1, owner));
                    }
                    next = end.checked_add(1);
                }
            }
        }
    }

    /// The runs in order; neighbours of one owner are one run.
    pub(crate) fn runs(&self) -> Vec<(u16, u16, T)> {
        let mut runs: Vec<(u16, u16, T)> = Vec::new();
        for (first, (last, owner)) in &self.runs {
            match runs.last_mut() {
                Some((_, end, before)) if before == owner && end.checked_add(1) == Some(*first) => {
                    *end = *last
                }
                _ => runs.push((*first, *last, *owner)),
            }
        }
        runs
    }

    /// The owner of one port.
    fn owner(&self, port: u16) -> Option<T> {
        let (_, (last, owner)) = self.runs.range(..=port).next_back()?;
        (*last >= port).then_some(*owner)
    }

    /// As prefixes, of which the longest that fits a port names its owner.
    ///
    /// Where every port has one, the owner of the most is written once for all ports and the others over it: a rule for
    /// one port beside one for all ports costs two rows, not seventeen.
    pub(crate) fn prefixes(&self) -> Vec<(Prefix, T)> {
        let runs = self.runs();
        let whole =
            runs.iter().map(|(first, last, _)| usize::from(*last - *first) + 1).sum::<usize>() == 1 << 16;
        let mut widths: BTreeMap<T, usize> = BTreeMap::new();
        for (first, last, owner) in &runs {
            *widths.entry(*owner).or_default() += usize::from(*last - *first) + 1;
        }
        let base =
            widths.into_iter().max_by_key(|(_, width)| *width).map(|(owner, _)| owner).filter(|_| whole);
        let mut prefixes: Vec<(Prefix, T)> =
            base.iter().map(|owner| (Prefix { port: 0, bits: 0 }, *owner)).collect();
        for (first, last, owner) in runs {
            if base != Some(owner) {
                prefixes.extend(cover(first, last).into_iter().map(|prefix| (prefix, owner)));
            }
        }
        prefixes
    }

    /// Where the two differ, what `self` says. Only valid as an overlay if nothing that `other` has is missing here.
    pub(crate) fn beyond(&self, other: &Self) -> Self {
        let mut cuts: Vec<u16> = self.runs.keys().copied().collect();
        for (first, (last, _)) in &other.runs {
            cuts.push(*first);
            cuts.extend(last.checked_add(1));
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut beyond = Self::default();
        for (first, (last, owner)) in &self.runs {
            let inner = cuts.iter().copied().skip_while(|cut| cut <= first).take_while(|cut| cut <= last);
            let mut start = *first;
            for cut in inner.chain(last.checked_add(1)) {
                if other.owner(start) != Some(*owner) {
                    beyond.claim(start, cut - 1, *owner);
                }
                start = cut;
            }
            if last.checked_add(1).is_none() && other.owner(start) != Some(*owner) {
                beyond.claim(start, *last, *owner);
            }
        }
        beyond
    }
}

/// A run of ports that share their top `bits` bits.
///
/// Invariant: `bits <= 16`, and the low `16 - bits` bits of `port` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Prefix {
    pub port: u16,
    pub bits: u32,
}

/// Covers `first..=last` with the fewest prefixes, lowest port first. Requires `first <= last`.
pub(crate) fn cover(first: u16, last: u16) -> Vec<Prefix> {
    let mut prefixes = Vec::new();
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    while next < end {
        let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
        let fits = (end - next).ilog2();
        let size = aligned.min(fits);
        // Both are below 2^16: `next < end <= 2^16`.
        prefixes.push(Prefix { port: next as u16, bits: 16 - size });
        next += 1 << size;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::arbitrary::config;

    fn contains(prefix: Prefix, port: u16) -> bool {
        prefix.bits == 0 || (port ^ prefix.port) >> (16 - prefix.bits) == 0
    }

    #[test]
    fn a_run_at_the_edges_is_covered_exactly() {
        let row = |first, last, expected: &[(u16, u32)]| {
            let expected: Vec<_> =
                expected.iter().map(|(port, bits)| Prefix { port: *port, bits: *bits }).collect();
            assert_eq!(cover(first, last), expected, "{first}..={last}");
        };
        row(0, 65535, &[(0, 0)]);
        row(80, 80, &[(80, 16)]);
        row(65535, 65535, &[(65535, 16)]);
        row(1, 3, &[(1, 16), (2, 15)]);
        row(32768, 65535, &[(32768, 1)]);
        assert_eq!(cover(1, 65534).len(), 30);
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn claims_prefixes_and_overlays_answer_like_a_list_searched_in_order(
            ours in prop::collection::vec((any::<u16>(), any::<u16>(), 0..4_u8), 0..6),
            everyones in prop::collection::vec((any::<u16>(), any::<u16>(), 4..6_u8), 0..4),
            whole in any::<bool>(),
            ports in prop::collection::vec(any::<u16>(), 20),
        ) {
            let sorted = |(a, b, owner): &(u16, u16, u8)| (*a.min(b), *a.max(b), *owner);
            let mut everyones: Vec<_> = everyones.iter().map(sorted).collect();
            let mut all: Vec<_> = ours.iter().map(sorted).chain(everyones.clone()).collect();
            if whole {
                all.push((0, 65535, 5));
                everyones.push((0, 65535, 5));
            }
            let claimed = |list: &[(u16, u16, u8)]| {
                let mut claims = Claims::default();
                for (first, last, owner) in list {
                    claims.claim(*first, *last, *owner);
                }
                claims
            };
            let (base, full) = (claimed(&everyones), claimed(&all));
            let rows = full.prefixes();
            let (any, over) = (base.prefixes(), full.beyond(&base).prefixes());
            let longest = |rows: &[(Prefix, u8)], port| {
                rows.iter().filter(|(prefix, _)| contains(*prefix, port)).max_by_key(|(p, _)| p.bits).map(|(_, o)| *o)
            };
            let edges = all.iter().flat_map(|(a, b, _)| [*a, *b, a.wrapping_sub(1), b.wrapping_add(1)]);
            for port in ports.into_iter().chain(edges) {
                let expected = all.iter().find(|(a, b, _)| (*a..=*b).contains(&port)).map(|(_, _, owner)| *owner);
                prop_assert_eq!(longest(&rows, port), expected);
                prop_assert_eq!(longest(&over, port).or_else(|| longest(&any, port)), expected);
            }
        }
    }
}
