//! How often clients may come: counted over all workers, in bounded memory.
//!
//! Each rate is a generic cell rate algorithm: one number says when the next request would be due if all had come
//! evenly, and a client may be ahead of it by its burst.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::balance::now_us;
use crate::compile::Limits;

/// Clients are kept in so many drawers, each with a lock of its own.
const DRAWERS: usize = 1_024;
/// A drawer that holds so many clients forgets the one that has the least to answer for. Those with requests in
/// flight stay.
const EACH: usize = 32;

/// The clients of one object.
pub(super) struct Limiter {
    limits: Limits,
    drawers: Box<[Mutex<Vec<Client>>]>,
    hash: RandomState,
}

/// An IPv4 address, or the network of an IPv6 address: who has one address of a /64 has them all.
type Address = u64;

struct Client {
    address: Address,
    /// For each rate, when its next request would be due.
    due_us: [u64; 2],
    in_flight: u32,
}

/// Why a request may not come now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    TooOften,
    TooManyAtATime,
}

/// Counts as one of the client's requests for as long as it lives.
pub(super) struct Held {
    limiter: Arc<Limiter>,
    address: Address,
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Self {
        let drawers = (0..DRAWERS).map(|_| Mutex::default()).collect();
        Self { limits, drawers, hash: RandomState::new() }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Lets a request of the client in, or says why not.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Result<Option<Held>, Excess> {
        self.take_at(client, now_us())
    }

    fn take_at(self: &Arc<Self>, client: IpAddr, now: u64) -> Result<Option<Held>, Excess> {
        if self.limits.exempt.iter().any(|net| net.contains(&client)) {
            return Ok(None);
        }
        let address = address(client);
        let mut drawer = self.drawer(address);
        let at = match drawer.iter().position(|it| it.address == address) {
            Some(at) => at,
            None => {
                make_room(&mut drawer);
                drawer.push(Client { address, due_us: [0; 2], in_flight: 0 });
                drawer.len() - 1
            }
        };
        let Some(client) = drawer.get_mut(at) else { return Ok(None) };
        let mut due_us = client.due_us;
        for (due, rate) in due_us.iter_mut().zip(&self.limits.rates) {
            let interval = micros(rate.interval);
            if *due > now.saturating_add(interval.saturating_mul(rate.burst.into())) {
                return Err(Excess::TooOften);
            }
            *due = (*due).max(now).saturating_add(interval);
        }
        if let Some(most) = self.limits.requests_at_a_time {
            if client.in_flight >= most {
                return Err(Excess::TooManyAtATime);
            }
            client.in_flight += 1;
        }
        client.due_us = due_us;
        let counts = self.limits.requests_at_a_time.is_some();
        Ok(counts.then(|| Held { limiter: Arc::clone(self), address }))
    }

    fn drawer(&self, address: Address) -> std::sync::MutexGuard<'_, Vec<Client>> {
        let at = self.hash.hash_one(address) as usize % self.drawers.len();
        self.drawers[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut drawer = self.limiter.drawer(self.address);
        if let Some(client) = drawer.iter_mut().find(|it| it.address == self.address) {
            client.in_flight = client.in_flight.saturating_sub(1);
        }
    }
}

fn make_room(drawer: &mut Vec<Client>) {
    if drawer.len() < EACH {
        return;
    }
    let idle = drawer.iter().enumerate().filter(|(_, it)| it.in_flight == 0);
    if let Some((at, _)) = idle.min_by_key(|(_, it)| it.due_us.into_iter().max()) {
        drawer.swap_remove(at);
    }
}

fn address(client: IpAddr) -> Address {
    match client.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        // The lowest bits of the network are never those of an IPv4 address: 2000::/3 is where they are given out.
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Rate;

    const SECOND: u64 = 1_000_000;

    fn limiter(rates: &[(u64, u32)], at_a_time: Option<u32>) -> Arc<Limiter> {
        let rate =
            |(millis, burst): &(u64, u32)| Rate { interval: Duration::from_millis(*millis), burst: *burst };
        Arc::new(Limiter::new(Limits {
            object: "x".into(),
            rates: rates.iter().map(rate).collect(),
            requests_at_a_time: at_a_time,
            exempt: vec!["192.0.2.0/24".parse().unwrap()],
        }))
    }

    fn let_in(limiter: &Arc<Limiter>, client: &str, now: u64, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.take_at(client.parse().unwrap(), now).is_ok()).count()
    }

    #[test]
    fn a_client_may_be_ahead_by_its_burst_and_then_comes_as_often_as_the_rate_says() {
        // Five a second, 25 beyond that: as nginx counts them, one more than the burst at first.
        let limiter = limiter(&[(200, 25)], None);
        let now = 50 * SECOND;
        assert_eq!(let_in(&limiter, "10.0.0.1", now, 100), 26);
        assert_eq!(let_in(&limiter, "10.0.0.1", now + SECOND, 100), 5);
        assert_eq!(let_in(&limiter, "10.0.0.2", now, 100), 26, "each client for himself");
        assert_eq!(let_in(&limiter, "192.0.2.1", now, 100), 100, "whom nobody counts");
        assert_eq!(let_in(&limiter, "10.0.0.1", now + 60 * SECOND, 100), 26, "forgiven in time");
    }

    #[test]
    fn of_two_rates_the_stricter_counts_and_a_refusal_costs_nothing() {
        let limiter = limiter(&[(1, 1_000), (60_000, 0)], None);
        let now = 100 * SECOND;
        assert_eq!(let_in(&limiter, "10.0.0.1", now, 10), 1);
        assert_eq!(let_in(&limiter, "10.0.0.1", now + 59 * SECOND, 10), 0);
        assert_eq!(let_in(&limiter, "10.0.0.1", now + 60 * SECOND, 10), 1);
    }

    #[test]
    fn requests_at_a_time_are_given_back() {
        let limiter = limiter(&[], Some(2));
        let take = || limiter.take("10.0.0.1".parse().unwrap());
        let (one, two) = (take().unwrap(), take().unwrap());
        assert_eq!(take().err(), Some(Excess::TooManyAtATime));
        drop(one);
        let three = take().unwrap();
        assert!(take().is_err());
        drop((two, three));
        assert!(take().is_ok());
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let limiter = limiter(&[(1_000, 0)], None);
        assert_eq!(let_in(&limiter, "2001:db8::1", SECOND, 1), 1);
        assert_eq!(let_in(&limiter, "2001:db8::2", SECOND, 1), 0);
        assert_eq!(let_in(&limiter, "2001:db8:0:1::1", SECOND, 1), 1);
        assert_eq!(let_in(&limiter, "::ffff:10.0.0.1", SECOND, 1), 1);
        assert_eq!(let_in(&limiter, "10.0.0.1", SECOND, 1), 0);
    }

    #[test]
    fn however_many_clients_come_memory_is_bounded_and_those_in_flight_are_not_forgotten() {
        let limiter = limiter(&[(1_000, 0)], Some(1));
        let held = limiter.take("10.255.255.255".parse().unwrap()).unwrap();
        for number in 0..100_000_u32 {
            let client = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
            drop(limiter.take_at(client, u64::from(number)));
        }
        let kept: usize = limiter.drawers.iter().map(|drawer| drawer.lock().unwrap().len()).sum();
        assert!(kept <= DRAWERS * EACH, "{kept}");
        let again = limiter.take_at("10.255.255.255".parse().unwrap(), u64::MAX / 2);
        assert_eq!(again.err(), Some(Excess::TooManyAtATime));
        drop(held);
    }
}
