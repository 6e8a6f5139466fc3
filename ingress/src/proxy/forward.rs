//! A request on its way to an endpoint, and the response back.
//!
//! Tried again is what cannot have been acted upon: a connection that was not made, a request of which nothing was sent,
//! and a request that may be repeated (RFC 9110 §9.2.2) on a kept connection that turned out to be closed.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::TrySendError;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Request, Response, StatusCode, Uri, Version};
use tokio::time::timeout;

use super::answer::{self, Download, Lent};
use super::ask;
use super::balance::{InFlight, pick};
use super::body::{Progress, Sent, Upload};
use super::connect::Failure;
use super::filter::Effects;
use super::guard;
use super::headers::{self, Origin};
use super::live::{Endpoint, LiveCluster, Snapshot};
use super::pool::Sender;
use super::record::{Exchange, Fault};
use super::serve::Client;
use super::upgrade::{self, Upgrade};
use super::worker::Worker;
use crate::compile::{Affinity, Route, Share};
use crate::route::cookie;

/// So often a request is given to somebody.
const MOST_TRIES: u32 = 4;

/// A request, its route found and its filters passed.
pub(super) struct Passed {
    pub(super) parts: Parts,
    pub(super) body: Incoming,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) origin: Origin,
    pub(super) client: Rc<Client>,
    pub(super) effects: Effects,
}

pub(super) async fn forward(
    mut exchange: Exchange,
    snapshot: &Snapshot,
    route: &Route,
    shares: &[Share],
    passed: Passed,
) -> Response<Download> {
    let worker = Rc::clone(&exchange.worker);
    let Some(cluster) = draw(shares, worker.chance()).and_then(|share| snapshot.clusters.get(share.cluster))
    else {
        return answer::fault(
            exchange,
            StatusCode::SERVICE_UNAVAILABLE,
            Fault::Config,
            "no share has a weight",
        );
    };
    exchange.cluster = Some(cluster.name.clone());
    let limit = route.limits.body;
    let announced = passed.body.size_hint().lower();
    if limit.is_some_and(|limit| announced > limit) {
        let reason = format!("a body of {announced} bytes, longer than allowed");
        return answer::fault(exchange, StatusCode::PAYLOAD_TOO_LARGE, Fault::Client, reason);
    }
    let wanted = route.affinity.as_ref().and_then(|it| marked(it, cluster, &passed.parts.headers));
    let Passed { parts, body, upgrade, origin, client, mut effects } = passed;
    let by_connect = upgrade.as_ref().is_some_and(Upgrade::is_stream);
    let upgrade = upgrade.filter(|_| !cluster.protocol.is_http2());
    if by_connect && upgrade.is_none() {
        let reason = "WebSocket with an upstream of HTTP/2, which is not supported";
        return answer::fault(exchange, StatusCode::NOT_IMPLEMENTED, Fault::Config, reason);
    }
    let progress = Rc::clone(&exchange.received);
    let upload = Upload::new(body, limit, route.limits.send, Rc::clone(&progress));
    let retries = route.retries.as_deref();
    let any_method = retries.is_some_and(|retries| retries.any_method);
    let repeatable = (parts.method.is_idempotent() || any_method) && upload.is_none() && upgrade.is_none();
    let choice = effects.choice;
    let (sender, id, upgraded) = (&client.sender, &exchange.id, upgrade.as_ref());
    let head = Head { origin, sender, id, upgrade: upgraded, worker: &worker };
    let mut request = match head.request(parts, upload, &mut effects, cluster) {
        Ok(request) => request,
        Err(reason) => return answer::fault(exchange, StatusCode::BAD_REQUEST, Fault::Client, reason),
    };

    let resolved;
    let endpoints: &[Arc<Endpoint>] = match &cluster.external {
        None => &cluster.endpoints,
        Some(_) => match Box::pin(ask::external(&worker, cluster)).await {
            Ok(found) => {
                resolved = found;
                &resolved
            }
            Err(reason) => {
                return answer::fault(exchange, StatusCode::BAD_GATEWAY, Fault::Upstream, reason);
            }
        },
    };
    worker.earn_retries();
    let began_at = exchange.started;
    // Whether somebody else may be asked after what has befallen the request.
    let next = |exchange: &Exchange, tried: &[Arc<Endpoint>]| {
        let left = tried.len() < endpoints.len();
        let allowed = retries.is_none_or(|it| {
            !it.off
                && it.tries.is_none_or(|most| exchange.tries < most)
                && it.within.is_none_or(|within| began_at.elapsed() < within)
        });
        left && allowed
    };
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let (endpoint, sender, response) = loop {
        let endpoint = wanted.as_ref().filter(|it| !tried.iter().any(|tried| Arc::ptr_eq(tried, it)));
        let Some(endpoint) = endpoint.or_else(|| pick(endpoints, &tried, choice, &mut || worker.chance()))
        else {
            let reason = cluster.empty.clone().unwrap_or_else(|| "every endpoint was tried".into());
            return answer::fault(exchange, StatusCode::SERVICE_UNAVAILABLE, Fault::Upstream, reason);
        };
        exchange.tries += 1;
        exchange.upstream = Some(endpoint.address);
        exchange.in_flight = Some(InFlight::new(Arc::clone(endpoint)));
        let may_retry = |exchange: &Exchange| {
            let may = exchange.tries < MOST_TRIES && worker.may_retry();
            if may {
                worker.shared.metrics.retried();
            }
            may
        };
        let (mut sender, kept) = match lend(&exchange, endpoint, route.limits.connect).await {
            Ok(lent) => lent,
            Err(failure) => {
                endpoint.load.failed();
                tried.push(Arc::clone(endpoint));
                if next(&exchange, &tried) && may_retry(&exchange) {
                    continue;
                }
                let status = match failure {
                    Failure::TimeOut(..) => StatusCode::GATEWAY_TIMEOUT,
                    Failure::Connect(..) | Failure::Handshake(..) => StatusCode::BAD_GATEWAY,
                };
                return answer::fault(exchange, status, Fault::Upstream, chain(&failure));
            }
        };
        let again = (repeatable && (kept || retries.is_some())).then(|| copy(&request, &progress));
        let began = Instant::now();
        match head_of(sender.send(request), route.limits.read, &progress).await {
            None => {
                endpoint.load.misbehaved(endpoints);
                tried.push(Arc::clone(endpoint));
                if let Some(again) = again.filter(|_| retries.is_some_and(|it| it.timeout))
                    && next(&exchange, &tried)
                    && may_retry(&exchange)
                {
                    request = again;
                    continue;
                }
                let reason = format!("no response within {:?}", route.limits.read);
                return answer::fault(exchange, StatusCode::GATEWAY_TIMEOUT, Fault::Upstream, reason);
            }
            Some(Ok(response)) => {
                let after = began.elapsed();
                endpoint.load.answered(after);
                match response.status().as_u16() {
                    502..=504 => endpoint.load.misbehaved(endpoints),
                    _ => endpoint.load.behaved(),
                }
                if let Some(again) =
                    again.filter(|_| retries.is_some_and(|it| it.statuses.contains(&response.status())))
                {
                    tried.push(Arc::clone(endpoint));
                    if next(&exchange, &tried) && may_retry(&exchange) {
                        request = again;
                        continue;
                    }
                }
                exchange.head_after = Some(after);
                break (Arc::clone(endpoint), sender, response);
            }
            Some(Err(mut error)) => {
                let unsent = error.take_message();
                let mut again = again.filter(|_| kept || retries.is_some_and(|it| it.error));
                let by_client = matches!(progress.sent.get(), Sent::TooLarge | Sent::Slow | Sent::Broken);
                // On a new connection it is the endpoint's own doing.
                if unsent.is_none() && !kept && !by_client {
                    endpoint.load.misbehaved(endpoints);
                    tried.push(Arc::clone(endpoint));
                    again = again.filter(|_| next(&exchange, &tried));
                }
                let unsent = unsent.or(again);
                match unsent {
                    Some(unsent) if may_retry(&exchange) => request = unsent,
                    _ => return broken(exchange, progress.sent.get(), error),
                }
            }
        }
    };
    let lent = Lent { key: endpoint.key(), sender, progress };
    answer_with(exchange, route, &endpoint, wanted.is_some(), response, lent, upgrade, effects)
}

/// Draws one by weight.
fn draw(shares: &[Share], chance: u64) -> Option<&Share> {
    if let [only] = shares {
        return Some(only);
    }
    let sum: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    let mut drawn = chance.checked_rem(sum)?;
    shares.iter().find(|share| match drawn.checked_sub(share.weight.into()) {
        Some(rest) => {
            drawn = rest;
            false
        }
        None => true,
    })
}

/// The endpoint that the client's cookie names, if it still serves.
fn marked(affinity: &Affinity, cluster: &LiveCluster, headers: &HeaderMap) -> Option<Arc<Endpoint>> {
    let mark = u64::from_str_radix(cookie(headers, &affinity.cookie)?, 16).ok()?;
    cluster.endpoints.iter().chain(&cluster.draining).find(|endpoint| endpoint.mark == mark).cloned()
}

/// A kept connection or a new one, and whether it was kept.
async fn lend(
    exchange: &Exchange,
    endpoint: &Endpoint,
    patience: Duration,
) -> Result<(Sender, bool), Failure> {
    let worker = &exchange.worker;
    let key = endpoint.key();
    // One that was closed under us means that others may be, too.
    if exchange.tries < MOST_TRIES - 1
        && let Some(sender) = worker.pool.take(key).await
    {
        return Ok((sender, true));
    }
    // Boxed: no request that gets a kept connection shall carry the room for a handshake.
    let connected = Box::pin(worker.connector.connect(endpoint, patience)).await;
    match &connected {
        Ok(sender) => {
            worker.shared.metrics.connected();
            worker.pool.share(key, sender);
        }
        Err(_) => worker.shared.metrics.not_connected(),
    }
    Ok((connected?, false))
}

/// Waits for the response's head: as long as the body still moves, and then for `patience`.
async fn head_of<T>(sending: impl Future<Output = T>, patience: Duration, progress: &Progress) -> Option<T> {
    let mut sending = std::pin::pin!(sending);
    let mut seen = (progress.bytes.get(), progress.sent.get());
    loop {
        if let Ok(done) = timeout(patience, &mut sending).await {
            return Some(done);
        }
        let now = (progress.bytes.get(), progress.sent.get());
        if now == seen {
            return None;
        }
        seen = now;
    }
}

fn broken(exchange: Exchange, sent: Sent, error: TrySendError<Request<Upload>>) -> Response<Download> {
    let (status, fault, reason) = match sent {
        Sent::TooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, Fault::Client, "its body is longer than allowed".to_owned())
        }
        Sent::Slow => {
            (StatusCode::REQUEST_TIMEOUT, Fault::Client, "it paused in its body for too long".to_owned())
        }
        Sent::Broken => (StatusCode::BAD_REQUEST, Fault::Client, "its body broke off".to_owned()),
        Sent::NotYet | Sent::Some | Sent::All => {
            let reason = format!("no response: {}", chain(&error.into_error()));
            (StatusCode::BAD_GATEWAY, Fault::Upstream, reason)
        }
    };
    answer::fault(exchange, status, fault, reason)
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// What the head of the upstream's request says beside what the client said.
struct Head<'a> {
    origin: Origin,
    sender: &'a headers::Sender,
    id: &'a HeaderValue,
    upgrade: Option<&'a Upgrade>,
    worker: &'a Worker,
}

impl Head<'_> {
    fn request(
        &self,
        mut parts: Parts,
        upload: Upload,
        effects: &mut Effects,
        cluster: &LiveCluster,
    ) -> Result<Request<Upload>, String> {
        let protocol = cluster.protocol;
        let authority = parts.uri.authority().and_then(|it| HeaderValue::from_str(it.as_str()).ok());
        let asked = authority.or_else(|| parts.headers.get(header::HOST).cloned());
        let asked = asked.unwrap_or_else(|| HeaderValue::from_static("localhost"));
        let host = effects.host.take().unwrap_or_else(|| asked.clone());

        let trailers = headers::strip_hop_by_hop(&mut parts.headers);
        // Whoever reads the body has said "100 Continue" by then.
        parts.headers.remove(header::EXPECT);
        self.origin.write(&mut parts.headers, self.sender, &asked);
        parts.headers.insert(headers::X_REQUEST_ID, self.id.clone());
        headers::join_cookies(&mut parts.headers);
        if !effects.request.is_empty() {
            guard::write(std::mem::take(&mut effects.request), &mut parts.headers);
        }
        if trailers {
            parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if let Some(upgrade) = self.upgrade {
            upgrade.ask(&mut parts.headers, [self.worker.chance(), self.worker.chance()]);
        }
        let path = path_and_query(&parts.uri, effects.path.take())?;
        let mut uri = Uri::builder().path_and_query(path);
        if protocol.is_http2() {
            parts.headers.remove(header::HOST);
            let scheme = if protocol.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
            uri = uri.scheme(scheme).authority(host.as_bytes());
            parts.version = Version::HTTP_2;
        } else {
            if trailers {
                parts.headers.append(header::CONNECTION, HeaderValue::from_static("te"));
            }
            parts.headers.insert(header::HOST, host);
            parts.version = Version::HTTP_11;
        }
        parts.uri = uri.build().map_err(|error| format!("it makes no URI: {error}"))?;
        Ok(Request::from_parts(parts, upload))
    }
}

/// A rewritten path keeps the request's query.
fn path_and_query(uri: &Uri, rewritten: Option<String>) -> Result<PathAndQuery, String> {
    let Some(mut path) = rewritten else {
        return Ok(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    };
    if let Some(query) = uri.query() {
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(query);
    }
    PathAndQuery::try_from(&path).map_err(|error| format!("rewritten to {path:?}, which is no path: {error}"))
}

fn copy(request: &Request<Upload>, progress: &Rc<Progress>) -> Request<Upload> {
    let mut copy = Request::new(Upload::none(Rc::clone(progress)));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}

#[expect(clippy::too_many_arguments, reason = "the two halves of one exchange, told once")]
fn answer_with(
    mut exchange: Exchange,
    route: &Route,
    endpoint: &Endpoint,
    known: bool,
    mut response: Response<Incoming>,
    lent: Lent,
    upgrade: Option<Upgrade>,
    effects: Effects,
) -> Response<Download> {
    exchange.status = response.status();
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let tunnel = match (switched, upgrade) {
        (true, Some(upgrade)) => Some((upgrade, hyper::upgrade::on(&mut response))),
        (true, None) => {
            let reason = "it switched protocols without being asked to";
            return answer::fault(exchange, StatusCode::BAD_GATEWAY, Fault::Upstream, reason);
        }
        (false, Some(upgrade)) if upgrade.is_misled_by(response.status()) => {
            let reason = format!("it answered {} where WebSocket was asked for", response.status());
            return answer::fault(exchange, StatusCode::BAD_GATEWAY, Fault::Upstream, reason);
        }
        (false, _) => None,
    };
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    for (name, value) in effects.response {
        if name == header::VARY {
            parts.headers.append(name, value);
        } else {
            parts.headers.insert(name, value);
        }
    }
    if let (Some(affinity), false) = (&route.affinity, known) {
        let cookie = format!("{}={:x}{}", affinity.cookie, endpoint.mark, affinity.attributes);
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            parts.headers.append(header::SET_COOKIE, cookie);
        }
    }
    let sets = effects.cookies_always || answer::takes_cookies(parts.status);
    for cookie in effects.cookies.into_iter().filter(|_| sets) {
        parts.headers.append(header::SET_COOKIE, cookie);
    }
    parts.version = Version::HTTP_11;
    let lent = match tunnel {
        Some((client, upstream)) => {
            client.agree(&mut parts.status, &mut parts.headers, protocol);
            upgrade::tunnel(client, upstream, exchange.in_flight.take(), route.limits.read);
            None
        }
        None => Some(lent),
    };
    Response::from_parts(parts, Download::upstream(body, route.limits.read, lent, exchange))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_drawn_by_weight() {
        let shares = [
            Share { weight: 90, cluster: 0 },
            Share { weight: 0, cluster: 1 },
            Share { weight: 10, cluster: 2 },
        ];
        let mut counts = [0; 3];
        (0..1_000).for_each(|chance| counts[draw(&shares, chance).unwrap().cluster] += 1);
        assert_eq!(counts, [900, 0, 100]);
        assert!(draw(&[Share { weight: 0, cluster: 0 }; 2], 5).is_none());
        assert!(draw(&[], 5).is_none());
    }

    #[test]
    fn a_rewritten_path_keeps_the_query() {
        let made = |uri: &str, path: Option<&str>| {
            path_and_query(&uri.parse().unwrap(), path.map(str::to_owned)).unwrap().to_string()
        };
        assert_eq!(made("/a?b=c", None), "/a?b=c");
        assert_eq!(made("/a?b=c", Some("/x")), "/x?b=c");
        assert_eq!(made("/a?b=c", Some("/x?y=z")), "/x?y=z&b=c");
        assert_eq!(made("/a", Some("/x")), "/x");
    }
}
