//! Connections that go over to another protocol: WebSocket and whatever else two ends agree on.
//!
//! A client of HTTP/2 asks for WebSocket by an extended CONNECT (RFC 8441); its stream becomes the connection, and the
//! upstream sees the same request as from a client of HTTP/1.1.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::balance::InFlight;
use super::headers;
use super::serve::Alive;

/// The one protocol that extended CONNECT is registered for and an upgrade of HTTP/1.1 has, too.
const WEBSOCKET: &str = "websocket";

/// The client's half, which is had once the upstream has agreed.
pub(super) struct Upgrade {
    protocol: HeaderValue,
    client: OnUpgrade,
    /// Asked for by an extended CONNECT.
    is_stream: bool,
    /// Holds the end of the worker back for as long as the tunnel lives.
    alive: Alive,
}

impl Upgrade {
    /// What the client asks for, if it asks. A request by extended CONNECT becomes what it would be in HTTP/1.1.
    pub(super) fn asked(request: &mut Request<Incoming>, alive: &Alive) -> Option<Self> {
        let (protocol, is_stream) = match request.version() {
            Version::HTTP_11 => (headers::upgrade(request.headers())?, false),
            Version::HTTP_2 if request.method() == Method::CONNECT => {
                let asked = request.extensions().get::<Protocol>()?;
                asked.as_str().eq_ignore_ascii_case(WEBSOCKET).then_some(())?;
                (HeaderValue::from_static(WEBSOCKET), true)
            }
            _ => return None,
        };
        let client = hyper::upgrade::on(&mut *request);
        if is_stream {
            *request.method_mut() = Method::GET;
        }
        Some(Self { protocol, client, is_stream, alive: alive.clone() })
    }

    /// Asks the upstream for the same.
    pub(super) fn ask(&self, headers: &mut HeaderMap, chance: [u64; 2]) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.protocol.clone());
        // HTTP/2 has none: its streams need no proof that the other end knows what it agrees to (RFC 8441 §5.1).
        if self.is_stream {
            let key = BASE64_STANDARD.encode(chance.map(u64::to_be_bytes).as_flattened());
            headers.extend(HeaderValue::from_str(&key).ok().map(|key| (header::SEC_WEBSOCKET_KEY, key)));
        }
    }

    /// What the client is told of the upstream's consent.
    pub(super) fn agree(
        &self,
        status: &mut StatusCode,
        headers: &mut HeaderMap,
        agreed: Option<HeaderValue>,
    ) {
        if self.is_stream {
            *status = StatusCode::OK;
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.extend(agreed.map(|protocol| (header::UPGRADE, protocol)));
        }
    }

    /// Whether an answer that does not agree would look to the client as if it did.
    pub(super) fn is_misled_by(&self, status: StatusCode) -> bool {
        self.is_stream && status.is_success()
    }

    pub(super) fn is_stream(&self) -> bool {
        self.is_stream
    }
}

/// Carries bytes both ways until both ends have finished, or neither has said anything for `idle`.
pub(super) fn tunnel(client: Upgrade, upstream: OnUpgrade, in_flight: Option<InFlight>, idle: Duration) {
    spawn_local(async move {
        let _in_flight = in_flight;
        let Upgrade { client, alive, .. } = client;
        let _alive: Rc<Alive> = Rc::new(alive);
        let (client, upstream) = match tokio::try_join!(client, upstream) {
            Ok(both) => both,
            Err(error) => return debug!(%error, "no tunnel"),
        };
        carry_both(TokioIo::new(client), TokioIo::new(upstream), idle).await;
    });
}

/// Carries bytes both ways until both ends have finished, or neither has said anything for `idle`.
pub(super) async fn carry_both(
    one: impl AsyncRead + AsyncWrite + Unpin,
    other: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
) {
    let (one_in, one_out) = split(one);
    let (other_in, other_out) = split(other);
    let last = Cell::new(Instant::now());
    tokio::join!(carry(one_in, other_out, idle, &last), carry(other_in, one_out, idle, &last));
}

/// One way, until it ends or `last`, when either end has said something, is long ago. What is read is written before more is
/// read, so a slow reader holds the writer back.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    idle: Duration,
    last: &Cell<Instant>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = match timeout_at(last.get() + idle, from.read(&mut buffer)).await {
            Ok(Ok(len @ 1..)) => len,
            // The other end goes on speaking: this one listens.
            Err(_) if last.get() + idle > Instant::now() => continue,
            Ok(_) | Err(_) => break,
        };
        last.set(Instant::now());
        // TLS may take bytes that it cannot write at once, and keeps them until it is asked to flush.
        let written = async {
            to.write_all(&buffer[..read]).await?;
            to.flush().await
        };
        if !matches!(timeout(idle, written).await, Ok(Ok(()))) {
            break;
        }
    }
    // The other end may have closed already.
    to.shutdown().await.unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::time::sleep;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn who_only_listens_is_not_taken_for_gone_and_two_who_are_silent_are() {
        let (mut near, one) = duplex(64);
        let (mut far, other) = duplex(64);
        let talk = async {
            for _ in 0..5 {
                sleep(IDLE * 2 / 3).await;
                far.write_all(b"tick").await.unwrap();
                let mut heard = [0; 4];
                near.read_exact(&mut heard).await.unwrap();
            }
            near.write_all(b"bye").await.unwrap();
            let mut heard = [0; 3];
            far.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"bye", "its way is still open");
            let silent = Instant::now();
            assert_eq!(far.read(&mut heard).await.unwrap(), 0);
            silent.elapsed()
        };
        let (silence, ()) = tokio::join!(talk, carry_both(one, other, IDLE));
        assert_eq!(silence, IDLE);
    }
}
