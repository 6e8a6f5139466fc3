//! Responses: the upstream's, streamed, and the proxy's own.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode, Version};

use super::balance::InFlight;
use super::body::{Pause, Progress, Sent};
use super::pool::{Key, Sender};
use super::record::{Exchange, Fault};
use super::taking::Taking;
use crate::tls::Refusal;

/// A response's body, and with it the exchange that ends with its last byte.
pub(super) struct Download {
    content: Content,
    exchange: Exchange,
}

enum Content {
    Own(Bytes),
    Upstream { body: Incoming, pause: Pause, lent: Option<Lent>, taking: Option<Rc<Taking>> },
}

/// The connection on which the response comes.
pub(super) struct Lent {
    pub(super) key: Key,
    pub(super) sender: Sender,
    pub(super) progress: Rc<Progress>,
}

/// Why a response ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the upstream paused in its response for too long")]
    Slow,
    #[error("the upstream's response")]
    Upstream(#[source] hyper::Error),
}

/// An answer of our own. Clients learn status and request id; the reason is for the log.
pub(super) fn own(mut exchange: Exchange, status: StatusCode) -> Response<Download> {
    exchange.status = status;
    let text = if status.is_client_error() || status.is_server_error() {
        format!("{status}\nrequest {}\n", exchange.id.to_str().unwrap_or_default())
    } else {
        String::new()
    };
    let mut response = Response::new(Download { content: Content::Own(text.into()), exchange });
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// An answer of our own because something went wrong.
pub(super) fn fault(
    mut exchange: Exchange,
    status: StatusCode,
    fault: Fault,
    reason: impl Into<String>,
) -> Response<Download> {
    exchange.blame(fault, reason);
    own(exchange, status)
}

/// An answer to a client whose certificate, or want of one, is no good.
pub(super) fn refusal(exchange: Exchange, refusal: Refusal) -> Response<Download> {
    let whose = if refusal.status.is_server_error() { Fault::Config } else { Fault::Client };
    let mut response = fault(exchange, refusal.status, whose, refusal.reason);
    response.headers_mut().extend(refusal.location.map(|location| (header::LOCATION, location)));
    response
}

/// Where nginx's `add_header` writes.
pub(super) fn takes_cookies(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

/// The last answer on its connection. HTTP/2 has no such header, and its streams do not follow one another.
pub(super) fn close(response: &mut Response<Download>, version: Version) {
    if version <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

impl Download {
    pub(super) fn upstream(body: Incoming, pause: Duration, lent: Option<Lent>, exchange: Exchange) -> Self {
        let mut download = Self {
            content: Content::Upstream { body, pause: Pause::new(pause), lent, taking: None },
            exchange,
        };
        download.end_if_over();
        download
    }

    /// Whether nobody was asked.
    pub(super) fn untried(&self) -> bool {
        self.exchange.tries == 0
    }

    /// Another body in the place of this one.
    pub(super) fn instead(
        &mut self,
        status: StatusCode,
        body: Incoming,
        pause: Duration,
        lent: Lent,
        in_flight: InFlight,
    ) {
        self.content = Content::Upstream { body, pause: Pause::new(pause), lent: Some(lent), taking: None };
        self.exchange.status = status;
        self.exchange.in_flight = Some(in_flight);
        self.end_if_over();
    }

    /// Gives the connection back as soon as nothing more comes on it.
    fn end_if_over(&mut self) {
        if let Content::Upstream { body, lent, .. } = &mut self.content
            && body.is_end_stream()
            && let Some(Lent { key, sender, progress }) = lent.take()
        {
            // An answer before the end of the request: the connection is still busy with the rest.
            if progress.sent.get() == Sent::All {
                self.exchange.worker.pool.put(key, sender);
            }
            self.exchange.in_flight = None;
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::Own(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Content::Own(bytes) => Frame::data(std::mem::take(bytes)),
            Content::Upstream { body, pause, taking, .. } => {
                let polled = Pin::new(&mut *body).poll_frame(cx);
                if let Some(taking) = taking {
                    taking.taken();
                }
                if pause.poll(cx, polled.is_pending()).is_ready() {
                    this.exchange.blame(Fault::Upstream, Broken::Slow.to_string());
                    return Poll::Ready(Some(Err(Broken::Slow)));
                }
                match ready!(polled) {
                    None => {
                        this.end_if_over();
                        return Poll::Ready(None);
                    }
                    Some(Err(error)) => {
                        this.exchange.blame(Fault::Upstream, format!("its response broke off: {error}"));
                        return Poll::Ready(Some(Err(Broken::Upstream(error))));
                    }
                    Some(Ok(frame)) => {
                        if !body.is_end_stream() {
                            let (takings, sign) =
                                (&this.exchange.connection.takings, &this.exchange.given_up);
                            taking.get_or_insert_with(|| takings.begin(Rc::clone(sign))).given(cx.waker());
                        }
                        frame
                    }
                }
            }
        };
        this.exchange.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
        this.end_if_over();
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_empty(),
            Content::Upstream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Upstream { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if let Content::Upstream { taking, .. } = &self.content
            && !self.is_end_stream()
        {
            let slow = taking.as_ref().is_some_and(|taking| taking.is_given_up());
            let reason = if slow {
                "the client did not take the response for too long"
            } else {
                "the client left before the end of the response"
            };
            self.exchange.blame(Fault::Client, reason);
        }
    }
}
