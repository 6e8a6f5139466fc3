//! Which endpoint gets a request: the better of two drawn by chance, by the peak of its latency and its load.
//!
//! The load is shared by all workers and read without locks; what is a little out of date is good enough to choose by.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::live::Endpoint;

/// After so long a latency has lost two thirds of its weight.
const MEMORY: Duration = Duration::from_secs(10);
/// What is assumed of an endpoint that has not answered yet: it is tried soon, but not flooded.
const UNKNOWN_US: u64 = 1_000;
/// An endpoint that cannot be connected to rests: once, twice, four times so long, and so on up to the longest.
const REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// So many gateway errors in a row, and an endpoint rests for so long.
const MISSES: u32 = 5;
const EJECTED: Duration = Duration::from_secs(10);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) fn now_us() -> u64 {
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// How an endpoint is doing.
#[derive(Debug, Default)]
pub(super) struct Load {
    in_flight: AtomicU32,
    /// Peak EWMA of the time to a response's head, in microseconds; 0: none yet.
    latency_us: AtomicU64,
    measured_us: AtomicU64,
    /// Failures to connect without a success between them.
    failures: AtomicU32,
    rests_until_us: AtomicU64,
    /// Gateway errors, and requests without a response, without anything better between them.
    misses: AtomicU32,
}

impl Load {
    fn cost(&self) -> u64 {
        let latency = match self.latency_us.load(Relaxed) {
            0 => UNKNOWN_US,
            latency => latency,
        };
        latency.saturating_mul(u64::from(self.in_flight.load(Relaxed)) + 1)
    }

    /// Requests in flight, latency in microseconds, and whether it rests; for people.
    pub(super) fn look(&self) -> (u32, u64, bool) {
        (self.in_flight.load(Relaxed), self.latency_us.load(Relaxed), self.rests())
    }

    fn rests(&self) -> bool {
        let until = self.rests_until_us.load(Relaxed);
        until != 0 && until > now_us()
    }

    /// A response's head came after so long. A slower one counts at once, a faster one bit by bit.
    pub(super) fn answered(&self, after: Duration) {
        let sample = u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(1);
        let now = now_us();
        let age = now.saturating_sub(self.measured_us.swap(now, Relaxed));
        let last = self.latency_us.load(Relaxed);
        let next = if last <= sample {
            sample
        } else {
            let weight = (-(age as f64) / MEMORY.as_micros() as f64).exp();
            (last as f64 * weight + sample as f64 * (1.0 - weight)) as u64
        };
        self.latency_us.store(next.max(1), Relaxed);
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.rests_until_us.store(0, Relaxed);
        }
    }

    /// It answered, but not for itself: after some of these in a row it rests, as long as most of the others do not.
    pub(super) fn misbehaved(&self, among: &[Arc<Endpoint>]) {
        if self.misses.fetch_add(1, Relaxed) + 1 < MISSES {
            return;
        }
        self.misses.store(0, Relaxed);
        let rest = among.iter().filter(|it| it.load.rests()).count();
        if (rest + 1) * 2 <= among.len() {
            self.rests_until_us.store(now_us() + EJECTED.as_micros() as u64, Relaxed);
        }
    }

    pub(super) fn behaved(&self) {
        if self.misses.load(Relaxed) != 0 {
            self.misses.store(0, Relaxed);
        }
    }

    /// It could not be connected to.
    pub(super) fn failed(&self) {
        let failures = self.failures.fetch_add(1, Relaxed).min(16);
        let rest = REST.saturating_mul(1 << failures).min(LONGEST_REST);
        self.rests_until_us.store(now_us() + rest.as_micros() as u64, Relaxed);
    }
}

/// Counts a request as in flight for as long as it lives.
pub(super) struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.load.in_flight.fetch_add(1, Relaxed);
        Self(endpoint)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.load.in_flight.fetch_sub(1, Relaxed);
    }
}

/// By what an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Choice {
    /// The better of two drawn by chance, by latency and load.
    #[default]
    Latency,
    /// The better of two drawn by chance, by load alone.
    Requests,
    /// The same one for the same number, whoever else comes and goes (rendezvous hashing).
    Hash(u64),
}

impl Choice {
    fn cost(self, endpoint: &Endpoint) -> u64 {
        match self {
            Self::Latency => endpoint.load.cost(),
            Self::Requests => endpoint.load.in_flight.load(Relaxed).into(),
            Self::Hash(hash) => mix(hash ^ endpoint.mark),
        }
    }
}

/// The better of two; not one of `tried`, and not one that rests, unless there is no other.
pub(super) fn pick<'a>(
    endpoints: &'a [Arc<Endpoint>],
    tried: &[Arc<Endpoint>],
    choice: Choice,
    chance: &mut dyn FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    let fresh = |endpoint: &Arc<Endpoint>| !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint));
    // The usual case draws from the list as it is; only a draw that may not be is looked at again.
    if !matches!(choice, Choice::Hash(_))
        && let Some((one, other)) = two(endpoints, chance)
    {
        let good = |endpoint: &Arc<Endpoint>| fresh(endpoint) && !endpoint.load.rests();
        match (good(one), good(other)) {
            (true, true) => {
                return Some(if choice.cost(other) < choice.cost(one) { other } else { one });
            }
            (true, false) => return Some(one),
            (false, true) => return Some(other),
            (false, false) => {}
        }
    }
    let among = |wanted: &dyn Fn(&Arc<Endpoint>) -> bool| {
        endpoints.iter().filter(|it| wanted(it)).min_by_key(|it| choice.cost(it))
    };
    among(&|it| fresh(it) && !it.load.rests()).or_else(|| among(&|it| fresh(it)))
}

fn two<'a>(
    endpoints: &'a [Arc<Endpoint>],
    chance: &mut dyn FnMut() -> u64,
) -> Option<(&'a Arc<Endpoint>, &'a Arc<Endpoint>)> {
    let len = endpoints.len() as u64;
    if len == 0 {
        return None;
    }
    let drawn = chance();
    let one = (drawn >> 32) % len;
    // Another one than the first, if there is one.
    let other = if len == 1 { 0 } else { (one + 1 + (drawn & 0xffff_ffff) % (len - 1)) % len };
    Some((endpoints.get(one as usize)?, endpoints.get(other as usize)?))
}

/// One step of splitmix64.
pub(super) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Protocol;

    fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
        let endpoint = |port| Endpoint::new(([10, 0, 0, 1], port).into(), Protocol::Http, None);
        (0..count).map(|port| Arc::new(endpoint(port))).collect()
    }

    fn counts(endpoints: &[Arc<Endpoint>], tried: &[Arc<Endpoint>], draws: usize) -> Vec<usize> {
        let mut seed = 7;
        let mut chance = || {
            seed = mix(seed);
            seed
        };
        let mut counts = vec![0; endpoints.len()];
        for _ in 0..draws {
            let picked = pick(endpoints, tried, Choice::Latency, &mut chance).unwrap();
            counts[usize::from(picked.address.port())] += 1;
        }
        counts
    }

    #[test]
    fn equals_get_about_the_same() {
        let counts = counts(&endpoints(5), &[], 5_000);
        assert!(counts.iter().all(|count| (600..1_400).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_slow_one_gets_less_and_a_busy_one_too() {
        let endpoints = endpoints(3);
        endpoints.iter().for_each(|it| it.load.answered(Duration::from_millis(1)));
        endpoints[0].load.answered(Duration::from_millis(50));
        let counts_slow = counts(&endpoints, &[], 3_000);
        assert_eq!(counts_slow[0], 0, "in each pair it is the worse");
        let _busy: Vec<InFlight> = (0..200).map(|_| InFlight::new(Arc::clone(&endpoints[1]))).collect();
        let counts_busy = counts(&endpoints, &[], 3_000);
        assert_eq!(counts_busy[1], 0);
        assert!(counts_busy[0] > 0);
    }

    #[test]
    fn what_was_tried_is_not_tried_again_and_what_rests_only_if_nothing_else_is_left() {
        let endpoints = endpoints(3);
        endpoints[0].load.failed();
        let tried = [Arc::clone(&endpoints[1])];
        assert_eq!(counts(&endpoints, &tried, 100), [0, 0, 100]);
        let tried = [Arc::clone(&endpoints[1]), Arc::clone(&endpoints[2])];
        assert_eq!(counts(&endpoints, &tried, 10), [10, 0, 0]);
        let mut chance = || 0;
        assert!(pick(&endpoints, &endpoints, Choice::Latency, &mut chance).is_none());
        assert!(pick(&[], &[], Choice::Latency, &mut chance).is_none());
        endpoints[0].load.answered(Duration::from_millis(1));
        assert!(!endpoints[0].load.rests());
    }

    fn by_hash(endpoints: &[Arc<Endpoint>], tried: &[Arc<Endpoint>], hash: u64) -> u16 {
        pick(endpoints, tried, Choice::Hash(mix(hash)), &mut || 0).unwrap().address.port()
    }

    #[test]
    fn a_hash_leads_to_the_same_endpoint_and_moves_only_with_the_endpoint_that_goes() {
        let all = endpoints(5);
        let homes: Vec<u16> = (0..1_000).map(|hash| by_hash(&all, &[], hash)).collect();
        for port in 0..5 {
            let count = homes.iter().filter(|home| **home == port).count();
            assert!((100..320).contains(&count), "{port} has {count}");
        }
        // The same whatever else they do, and in another process.
        let again = endpoints(5);
        let _busy: Vec<InFlight> = (0..9).map(|_| InFlight::new(Arc::clone(&again[0]))).collect();
        assert!((0..1_000).all(|hash| by_hash(&again, &[], hash) == homes[hash as usize]));
        let fewer = endpoints(4);
        for (hash, home) in homes.iter().enumerate() {
            let now = by_hash(&fewer, &[], hash as u64);
            assert!(now == *home || *home == 4, "{hash} moved from {home} to {now}");
        }
        let tried = [Arc::clone(&all[usize::from(homes[0])])];
        assert_ne!(by_hash(&all, &tried, 0), homes[0], "there is a second home");
    }

    #[test]
    fn by_requests_the_fast_one_gets_no_more_than_the_slow_one() {
        let endpoints = endpoints(2);
        endpoints[0].load.answered(Duration::from_millis(500));
        endpoints[1].load.answered(Duration::from_millis(1));
        let _busy = InFlight::new(Arc::clone(&endpoints[1]));
        let mut chance = || 7;
        let picked = pick(&endpoints, &[], Choice::Requests, &mut chance).unwrap();
        assert_eq!(picked.address.port(), 0);
        let picked = pick(&endpoints, &[], Choice::Latency, &mut chance).unwrap();
        assert_eq!(picked.address.port(), 1);
    }

    #[test]
    fn gateway_errors_in_a_row_make_an_endpoint_rest_but_never_most_of_them() {
        let endpoints = endpoints(3);
        let misbehave = |at: usize, times| (0..times).for_each(|_| endpoints[at].load.misbehaved(&endpoints));
        misbehave(0, MISSES - 1);
        endpoints[0].load.behaved();
        misbehave(0, MISSES - 1);
        assert!(!endpoints[0].load.rests(), "not in a row");
        misbehave(0, 1);
        assert!(endpoints[0].load.rests());
        assert_eq!(counts(&endpoints, &[], 100)[0], 0);
        misbehave(1, MISSES);
        misbehave(2, MISSES);
        assert!(!endpoints[1].load.rests() && !endpoints[2].load.rests());
    }
}
