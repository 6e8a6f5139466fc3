//! How fast a client takes a response. Who takes nothing for too long is given up: each response that stands still holds an
//! upstream's connection.
//!
//! The bound is on pauses, as it is with nginx: from a part of the body being handed to the connection to the next one being
//! asked for.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// One response on its way to the client.
#[derive(Debug, Default)]
pub(super) struct Taking {
    /// Since when the client has a part of it to take.
    since: Cell<Option<Instant>>,
    given_up: Rc<Cell<bool>>,
    waker: RefCell<Option<Waker>>,
}

impl Taking {
    /// The client has this to take; `waker` is of whoever writes it.
    pub(super) fn given(&self, waker: &Waker) {
        self.since.set(Some(Instant::now()));
        let mut kept = self.waker.borrow_mut();
        if kept.as_ref().is_none_or(|kept| !kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    /// The client has taken it all, and it is the upstream's turn.
    pub(super) fn taken(&self) {
        self.since.set(None);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.get()
    }
}

/// The responses of one connection that are longer than one part.
#[derive(Debug, Default)]
pub(super) struct Takings {
    under_way: RefCell<Vec<Weak<Taking>>>,
    /// Of the stream whose request is about to be looked at.
    stream: RefCell<Option<Rc<Cell<bool>>>>,
}

impl Takings {
    /// The sign by which the stream that calls this is given up. HTTP/1.1 has none but its connection.
    pub(super) fn stream(&self) -> Rc<Cell<bool>> {
        self.stream.borrow_mut().take().unwrap_or_default()
    }

    /// A response begins of which this is the sign.
    pub(super) fn begin(&self, given_up: Rc<Cell<bool>>) -> Rc<Taking> {
        let taking = Rc::new(Taking { given_up, ..Taking::default() });
        let mut under_way = self.under_way.borrow_mut();
        under_way.retain(|taking| taking.strong_count() > 0);
        under_way.push(Rc::downgrade(&taking));
        taking
    }

    /// Gives up what has stood still for as long as `bound`. The answer is whether there was any.
    pub(super) fn give_up(&self, now: Instant, bound: Duration) -> bool {
        let mut any = false;
        for taking in self.under_way.borrow().iter().filter_map(Weak::upgrade) {
            if taking.since.get().is_some_and(|since| now.duration_since(since) >= bound) {
                any = true;
                taking.given_up.set(true);
                if let Some(waker) = taking.waker.take() {
                    waker.wake();
                }
            }
        }
        any
    }
}

/// Runs the streams of a connection of HTTP/2, and drops those that are given up: hyper resets them then, and no other.
#[derive(Clone)]
pub(super) struct Streams(pub(super) Rc<Takings>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let takings = Rc::clone(&self.0);
        spawn_local(async move {
            let given_up = Rc::new(Cell::new(false));
            let mut stream = pin!(stream);
            poll_fn(|cx| {
                if given_up.get() {
                    return Poll::Ready(());
                }
                // It is taken at the stream's first turn, and belongs to nobody else.
                takings.stream.replace(Some(Rc::clone(&given_up)));
                let polled = stream.as_mut().poll(cx);
                takings.stream.take();
                polled
            })
            .await;
        });
    }
}
