//! TLS that is not ended here: the endpoint's own certificate reaches the client, and everyone else's TLS goes on as before.

mod edge;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use edge::tls::{Certificate, certificate, client, connect, get, secret, with_tls};
use edge::{Edge, Upstream, ingress, service};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ALL_VERSIONS, ServerConfig, ServerConnection, StreamOwned};

/// An endpoint with a certificate of its own, which says so and echoes the first line that it reads.
fn endpoint(certificate: &Certificate) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(ALL_VERSIONS).unwrap();
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            thread::spawn(move || {
                let mut stream = StreamOwned::new(connection, stream);
                let mut head = Vec::new();
                // Whole: a connection that is closed with something unread is reset.
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if !matches!(stream.read(&mut byte), Ok(1)) {
                        return;
                    }
                    head.extend(byte);
                }
                let line = String::from_utf8_lossy(&head).lines().next().unwrap_or("").to_owned();
                // The client may have left.
                drop(write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nown: {line}"));
                stream.conn.send_close_notify();
                drop(stream.flush());
            });
        }
    });
    address
}

fn objects(
    endpoints: &[SocketAddr],
    annotations: &[(&str, &str)],
    web: &Upstream,
    server: &Certificate,
) -> String {
    let mut all = vec![("ssl-passthrough", "true")];
    all.extend(annotations);
    service("own", endpoints)
        + &service("web", &[web.address])
        + &ingress("own", &all, &["own.test Prefix / own"])
        + &with_tls("web", &["web.test"], "server")
        + &secret("server", &server.chain, &server.key)
}

#[test]
fn the_endpoints_own_certificate_is_shown_and_another_host_is_served_as_ever() {
    let (own, server) = (certificate(&["own.test"]), certificate(&["web.test"]));
    let web = Upstream::named("web");
    // The first endpoint takes no connection: the next is asked.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let edge = Edge::new(&objects(&[dead, endpoint(&own)], &[], &web, &server));
    assert_eq!(*edge.warnings.lock().unwrap(), Vec::<String>::new());
    let config = client(&[&own, &server], ALL_VERSIONS);
    for _ in 0..4 {
        let mut stream = connect(&config, edge.https, "own.test").unwrap();
        assert_eq!(stream.conn.peer_certificates().unwrap()[0], own.root);
        assert!(get(&mut stream, "whatever").ends_with("own: GET / HTTP/1.1"));
    }
    assert!(get(&mut connect(&config, edge.https, "web.test").unwrap(), "web.test").contains("web: GET / "));
    assert_eq!(web.seen().len(), 1);
}

#[test]
fn lists_of_sources_hold_for_it_too() {
    let (own, server) = (certificate(&["own.test"]), certificate(&["web.test"]));
    let web = Upstream::named("web");
    let list = [("whitelist-source-range", "192.0.2.0/24")];
    let edge = Edge::new(&objects(&[endpoint(&own)], &list, &web, &server));
    assert!(connect(&client(&[&own], ALL_VERSIONS), edge.https, "own.test").is_err());
}

#[test]
fn a_greeting_that_comes_byte_by_byte_is_read_and_one_that_never_ends_is_not() {
    let (own, server) = (certificate(&["own.test"]), certificate(&["web.test"]));
    let web = Upstream::named("web");
    let edge = Edge::new(&objects(&[endpoint(&own)], &[], &web, &server));
    let config = client(&[&own], ALL_VERSIONS);
    let name = rustls::pki_types::ServerName::try_from("own.test").unwrap();
    let mut connection = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(edge.https).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(edge::PATIENCE)).unwrap();
    for byte in hello {
        stream.write_all(&[byte]).unwrap();
    }
    let mut stream = StreamOwned::new(connection, stream);
    assert!(get(&mut stream, "own.test").ends_with("own: GET / HTTP/1.1"));

    let mut endless = edge::Client::connect(edge.https);
    // Records of a greeting of 16 MiB.
    let record = [&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 0x4000 - 4]].concat();
    let more = [&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    endless.send(&record);
    for _ in 0..4 {
        // It may have closed already.
        drop(endless.stream.write_all(&more));
    }
    let mut rest = Vec::new();
    drop(endless.stream.read_to_end(&mut rest));
    assert!(rest.len() < 16, "nothing but an alert: {rest:?}");
}

#[test]
fn it_is_left_out_where_tls_has_to_end_here() {
    let (own, server) = (certificate(&["own.test"]), certificate(&["web.test"]));
    let web = Upstream::named("web");
    let edge = Edge::new(&objects(&[endpoint(&own)], &[("auth-tls-secret", "default/ca")], &web, &server));
    let warnings = edge.warnings.lock().unwrap().clone();
    assert!(warnings.iter().any(|it| it.contains("ssl-passthrough: beside auth-tls-secret")), "{warnings:?}");
    let external = [("auth-url", "http://auth.test/")];
    edge.apply(&objects(&[endpoint(&own)], &external, &web, &server));
    let warnings = edge.warnings.lock().unwrap().clone();
    assert!(
        warnings.iter().any(|it| it.contains("ssl-passthrough: beside auth-type or auth-url")),
        "{warnings:?}"
    );
    assert!(connect(&client(&[&own], ALL_VERSIONS), edge.https, "own.test").is_err());
}
