//! What one worker has to itself.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use jiff::Timestamp;

use super::Shared;
use super::balance::mix;
use super::connect::Connector;
use super::live::Snapshot;
use super::metrics::Counts;
use super::pool::Pool;
use super::record::Fault;

/// So many bytes of the access log are held back at most.
const LOG_HELD: usize = 32 << 10;
/// What a request adds to the budget of retries, and what may be saved up, in tenths of a retry.
const BUDGET_EACH: u32 = 2;
const BUDGET_MOST: u32 = 1_000;

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Pool,
    pub(super) connector: Connector,
    seed: Cell<u64>,
    /// The snapshot that was seen last: holding it costs a request no atomic operation.
    snapshot: RefCell<Rc<Seen>>,
    log: RefCell<Vec<u8>>,
    clock: RefCell<Clock>,
    budget: Cell<u32>,
    counts: RefCell<Counts>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let snapshot = RefCell::new(Rc::new(Seen(shared.snapshot.load_full())));
        Self {
            shared,
            snapshot,
            clock: RefCell::default(),
            pool: Pool::default(),
            connector: Connector::new(),
            seed: Cell::new(RandomState::new().hash_one(0)),
            log: RefCell::default(),
            budget: Cell::new(100),
            counts: RefCell::default(),
        }
    }

    /// What is served now.
    pub(super) fn snapshot(&self) -> Rc<Seen> {
        let mut seen = self.snapshot.borrow_mut();
        let now = self.shared.snapshot.load();
        if !Arc::ptr_eq(&now, &seen.0) {
            *seen = Rc::new(Seen(Arc::clone(&now)));
        }
        Rc::clone(&seen)
    }

    /// Good enough for drawing lots and for request ids; no secret depends on it.
    pub(super) fn chance(&self) -> u64 {
        let seed = self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed.set(seed);
        mix(seed)
    }

    /// Retries are a fifth of the requests at most, so that they do not bring down what is left standing.
    pub(super) fn earn_retries(&self) {
        self.budget.set((self.budget.get() + BUDGET_EACH).min(BUDGET_MOST));
    }

    pub(super) fn may_retry(&self) -> bool {
        let left = self.budget.get().checked_sub(10);
        left.inspect(|left| self.budget.set(*left)).is_some()
    }

    /// Adds a line to the access log.
    pub(super) fn log(&self, write: impl FnOnce(&mut Vec<u8>, &str)) {
        if self.shared.log.is_none() {
            return;
        }
        let mut held = self.log.borrow_mut();
        write(&mut held, self.clock.borrow_mut().now());
        held.push(b'\n');
        if held.len() >= LOG_HELD {
            self.write_log(&mut held);
        }
    }

    pub(super) fn count(
        &self,
        object: Option<&Arc<str>>,
        status: StatusCode,
        fault: Option<Fault>,
        took: Duration,
    ) {
        self.counts.borrow_mut().add(object, status.as_u16(), fault, took);
    }

    /// Hands over what is held back of log and metrics.
    pub(super) fn flush(&self) {
        self.write_log(&mut self.log.borrow_mut());
        self.shared.metrics.take_over(&mut self.counts.borrow_mut());
        // A worker without requests must not keep what nobody is served any more.
        drop(self.snapshot());
    }

    fn write_log(&self, held: &mut Vec<u8>) {
        if let (Some(log), false) = (&self.shared.log, held.is_empty()) {
            let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Whole lines in one write: lines of several workers do not mix. A log that nobody takes stops nobody.
            if log.write_all(held).and_then(|()| log.flush()).is_err() {
                self.shared.metrics.log_lost();
            }
            held.clear();
        }
    }
}

/// A snapshot that one worker holds: its requests count references here, and not where all cores do.
pub(super) struct Seen(Arc<Snapshot>);

impl std::ops::Deref for Seen {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// The time as the log has it, to the millisecond: all but the digits of the second's parts is written once a second.
#[derive(Default)]
struct Clock {
    second: i64,
    /// `2026-11-24T16:31:07.123Z`
    text: String,
}

impl Clock {
    fn now(&mut self) -> &str {
        let now = Timestamp::now();
        self.at(now.as_second(), now.subsec_millisecond())
    }

    fn at(&mut self, second: i64, millisecond: i32) -> &str {
        if self.second != second || self.text.is_empty() {
            self.second = second;
            let whole = Timestamp::from_second(second).unwrap_or_default();
            self.text = format!("{whole:.0}");
            self.text.truncate(self.text.trim_end_matches('Z').len());
            self.text.push_str(".000Z");
        }
        let digits = self.text.len() - "000Z".len();
        let number = u32::try_from(millisecond).unwrap_or_default();
        self.text.truncate(digits);
        for divisor in [100, 10, 1] {
            self.text.push(char::from_digit(number / divisor % 10, 10).unwrap_or('0'));
        }
        self.text.push('Z');
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_says_what_a_timestamp_says() {
        let mut clock = Clock::default();
        for (second, millisecond) in [(0, 7), (1_795_537_867, 0), (1_795_537_867, 45), (1_795_537_868, 999)] {
            let expected = Timestamp::new(second, millisecond * 1_000_000).unwrap();
            assert_eq!(clock.at(second, millisecond), format!("{expected:.3}"));
        }
    }
}
