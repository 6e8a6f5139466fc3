//! HTTP/2 on either side or both, with trailers as gRPC needs them.

mod edge;

use std::array::IntoIter;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use edge::local::{Local, block_on};
use edge::tls::{Certificate, certificate, secret};
use edge::{Edge, Upstream, everything, ingress_with, service};
use futures_util::stream::{self, Iter};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ingress::proxy::Tuning;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// An upstream of HTTP/2 that echoes the body and ends with a trailer that says how long it was.
struct Grpc {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _end: oneshot::Sender<()>,
}

impl Grpc {
    fn new(tls: Option<ServerConfig>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let (end, ended) = oneshot::channel();
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let serving = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        counted.fetch_add(1, SeqCst);
                        let tls = tls.clone();
                        spawn_local(async move {
                            let builder = hyper::server::conn::http2::Builder::new(Local);
                            // The proxy may leave at any time.
                            drop(match tls {
                                None => {
                                    builder.serve_connection(TokioIo::new(stream), service_fn(echo)).await
                                }
                                Some(tls) => {
                                    let stream = tls.accept(stream).await.unwrap();
                                    builder.serve_connection(TokioIo::new(stream), service_fn(echo)).await
                                }
                            });
                        });
                    }
                };
                tokio::select! {
                    () = serving => {}
                    _ = ended => {}
                }
            });
        });
        Self { address, connections, _end: end }
    }
}

type Frames = StreamBody<Iter<IntoIter<Result<Frame<Bytes>, Infallible>, 2>>>;

async fn echo(request: Request<Incoming>) -> Result<Response<Frames>, Infallible> {
    let te = request.headers().get("te").cloned();
    let path = request.uri().to_string();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-length", HeaderValue::from(body.len()));
    let frames = [Frame::data(body), Frame::trailers(trailers)].map(Ok);
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("x-uri", HeaderValue::from_str(&path).unwrap());
    if let Some(te) = te {
        response.headers_mut().insert("x-te", te);
    }
    Ok(response)
}

/// Objects that serve `a.b` over TLS with this certificate.
fn over_tls(certificate: &Certificate, annotations: &[(&str, &str)], upstream: SocketAddr) -> String {
    service("web", &[upstream])
        + &ingress_with(
            "all",
            annotations,
            &["a.b Prefix / web"],
            "tls: [{ hosts: [a.b], secretName: one }],",
        )
        + &secret("one", &certificate.chain, &certificate.key)
}

/// A connection of HTTP/2 to the proxy, agreed on in the handshake.
async fn connect(edge: &Edge, certificate: &Certificate) -> SendRequest<Full<Bytes>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.root.clone()).unwrap();
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(edge.https).await.unwrap();
    let name = ServerName::try_from("a.b").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = http2::handshake(Local, TokioIo::new(stream)).await.unwrap();
    spawn_local(async move { drop(connection.await) });
    sender
}

fn request(path: &str, body: &'static str) -> Request<Full<Bytes>> {
    let uri = format!("https://a.b{path}");
    Request::post(uri).header("te", "trailers").body(Full::new(Bytes::from(body))).unwrap()
}

#[test]
fn a_client_of_http_2_is_served_by_an_upstream_of_http_1() {
    let web = Upstream::named("web");
    let one = certificate(&["a.b"]);
    let edge = Edge::new(&over_tls(&one, &[], web.address));
    block_on(async {
        let mut sender = connect(&edge, &one).await;
        let mut asked = request("/x?y", "body");
        asked.headers_mut().append("cookie", HeaderValue::from_static("a=1"));
        asked.headers_mut().append("cookie", HeaderValue::from_static("b=2"));
        let response = sender.send_request(asked).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "web: POST /x?y HTTP/1.1 +4\n");
    });
    let seen = &web.seen()[0];
    assert_eq!(seen.header("host"), Some("a.b"));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(edge.logged("/x?y")[0]["protocol"], "HTTP/2");
}

#[track_caller]
fn grpc(upstream: &Grpc, protocol: &str, scheme: &'static str) {
    let one = certificate(&["a.b"]);
    let edge = Edge::new(&over_tls(&one, &[("backend-protocol", protocol)], upstream.address));
    block_on(async {
        let sender = Rc::new(connect(&edge, &one).await);
        let calls: Vec<_> = (0..40)
            .map(|count| {
                let mut sender = SendRequest::clone(&sender);
                spawn_local(async move {
                    let response =
                        sender.send_request(request(&format!("/svc/{count}"), "hello")).await.unwrap();
                    assert_eq!(response.headers()["x-uri"], format!("{scheme}://a.b/svc/{count}"));
                    assert_eq!(response.headers()["x-te"], "trailers");
                    let whole = response.into_body().collect().await.unwrap();
                    assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
                    assert_eq!(whole.trailers().unwrap()["x-length"], "5");
                    assert_eq!(whole.to_bytes(), "hello");
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        let again = SendRequest::clone(&sender).send_request(request("/svc/again", "hello")).await.unwrap();
        assert_eq!(again.status(), 200);
    });
    assert!(upstream.connections.load(SeqCst) <= 40, "calls that begin at once may each connect");
}

#[test]
fn grpc_keeps_its_trailers_from_end_to_end() {
    grpc(&Grpc::new(None), "GRPC", "http");
}

#[test]
fn grpc_over_tls_does_too() {
    let own = certificate(&["inner"]);
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![own.root], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    grpc(&Grpc::new(Some(config)), "GRPCS", "https");
}

#[test]
fn trailers_reach_a_client_of_http_1_that_wants_them() {
    let upstream = Grpc::new(None);
    let edge = Edge::new(&everything(&[("backend-protocol", "H2C")], &[upstream.address]));
    let mut client = edge.client();
    client.send(
        "POST /x HTTP/1.1\r\nHost: a.b\r\nContent-Length: 2\r\nTE: trailers\r\nConnection: te\r\n\r\nhi",
    );
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "hi"));
    assert_eq!(client.get("a.b", "/", "").status, 200, "the connection goes on in step");
}

#[test]
fn a_host_that_is_not_the_authority_is_refused() {
    let web = Upstream::named("web");
    let one = certificate(&["a.b"]);
    let edge = Edge::new(&over_tls(&one, &[], web.address));
    block_on(async {
        let mut sender = connect(&edge, &one).await;
        let mut asked = request("/", "");
        asked.headers_mut().insert("host", HeaderValue::from_static("c.d"));
        assert_eq!(sender.send_request(asked).await.unwrap().status(), 400);
        assert_eq!(sender.send_request(request("/", "")).await.unwrap().status(), 200, "other streams go on");
    });
    assert_eq!(web.seen().len(), 1);
}

#[test]
fn a_stream_that_is_not_taken_is_reset_and_its_neighbours_go_on() {
    let web = Upstream::new(|seen, stream| {
        let len = if seen.line.contains("/large") { 64 << 20 } else { 5 };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n")?;
        let part = vec![b'x'; len.min(1 << 20)];
        (0..len / part.len()).try_for_each(|_| stream.write_all(&part))?;
        Ok(true)
    });
    let one = certificate(&["a.b"]);
    let tuning = Tuning { take: Duration::from_secs(1), ..Tuning::default() };
    let edge = Edge::tuned(&over_tls(&one, &[], web.address), tuning);
    block_on(async {
        let mut sender = connect(&edge, &one).await;
        let request = |path: &str| Request::get(format!("https://a.b{path}")).body(Full::default()).unwrap();
        let large = sender.send_request(request("/large")).await.unwrap();
        assert_eq!(large.status(), 200);
        // The log is waited for without blocking the connection.
        while edge.shared().metrics().text().contains("faults_total{fault=\"client\"} 0") {
            let small = sender.send_request(request("/small")).await.unwrap();
            assert_eq!(small.into_body().collect().await.unwrap().to_bytes(), "xxxxx");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(large.into_body().collect().await.is_err(), "it ends as what it is: broken off");
        let small = sender.send_request(request("/small")).await.unwrap();
        assert_eq!(small.status(), 200);
    });
    let line = edge.logged("/large").remove(0);
    assert_eq!(line["reason"], "the client did not take the response for too long");
}
