//! Bodies on their way: streamed frame by frame, counted, and never waited for without end.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

/// The longest pause in a body. A timer exists only while there is one.
pub(super) struct Pause {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    /// Called with each poll: ready when the pause has lasted too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, pausing: bool) -> Poll<()> {
        if !pausing {
            self.timer = None;
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        debug_assert!(timer.deadline() <= Instant::now() + self.limit, "a pause only gets shorter");
        timer.as_mut().poll(cx)
    }
}

/// How far the body of a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    NotYet,
    Some,
    All,
    /// It is longer than the route allows.
    TooLarge,
    /// The client paused for too long.
    Slow,
    /// The client broke off.
    Broken,
}

/// What is known of a body from outside while it is under way.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) sent: Cell<Sent>,
    pub(super) bytes: Cell<u64>,
}

impl Progress {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self { sent: Cell::new(Sent::NotYet), bytes: Cell::new(0) })
    }
}

/// A request's body on its way to the upstream.
pub(super) struct Upload {
    /// Nothing for a request without one.
    body: Option<Incoming>,
    limit: Option<u64>,
    pause: Pause,
    progress: Rc<Progress>,
}

/// Why a body ended early; the progress says the same to whoever answers.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the request's body is longer than allowed")]
    TooLarge,
    #[error("the client paused in its body for too long")]
    Slow,
    #[error("the client's body")]
    Client(#[source] hyper::Error),
}

impl Upload {
    pub(super) fn new(body: Incoming, limit: Option<u64>, pause: Duration, progress: Rc<Progress>) -> Self {
        let body = Some(body).filter(|body| !body.is_end_stream());
        if body.is_none() {
            progress.sent.set(Sent::All);
        }
        Self { body, limit, pause: Pause::new(pause), progress }
    }

    /// The same request without a body, to be sent again.
    pub(super) fn none(progress: Rc<Progress>) -> Self {
        Self { body: None, limit: None, pause: Pause::new(Duration::MAX), progress }
    }

    pub(super) fn is_none(&self) -> bool {
        self.body.is_none()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let ended = |sent: Sent, broken| {
            this.progress.sent.set(sent);
            Poll::Ready(Some(Err(broken)))
        };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if this.pause.poll(cx, polled.is_pending()).is_ready() {
            return ended(Sent::Slow, Broken::Slow);
        }
        match ready!(polled) {
            None => {
                this.progress.sent.set(Sent::All);
                Poll::Ready(None)
            }
            Some(Err(error)) => ended(Sent::Broken, Broken::Client(error)),
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, Bytes::len) as u64;
                let bytes = this.progress.bytes.get() + len;
                this.progress.bytes.set(bytes);
                if this.limit.is_some_and(|limit| bytes > limit) {
                    return ended(Sent::TooLarge, Broken::TooLarge);
                }
                this.progress.sent.set(if body.is_end_stream() { Sent::All } else { Sent::Some });
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
