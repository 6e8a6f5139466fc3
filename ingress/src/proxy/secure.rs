//! TLS with clients: the set-up of the host that they ask for, or none where the host's endpoints end it themselves.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::HeaderMap;
use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::ask;
use super::balance::{Choice, InFlight, pick};
use super::live::{Endpoint, Snapshot};
use super::serve::Client;
use super::upgrade;
use crate::compile::{Filter, Passthrough, Route};
use crate::tls::{self, Identity, Refusal, Setup};

/// No greeting of TLS is longer: one record, and what its post-quantum key shares and tickets take is a tenth of it.
const MOST_HELLO: usize = 32 << 10;
/// Endpoints that a connection is given to, one after the other, until one takes it.
const MOST_TRIES: usize = 3;

/// A client of a host that asks for certificates.
#[derive(Debug)]
pub(super) struct Shown {
    setup: Arc<Setup>,
    identity: Identity,
}

/// Why a handshake did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the connection broke off")]
    Broken(#[source] io::Error),
    #[error("no greeting of TLS")]
    Hello(#[source] rustls::Error),
    #[error("a greeting longer than {MOST_HELLO} bytes")]
    Long,
}

/// What has become of a connection.
pub(super) enum Greeted {
    Ours(Box<TlsStream<TcpStream>>, Option<Rc<Shown>>),
    /// Its bytes, and where they go.
    Elsewhere(TcpStream, Vec<u8>, Passthrough),
}

/// Reads the client's greeting and answers it, unless its host is an endpoint's own.
pub(super) async fn greet(
    client: &Client,
    mut stream: TcpStream,
    common: &Arc<ServerConfig>,
) -> Result<Greeted, Error> {
    let (accepted, read) = hello(&mut stream).await?;
    let snapshot = client.worker.shared.snapshot.load_full();
    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
    let name = name.as_deref().unwrap_or_default();
    if let Some(passthrough) = snapshot.passthrough.find(name) {
        return Ok(Greeted::Elsewhere(stream, read, passthrough.clone()));
    }
    drop(read);
    let setup = snapshot.setups.find(name).cloned().flatten();
    drop(snapshot);
    let config = setup.as_ref().and_then(|setup| setup.config()).unwrap_or(common);
    let handshake = StartHandshake::from_parts(accepted, stream).into_stream(Arc::clone(config));
    let stream = handshake.await.map_err(Error::Broken)?;
    let shown = setup.map(|setup| {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Rc::new(Shown { identity: setup.judge(chain), setup })
    });
    Ok(Greeted::Ours(Box::new(stream), shown))
}

/// The greeting, understood and as it came.
async fn hello(stream: &mut TcpStream) -> Result<(Accepted, Vec<u8>), Error> {
    let mut acceptor = Acceptor::default();
    let mut read = Vec::new();
    loop {
        stream.readable().await.map_err(Error::Broken)?;
        // On the stack, and not across an await: an idle connection shall not keep it.
        let mut buffer = [0; 4096];
        let len = match stream.try_read(&mut buffer) {
            Ok(0) => return Err(Error::Broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(Error::Broken(error)),
        };
        let mut bytes = &buffer[..len];
        read.extend_from_slice(bytes);
        while !bytes.is_empty() {
            acceptor.read_tls(&mut bytes).map_err(Error::Broken)?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok((accepted, read)),
            Ok(None) if read.len() > MOST_HELLO => return Err(Error::Long),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                // Writing to memory does not fail, and who sends nonsense may not be there any more.
                alert.write_all(&mut bytes).unwrap_or_default();
                drop(stream.write_all(&bytes).await);
                return Err(Error::Hello(error));
            }
        }
    }
}

/// Carries a connection as it comes to an endpoint that speaks TLS itself.
pub(super) async fn pass(client: Client, mut stream: TcpStream, read: Vec<u8>, passthrough: Passthrough) {
    let worker = &client.worker;
    let peer = client.sender.address;
    let Passthrough { object, cluster, sources, limits } = &passthrough;
    let address = peer.ip().to_canonical();
    let has = |list: &[ipnet::IpNet]| list.iter().any(|net| net.contains(&address));
    let kept_out = sources.iter().any(|filter| match filter {
        Filter::AllowSources(list) => !has(list),
        Filter::DenySources(list) => has(list),
        _ => false,
    });
    if kept_out {
        return debug!(%peer, %object, "not among the sources that may come");
    }
    let snapshot = worker.shared.snapshot.load_full();
    let Some(cluster) = snapshot.clusters.get(*cluster) else { return };
    let resolved;
    let endpoints: &[Arc<Endpoint>] = match &cluster.external {
        None => &cluster.endpoints,
        Some(_) => match ask::external(worker, cluster).await {
            Ok(found) => {
                resolved = found;
                &resolved
            }
            Err(why) => return debug!(%peer, %object, cluster = cluster.name, why, "no endpoint is known"),
        },
    };
    let mut tried = Vec::new();
    let mut upstream = loop {
        let endpoint = match pick(endpoints, &tried, Choice::Latency, &mut || worker.chance()) {
            Some(endpoint) if tried.len() < MOST_TRIES => Arc::clone(endpoint),
            _ => return debug!(%peer, %object, cluster = cluster.name, "no endpoint takes the connection"),
        };
        let in_flight = InFlight::new(Arc::clone(&endpoint));
        match timeout(limits.connect, TcpStream::connect(endpoint.address)).await {
            Ok(Ok(stream)) => {
                worker.shared.metrics.connected();
                break (stream, in_flight);
            }
            _ => {
                worker.shared.metrics.not_connected();
                endpoint.load.failed();
                tried.push(endpoint);
            }
        }
    };
    drop(snapshot);
    let greeted = async {
        upstream.0.set_nodelay(true)?;
        upstream.0.write_all(&read).await
    };
    match timeout(limits.send, greeted).await {
        Ok(Ok(())) => upgrade::carry_both(&mut stream, &mut upstream.0, limits.read).await,
        _ => debug!(%peer, %object, "the endpoint did not take the greeting"),
    }
}

/// Whether the client may ask this of this host, as far as certificates go. In the clear it is asked after the filters: one
/// of them may send the request to TLS.
pub(super) fn admit(client: &Client, snapshot: &Snapshot, host: &str, route: &Route) -> Result<(), Refusal> {
    let expected = snapshot.setups.find(host).and_then(Option::as_ref);
    let shown = client.shown.as_ref();
    match (expected, shown) {
        (None, None) => {}
        (Some(expected), Some(shown)) if Arc::ptr_eq(expected, &shown.setup) => {}
        _ => {
            let reason =
                "in TLS its host asks other things of clients than the name that the connection was made for";
            return refuse(StatusCode::MISDIRECTED_REQUEST, reason);
        }
    }
    let own = route.client_auth.as_ref();
    if own.is_some_and(|own| expected.is_none_or(|expected| expected.auth() != &**own)) {
        let reason = "its object asks for other client certificates than its host does";
        return refuse(StatusCode::FORBIDDEN, reason);
    }
    shown.and_then(|shown| shown.identity.refusal.clone()).map_or(Ok(()), Err)
}

/// The same for what came in the clear, where nobody can show a certificate.
pub(super) fn admit_clear(snapshot: &Snapshot, host: &str, path: &str, route: &Route) -> Result<(), Refusal> {
    let own = route.client_auth.is_some();
    let asks = own || snapshot.setups.find(host).is_some_and(Option::is_some);
    // Who hands out the host's certificates asks in the clear, and another object answers.
    if asks && (own || !path.starts_with(super::filter::CHALLENGE)) {
        let reason = "its host asks for client certificates, which are shown in TLS only";
        return refuse(StatusCode::FORBIDDEN, reason);
    }
    Ok(())
}

fn refuse(status: StatusCode, reason: &str) -> Result<(), Refusal> {
    Err(Refusal { status, location: None, reason: reason.to_owned() })
}

/// What the upstream learns of the client's certificate. What clients say of that themselves is taken out.
pub(super) fn write(client: &Client, snapshot: &Snapshot, headers: &mut HeaderMap) {
    if snapshot.setups.is_empty() {
        return;
    }
    for name in tls::HEADERS {
        headers.remove(name);
    }
    if let Some(shown) = &client.shown {
        headers.extend(shown.identity.headers.iter().cloned());
    }
}
