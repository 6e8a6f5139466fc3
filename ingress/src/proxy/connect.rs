//! New connections to endpoints.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::body::Upload;
use super::live::{Endpoint, hash};
use super::pool::Sender;
use crate::compile::Protocol;
use crate::tls;

/// A response's head may be so large.
const HEAD_BYTES: usize = 64 << 10;

pub(super) struct Connector {
    /// Without a name: as with nginx, endpoints are known by their addresses.
    any: Identity,
}

/// How an endpoint is known over TLS, and who is asked for there.
#[derive(Debug)]
pub(super) struct Identity {
    /// Connections of one identity are not lent to another.
    pub(super) id: u64,
    name: Option<ServerName<'static>>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Identity {
    /// A server that is asked for by this name, its certificate taken as it comes. None: no name that TLS could say.
    pub(super) fn named(host: &str) -> Option<Self> {
        let name = ServerName::try_from(host.to_owned()).ok()?;
        Some(Self { id: hash(host.as_bytes()).max(1), name: Some(name), ..Self::any() })
    }

    fn any() -> Self {
        let config = |alpn: &[u8]| {
            let mut config = tls::client_config(Arc::new(AnyCertificate));
            config.alpn_protocols = vec![alpn.to_vec()];
            Arc::new(config)
        };
        Self { id: 0, name: None, http1: config(b"http/1.1"), http2: config(b"h2") }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("{0} did not take the connection within {1:?}")]
    TimeOut(SocketAddr, Duration),
    #[error("handshake with {0}")]
    Handshake(SocketAddr, #[source] hyper::Error),
}

impl Connector {
    pub(super) fn new() -> Self {
        Self { any: Identity::any() }
    }

    /// Connects, handshakes included, within `patience`.
    pub(super) async fn connect(&self, endpoint: &Endpoint, patience: Duration) -> Result<Sender, Failure> {
        let (address, protocol) = (endpoint.address, endpoint.protocol);
        let connecting = async {
            let stream =
                TcpStream::connect(address).await.map_err(|error| Failure::Connect(address, error))?;
            stream.set_nodelay(true).map_err(|error| Failure::Connect(address, error))?;
            if !protocol.is_tls() {
                return handshake(address, protocol, stream).await;
            }
            let identity = endpoint.identity.as_deref().unwrap_or(&self.any);
            let config = if protocol.is_http2() { &identity.http2 } else { &identity.http1 };
            let name = identity.name.clone();
            let name = name.unwrap_or_else(|| ServerName::IpAddress(address.ip().into()));
            let stream = TlsConnector::from(Arc::clone(config))
                .connect(name, stream)
                .await
                .map_err(|error| Failure::Connect(address, error))?;
            handshake(address, protocol, stream).await
        };
        timeout(patience, connecting).await.unwrap_or(Err(Failure::TimeOut(address, patience)))
    }
}

async fn handshake<S>(address: SocketAddr, protocol: Protocol, stream: S) -> Result<Sender, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    let failed = |error| Failure::Handshake(address, error);
    if protocol.is_http2() {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder.timer(TokioTimer::new()).adaptive_window(true).max_header_list_size(HEAD_BYTES as u32);
        builder.keep_alive_interval(Duration::from_secs(20)).keep_alive_timeout(Duration::from_secs(10));
        let (sender, connection) = builder.handshake::<_, Upload>(stream).await.map_err(failed)?;
        spawn_local(async move {
            if let Err(error) = connection.await {
                debug!(%address, %error, "upstream connection ended");
            }
        });
        Ok(Sender::Http2(sender))
    } else {
        let mut builder = http1::Builder::new();
        builder.max_header_size(HEAD_BYTES);
        let (sender, connection) = builder.handshake::<_, Upload>(stream).await.map_err(failed)?;
        spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%address, %error, "upstream connection ended");
            }
        });
        Ok(Sender::Http1(sender))
    }
}

/// Runs what hyper wants run on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Endpoints have addresses, not names, and the certificates of pods are their own: taken as they come, as nginx does.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &tls::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
