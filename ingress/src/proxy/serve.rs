//! Connections of clients, and each request on them from its head to a route.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::answer::{self, Download};
use super::body::Progress;
use super::coalesce::coalesce;
use super::filter::{self, Subject};
use super::forward::{self, Passed};
use super::guard;
use super::headers::{self, Origin, Sender};
use super::life::{self, Patience, Quiet};
use super::pages::{self, Kept};
use super::proxy_protocol::{self, Ends};
use super::record::{Exchange, Fault};
use super::request;
use super::secure::{self, Greeted, Shown};
use super::taking::{Streams, Takings};
use super::upgrade::Upgrade;
use super::worker::Worker;
use crate::compile::Action;
use crate::route::{Asked, normal};

/// Streams of one HTTP/2 connection at a time.
const STREAMS: u32 = 128;
/// The worker ends when the last of these is gone.
pub(super) type Alive = mpsc::Sender<()>;

/// One connection, as its requests see it.
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    pub(super) sender: Sender,
    pub(super) tls: bool,
    /// What the client has shown where its host asks for certificates.
    pub(super) shown: Option<Rc<Shown>>,
    pub(super) quiet: Quiet,
    pub(super) takings: Rc<Takings>,
    alive: Alive,
}

/// Takes connections until told to drain.
pub(super) async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    mut drain: watch::Receiver<bool>,
    alive: Alive,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = drain.wait_for(|drain| *drain) => return,
        };
        match accepted.and_then(|(stream, peer)| Ok((stream.local_addr()?, stream, peer))) {
            Ok((local, stream, peer)) => {
                let client = Client {
                    worker: Rc::clone(&worker),
                    sender: Sender::new(peer, local),
                    tls: tls.is_some(),
                    shown: None,
                    quiet: Quiet::new(),
                    takings: Rc::default(),
                    alive: alive.clone(),
                };
                spawn_local(connection(client, stream, tls.clone(), drain.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: others must end first.
                warn!(%error, "connection not accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Counts a connection as open for as long as it lives.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.shared.metrics.opened();
        Self(Rc::clone(worker))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.shared.metrics.closed();
    }
}

async fn connection(
    mut client: Client,
    mut stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    drain: watch::Receiver<bool>,
) {
    let _open = Open::new(&client.worker);
    let peer = client.sender.address;
    if let Err(error) = stream.set_nodelay(true) {
        return debug!(%peer, %error, "connection lost");
    }
    let tuning = &client.worker.shared.tuning;
    let address = peer.ip().to_canonical();
    if tuning.announcing.iter().any(|net| net.contains(&address)) {
        match timeout(tuning.handshake, proxy_protocol::read(&mut stream)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(Ends { client: peer, local }))) => client.sender = Sender::new(peer, local),
            Ok(Err(error)) => return debug!(%peer, %error, "connection closed"),
            Err(_) => return debug!(%peer, "no PROXY header in time"),
        }
    }
    let Some(config) = tls else {
        let mut ends = drain.clone();
        let ended = async {
            // Whoever has connected just now is about to ask. The sender is gone only with the proxy.
            drop(ends.wait_for(|drain| *drain).await);
            sleep(life::FIRST).await;
        };
        let begun = tokio::select! {
            biased;
            begun = speaks_http2(&stream, client.worker.shared.tuning.head) => begun,
            () = ended => None,
        };
        return match begun {
            Some(true) => Box::pin(http2(client.into(), stream, drain)).await,
            Some(false) => Box::pin(http1(client.into(), stream, drain)).await,
            None => debug!(%peer, "connection ended before its first request"),
        };
    };
    // In boxes of their own: a connection does not keep the room that its handshake or another protocol would need.
    let greeted =
        Box::pin(timeout(client.worker.shared.tuning.handshake, secure::greet(&client, stream, &config)))
            .await;
    match greeted {
        Ok(Ok(Greeted::Ours(stream, shown))) => {
            client.shown = shown;
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                Box::pin(http2(client.into(), stream, drain)).await
            } else {
                Box::pin(http1(client.into(), stream, drain)).await
            }
        }
        Ok(Ok(Greeted::Elsewhere(stream, read, passthrough))) => {
            Box::pin(secure::pass(client, stream, read, passthrough)).await
        }
        failed => {
            client.worker.shared.metrics.handshake_failed();
            match failed {
                Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
                _ => debug!(%peer, "TLS handshake not finished in time"),
            }
        }
    }
}

/// Whether a connection in the clear begins as HTTP/2 does with prior knowledge. `None`: it does not begin.
async fn speaks_http2(stream: &TcpStream, patience: Duration) -> Option<bool> {
    // No method of HTTP/1.1 begins so; all of it comes at once, unless somebody takes it apart.
    const BEGIN: &[u8] = b"PRI ";
    let mut pause = Duration::from_millis(5);
    let begun = async {
        loop {
            let mut start = [0; BEGIN.len()];
            match stream.peek(&mut start).await.ok()? {
                0 => return None,
                len if start[..len] != BEGIN[..len] => return Some(false),
                4 => return Some(true),
                _ => {
                    sleep(pause).await;
                    pause = (2 * pause).min(Duration::from_secs(1));
                }
            }
        }
    };
    timeout(patience, begun).await.ok().flatten()
}

async fn http1<S>(client: Rc<Client>, stream: S, drain: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tuning = &client.worker.shared.tuning;
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(tuning.head_bytes)
        .max_buf_size(tuning.head_bytes.max(64 << 10))
        .half_close(false);
    // Boxed where it is made: hyper moves it about, and it is large.
    let service = service_fn(|request| Box::pin(answer(Rc::clone(&client), request)));
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    client.quiet.begins(Instant::now());
    let end = |connection: Pin<&mut http1::UpgradeableConnection<_, _>>| connection.graceful_shutdown();
    let nothing = |_: &mut Context<'_>| Poll::Ready(Ok(()));
    let quiet = Some((&client.quiet, tuning.head));
    let patience = Patience { quiet, takings: &client.takings, take: tuning.take, ends: true };
    let ended = life::follow(connection, patience, drain, end, nothing).await;
    if let Err(error) = ended {
        debug!(peer = %client.sender.address, %error, "connection ended");
    }
}

async fn http2<S>(client: Rc<Client>, stream: S, drain: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let tuning = &client.worker.shared.tuning;
    let mut builder = http2::Builder::new(Streams(Rc::clone(&client.takings)));
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(tuning.head_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(tuning.head)
        .keep_alive_timeout(tuning.handshake);
    let service = service_fn(|request| Box::pin(answer(Rc::clone(&client), request)));
    let (stream, turn) = coalesce(stream);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let end = |connection: Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
    let patience = Patience { quiet: None, takings: &client.takings, take: tuning.take, ends: false };
    let ended = life::follow(connection, patience, drain, end, |cx| turn.over(cx)).await;
    if let Err(error) = ended {
        debug!(peer = %client.sender.address, %error, "connection ended");
    }
}

async fn answer(
    client: Rc<Client>,
    mut request: Request<Incoming>,
) -> Result<Response<Download>, Infallible> {
    client.quiet.ends();
    let worker = &client.worker;
    let upgrade = Upgrade::asked(&mut request, &client.alive);
    let (mut parts, body) = request.into_parts();
    let tuning = &worker.shared.tuning;
    let origin = Origin::new(client.sender.address.ip(), client.tls, &tuning.trusted, &parts.headers);
    let id = match headers::request_id(&parts.headers) {
        Some(id) => id.clone(),
        None => headers::new_request_id([worker.chance(), worker.chance()]),
    };
    let mut exchange = Exchange {
        worker: Rc::clone(worker),
        started: Instant::now(),
        connection: Rc::clone(&client),
        client: origin.client,
        method: parts.method.clone(),
        uri: parts.uri.clone(),
        host: String::new(),
        version: parts.version,
        tls: client.tls,
        id,
        object: None,
        cluster: None,
        in_flight: None,
        held: None,
        upstream: None,
        tries: 0,
        head_after: None,
        status: Exchange::UNANSWERED,
        fault: None,
        received: Progress::new(),
        sent: 0,
        given_up: client.takings.stream(),
    };
    let host = match request::check(&parts) {
        Ok(host) => host,
        Err(refusal) => {
            // What follows on the connection may not be what it seems.
            let mut response = answer::fault(exchange, refusal.status, Fault::Client, refusal.reason);
            answer::close(&mut response, parts.version);
            return Ok(response);
        }
    };
    exchange.host.clone_from(&host);
    let Some(path) = normal(parts.uri.path()) else {
        let reason = "its path leads above the root, or has an escape that is none";
        return Ok(answer::fault(exchange, StatusCode::BAD_REQUEST, Fault::Client, reason));
    };
    let snapshot = worker.snapshot();
    let asked = Asked {
        host: &host,
        path: &path,
        query: parts.uri.query(),
        method: &parts.method,
        headers: &parts.headers,
    };
    let Some(route) = snapshot.table.find(&asked).map(Arc::clone) else {
        return Ok(answer::fault(exchange, StatusCode::NOT_FOUND, Fault::Client, "no rule matches it"));
    };
    exchange.object = Some(Arc::clone(&route.object));
    if client.tls
        && let Err(refusal) = secure::admit(&client, &snapshot, &host, &route)
    {
        return Ok(answer::refusal(exchange, refusal));
    }
    // Before anybody is asked about it: what clients say of certificates themselves is nobody's to believe.
    secure::write(&client, &snapshot, &mut parts.headers);
    let subject = Subject {
        method: &parts.method,
        uri: &parts.uri,
        path: &path,
        host: &host,
        headers: &parts.headers,
        origin: &origin,
        https_port: tuning.https_port,
        id: exchange.id.to_str().unwrap_or_default(),
    };
    let mut effects = match filter::run(&route.filters, &subject) {
        Ok(effects) => effects,
        Err(reply) => {
            exchange.fault = reply.fault;
            let mut response = answer::own(exchange, reply.status);
            response.headers_mut().extend(reply.headers);
            return Ok(response);
        }
    };
    if !client.tls
        && let Err(refusal) = secure::admit_clear(&snapshot, &host, &path, &route)
    {
        return Ok(answer::refusal(exchange, refusal));
    }
    Ok(match &route.action {
        Action::Refuse { status, why } => answer::fault(exchange, *status, Fault::Config, why.clone()),
        Action::Forward(shares) => {
            let kept = route.pages.as_deref().map(|pages| {
                (
                    pages,
                    Kept::new(
                        pages,
                        &parts.method,
                        &parts.uri,
                        &parts.headers,
                        exchange.id.to_str().unwrap_or_default(),
                    ),
                )
            });
            if let Some(guard) = &route.guard {
                // Boxed, as the rest that few routes have: no other request carries the room for it.
                match Box::pin(guard::pass(guard, &subject, worker, &snapshot, &route.limits)).await {
                    Ok(admitted) => {
                        exchange.held = admitted.held;
                        effects.request.extend(admitted.request);
                        effects.cookies = admitted.cookies;
                        effects.cookies_always =
                            guard.external.as_ref().is_some_and(|external| external.always_set_cookie);
                    }
                    Err(reply) => {
                        exchange.fault = reply.fault;
                        let mut response = answer::own(exchange, reply.status);
                        response.headers_mut().extend(effects.response.into_iter().chain(reply.headers));
                        return Ok(match kept {
                            Some((pages, kept)) => {
                                let worker = &client.worker;
                                Box::pin(pages::instead(
                                    response,
                                    pages,
                                    kept,
                                    worker,
                                    &snapshot,
                                    &route.limits,
                                ))
                                .await
                            }
                            None => response,
                        });
                    }
                }
            }
            drop(path);
            let passed = Passed { parts, body, upgrade, origin, client: Rc::clone(&client), effects };
            let response = forward::forward(exchange, &snapshot, &route, shares, passed).await;
            match kept {
                Some((pages, kept)) => {
                    let worker = &client.worker;
                    Box::pin(pages::instead(response, pages, kept, worker, &snapshot, &route.limits)).await
                }
                None => response,
            }
        }
    })
}
