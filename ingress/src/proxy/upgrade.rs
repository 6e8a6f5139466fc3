//! Connections that go over to another protocol: WebSocket and whatever else two ends agree on.

use std::rc::Rc;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::debug;

use super::balance::InFlight;
use super::serve::Alive;

/// The client's half, which is had once the upstream has agreed.
pub(super) struct Upgrade {
    pub(super) protocol: HeaderValue,
    pub(super) client: OnUpgrade,
    /// Holds the end of the worker back for as long as the tunnel lives.
    pub(super) alive: Alive,
}

impl Upgrade {
    pub(super) fn protocol(&self) -> &HeaderValue {
        &self.protocol
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
    tokio::join!(carry(one_in, other_out, idle), carry(other_in, one_out, idle));
}

/// One way. What is read is written before more is read, so a slow reader holds the writer back.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, idle: Duration) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(Ok(len @ 1..)) = timeout(idle, from.read(&mut buffer)).await {
        if !matches!(timeout(idle, to.write_all(&buffer[..len])).await, Ok(Ok(()))) {
            break;
        }
    }
    // The other end may have closed already.
    to.shutdown().await.unwrap_or_default();
}
