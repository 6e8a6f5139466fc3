//! What is remembered of one request: a line of the access log, and what the metrics count.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode, Uri, Version};
use serde::Serialize;
use tokio::time::Instant;

use super::balance::InFlight;
use super::body::Progress;
use super::limit::Held;
use super::serve::Client;
use super::worker::Worker;

/// Whose fault it was that a request did not get its upstream's answer whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fault {
    /// What it asked is not to be had, or it left.
    Client,
    /// What the objects say cannot be done.
    Config,
    Upstream,
}

/// One request, from its head to the last byte of its answer. Dropping it writes it down.
pub(super) struct Exchange {
    pub(super) worker: Rc<Worker>,
    pub(super) connection: Rc<Client>,
    pub(super) started: Instant,
    pub(super) client: IpAddr,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: String,
    pub(super) version: Version,
    pub(super) tls: bool,
    pub(super) id: HeaderValue,
    pub(super) object: Option<Arc<str>>,
    pub(super) cluster: Option<String>,
    pub(super) in_flight: Option<InFlight>,
    /// Counts as one of its client's requests.
    pub(super) held: Option<Held>,
    /// The endpoint asked last, still known when it is no longer in flight.
    pub(super) upstream: Option<SocketAddr>,
    pub(super) tries: u32,
    pub(super) head_after: Option<Duration>,
    pub(super) status: StatusCode,
    pub(super) fault: Option<(Fault, String)>,
    pub(super) received: Rc<Progress>,
    pub(super) sent: u64,
    /// Set where the client does not take its response.
    pub(super) given_up: Rc<Cell<bool>>,
}

impl Exchange {
    /// The status of a request whose client left before it had one, as nginx writes it.
    pub(super) const UNANSWERED: StatusCode = match StatusCode::from_u16(499) {
        Ok(status) => status,
        Err(_) => StatusCode::BAD_REQUEST,
    };

    pub(super) fn blame(&mut self, fault: Fault, reason: impl Into<String>) {
        // The first reason is the cause, what follows its effects.
        self.fault.get_or_insert_with(|| (fault, reason.into()));
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    client: IpAddr,
    method: &'a str,
    scheme: &'a str,
    host: &'a str,
    path: &'a str,
    protocol: &'a str,
    status: u16,
    received: u64,
    sent: u64,
    ms: f64,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    tries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = Instant::now();
        self.connection.quiet.begins(now);
        let took = now - self.started;
        if self.status == Self::UNANSWERED {
            self.blame(Fault::Client, "the client left before there was an answer");
        }
        let fault = self.fault.as_ref().map(|(fault, _)| *fault);
        self.worker.count(self.object.as_ref(), self.status, fault, took);
        self.worker.log(|out, time| {
            let line = Line {
                time,
                client: self.client,
                method: self.method.as_str(),
                scheme: if self.tls { "https" } else { "http" },
                host: &self.host,
                path: self.uri.path_and_query().map_or(self.uri.path(), |path| path.as_str()),
                protocol: match self.version {
                    Version::HTTP_10 => "HTTP/1.0",
                    Version::HTTP_2 => "HTTP/2",
                    _ => "HTTP/1.1",
                },
                status: self.status.as_u16(),
                received: self.received.bytes.get(),
                sent: self.sent,
                ms: milliseconds(took),
                id: self.id.to_str().unwrap_or_default(),
                object: self.object.as_deref(),
                service: self.cluster.as_deref(),
                upstream: self.upstream,
                upstream_ms: self.head_after.map(milliseconds),
                tries: self.tries,
                fault,
                reason: self.fault.as_ref().map(|(_, reason)| reason.as_str()),
            };
            // Writing to memory does not fail, and such a line has nothing that JSON cannot say.
            serde_json::to_writer(out, &line).unwrap_or_default();
        });
    }
}

/// With three digits: microseconds.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
