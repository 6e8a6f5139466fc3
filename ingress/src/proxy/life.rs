//! How long a connection is served: until its client ends it, says nothing for too long, or the proxy drains.
//!
//! Arranged so that connections pay for it and requests do not: one timer a connection, which looks at the time only when
//! it fires, and a signal to drain that is asked for only once it has been given.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::taking::Takings;

/// A connection without any request yet has so long for its first one once the proxy drains: closed at once, it would be
/// closed under a request that is on its way.
pub(super) const FIRST: Duration = Duration::from_secs(1);

/// Since when a connection waits for a request, if it does.
#[derive(Debug)]
pub(super) struct Quiet {
    since: Cell<Option<Instant>>,
    /// Whether there has been any request.
    asked: Cell<bool>,
}

impl Quiet {
    pub(super) fn new() -> Self {
        Self { since: Cell::new(Some(Instant::now())), asked: Cell::new(false) }
    }

    /// A request has come.
    pub(super) fn ends(&self) {
        self.since.set(None);
        self.asked.set(true);
    }

    /// It has its answer, as of now.
    pub(super) fn begins(&self, now: Instant) {
        self.since.set(Some(now));
    }
}

/// How long is waited for a client.
pub(super) struct Patience<'a> {
    /// For its next request, if that is this connection's to wait for.
    pub(super) quiet: Option<(&'a Quiet, Duration)>,
    /// For it to take its responses.
    pub(super) takings: &'a Takings,
    pub(super) take: Duration,
    /// Whether a response that is given up takes the connection with it.
    pub(super) ends: bool,
}

impl Patience<'_> {
    /// When to look again, or nothing if there is nothing to wait for any more.
    fn look(&self, now: Instant) -> Option<Instant> {
        if self.takings.give_up(now, self.take) && self.ends {
            return None;
        }
        let quiet = self.quiet.map(|(quiet, patience)| quiet.since.get().unwrap_or(now) + patience);
        let next = quiet.map_or(now + self.take, |until| until.min(now + self.take));
        (next > now).then_some(next)
    }

    /// Whether the connection's first request is still to come.
    fn awaits_first(&self) -> bool {
        self.quiet.is_some_and(|(quiet, _)| !quiet.asked.get())
    }
}

/// Serves `connection` to its end. One that tries our patience is dropped where it stands. `end` is told to finish what is
/// under way when the proxy drains; `after` has its turn each time that the connection has had its own.
pub(super) async fn follow<C>(
    connection: C,
    patience: Patience<'_>,
    mut drain: watch::Receiver<bool>,
    end: impl Fn(Pin<&mut C>),
    mut after: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let watched = drain.clone();
    let mut told = pin!(drain.wait_for(|drain| *drain));
    let first = patience.look(Instant::now()).unwrap_or_else(Instant::now);
    let mut timer = pin!(sleep_until(first));
    let mut grace = pin!(sleep(FIRST));
    let (mut listening, mut draining, mut ending) = (false, false, false);
    poll_fn(move |cx| {
        // Once it listens, it need not be asked before there is something to hear.
        if !draining && (!listening || watched.has_changed().unwrap_or(true)) {
            listening = true;
            draining = told.as_mut().poll(cx).is_ready();
            if draining {
                grace.as_mut().reset(Instant::now() + FIRST);
            }
        }
        if draining && !ending && (!patience.awaits_first() || grace.as_mut().poll(cx).is_ready()) {
            ending = true;
            end(connection.as_mut());
        }
        let ended = connection.as_mut().poll(cx);
        if draining && !ending && !patience.awaits_first() {
            cx.waker().wake_by_ref();
        }
        // What cannot be written is the connection's to find out.
        let written = after(cx);
        if ended.is_ready() {
            return ended;
        }
        if matches!(written, Poll::Ready(Err(_))) {
            return Poll::Ready(Ok(()));
        }
        while timer.as_mut().poll(cx).is_ready() {
            let Some(next) = patience.look(Instant::now()) else { return Poll::Ready(Ok(())) };
            timer.as_mut().reset(next);
        }
        Poll::Pending
    })
    .await
}
