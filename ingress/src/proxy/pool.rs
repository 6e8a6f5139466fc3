//! Upstream connections of one worker, kept for the next request.
//!
//! HTTP/1.1 connections are lent to one request at a time and come back when its response has been read to the end; an
//! HTTP/2 connection is shared.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};

use super::body::Upload;
use crate::compile::Protocol;

/// So many idle connections to one endpoint are kept; fewer than requests come at a time, and connections would come and go.
const MOST: usize = 320;
/// So long. Servers close theirs after 60 s, many after 75 s.
const IDLE: Duration = Duration::from_secs(50);

pub(super) enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

impl Sender {
    /// Gives the request back where nothing of it was sent.
    pub(super) async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

/// Address, protocol and identity ([`super::connect::Identity`]): who may use a connection that there is.
pub(super) type Key = (SocketAddr, Protocol, u64);

/// One that waits for a request, and since when.
type Idle = (http1::SendRequest<Upload>, Instant);

#[derive(Default)]
pub(super) struct Pool {
    http1: RefCell<HashMap<Key, Vec<Idle>>>,
    http2: RefCell<HashMap<Key, http2::SendRequest<Upload>>>,
}

impl Pool {
    /// A connection that is open as far as we know; the one used last, so that those not needed grow old.
    pub(super) async fn take(&self, key: Key) -> Option<Sender> {
        if key.1.is_http2() {
            let sender = self.http2.borrow().get(&key).cloned()?;
            if sender.is_closed() {
                self.http2.borrow_mut().remove(&key);
                return None;
            }
            return Some(Sender::Http2(sender));
        }
        loop {
            let (mut sender, _) = self.http1.borrow_mut().get_mut(&key)?.pop()?;
            // Its last exchange is over, so this only waits for its task to see that, or that the peer has closed.
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(Sender::Http1(sender));
            }
        }
    }

    /// Keeps a new HTTP/2 connection for everyone.
    pub(super) fn share(&self, key: Key, sender: &Sender) {
        if let Sender::Http2(sender) = sender {
            self.http2.borrow_mut().insert(key, sender.clone());
        }
    }

    /// Takes a connection back whose exchange is over, both ways.
    pub(super) fn put(&self, key: Key, sender: Sender) {
        if let Sender::Http1(sender) = sender
            && !sender.is_closed()
        {
            let mut pool = self.http1.borrow_mut();
            let idle = pool.entry(key).or_default();
            if idle.len() < MOST {
                idle.push((sender, Instant::now()));
            }
        }
    }

    /// Lets go of what is closed or has been idle for long.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.http1.borrow_mut().retain(|_, idle| {
            idle.retain(|(sender, since)| !sender.is_closed() && now.duration_since(*since) < IDLE);
            !idle.is_empty()
        });
        self.http2.borrow_mut().retain(|_, sender| !sender.is_closed());
    }
}
