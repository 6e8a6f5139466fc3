//! A proxy that does nothing but pass on: hyper's connections on both sides, one upstream, no routes, no log, no headers
//! of its own. What weir-ingress costs above it is what weir-ingress does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Waker, Poll};

use anyhow::{Context, Result};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self as client, SendRequest};
use hyper::header::HOST;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

use super::client::Local;

type Idle = RefCell<Vec<SendRequest<Incoming>>>;

/// Serves on `port` with the certificates in `folder` (`HOST.pem`, key and chain) until the process ends.
pub(super) fn serve(port: u16, upstream: u16, folder: &Path) -> Result<()> {
    let tls = TlsAcceptor::from(Arc::new(config(folder)?));
    let idle: Rc<Idle> = Rc::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.context("listen as the bare proxy")?;
        loop {
            let (stream, _) = listener.accept().await.context("accept as the bare proxy")?;
            stream.set_nodelay(true)?;
            let (tls, idle) = (tls.clone(), Rc::clone(&idle));
            spawn_local(async move {
                // Clients end when they like.
                let Ok(stream) = tls.accept(stream).await else { return };
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = service_fn(|request| pass_on(Rc::clone(&idle), upstream, request));
                let ended = if is_http2 {
                    http2::Builder::new(Local).serve_connection(TokioIo::new(stream), service).await
                } else {
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                };
                drop(ended);
            });
        }
    })
}

async fn pass_on(
    idle: Rc<Idle>,
    upstream: u16,
    mut request: Request<Incoming>,
) -> Result<Response<Passing>, Infallible> {
    if request.version() == Version::HTTP_2 {
        let uri = std::mem::take(request.uri_mut());
        if let Some(host) = uri.authority().and_then(|it| it.as_str().parse().ok()) {
            request.headers_mut().insert(HOST, host);
        }
        *request.uri_mut() = uri.path_and_query().map(|path| Uri::from(path.clone())).unwrap_or_default();
        *request.version_mut() = Version::HTTP_11;
    }
    let mut sender = loop {
        let kept = idle.borrow_mut().pop();
        match kept {
            Some(mut kept) => {
                if kept.ready().await.is_ok() {
                    break kept;
                }
            }
            None => break connect(upstream).await.expect("the upstream of the benchmark takes connections"),
        }
    };
    let response = sender.send_request(request).await.expect("the upstream of the benchmark answers");
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_11;
    let mut passing = Passing { body, sender: Some(sender), idle };
    passing.end_if_over();
    Ok(Response::from_parts(parts, passing))
}

async fn connect(upstream: u16) -> Result<SendRequest<Incoming>> {
    let stream = TcpStream::connect(("127.0.0.1", upstream)).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    Ok(sender)
}

/// A response's body; the connection goes back with its end.
struct Passing {
    body: Incoming,
    sender: Option<SendRequest<Incoming>>,
    idle: Rc<Idle>,
}

impl Passing {
    fn end_if_over(&mut self) {
        if self.body.is_end_stream() {
            self.idle.borrow_mut().extend(self.sender.take());
        }
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Waker<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        this.end_if_over();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Debug)]
struct Certificates(HashMap<String, Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get(hello.server_name()?).cloned()
    }
}

fn config(folder: &Path) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut certificates = HashMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("a file without a name")?;
        let read = || format!("read {}", path.display());
        let chain = vec![CertificateDer::from_pem_file(&path).with_context(read)?];
        let key = PrivateKeyDer::from_pem_file(&path).with_context(read)?;
        let certified = CertifiedKey::from_der(chain, key, &provider).with_context(read)?;
        certificates.insert(name.to_owned(), Arc::new(certified));
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificates(certificates)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(config)
}
