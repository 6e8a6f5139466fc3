//! What one worker has to itself.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use super::Shared;
use super::balance::mix;
use super::connect::Connector;
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
    log: RefCell<Vec<u8>>,
    budget: Cell<u32>,
    counts: RefCell<Counts>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            pool: Pool::default(),
            connector: Connector::new(),
            seed: Cell::new(RandomState::new().hash_one(0)),
            log: RefCell::default(),
            budget: Cell::new(100),
            counts: RefCell::default(),
        }
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
    pub(super) fn log(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.shared.log.is_none() {
            return;
        }
        let mut held = self.log.borrow_mut();
        write(&mut held);
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
