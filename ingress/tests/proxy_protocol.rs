//! The PROXY protocol: who the client is, said by a load balancer that is trusted, and by nobody else.

mod edge;

use std::time::Duration;

use edge::tls::{certificate, client, connect_by, get, secret, with_tls};
use edge::{Edge, Upstream, everything};
use ingress::proxy::Tuning;
use rustls::ALL_VERSIONS;

const V1: &str = "PROXY TCP4 203.0.113.7 198.51.100.1 56324 4430\r\n";

fn v2(client: [u8; 4], more: &[u8]) -> Vec<u8> {
    let len = u8::try_from(12 + more.len()).unwrap();
    let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0";
    [&start[..], &[len], &client, &[198, 51, 100, 1, 1, 2, 0x11, 0x4e], more].concat()
}

fn edge(web: &Upstream, trusted: &str) -> Edge {
    let tuning = Tuning { announcing: vec![trusted.parse().unwrap()], ..Tuning::default() };
    Edge::tuned(&everything(&[], &[web.address]), tuning)
}

fn get_with(edge: &Edge, header: &[u8]) -> Option<u16> {
    let mut client = edge.client();
    client.send([header, b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n"].concat());
    client.answer().map(|answer| answer.status)
}

#[test]
fn the_upstream_and_the_log_learn_of_the_client_that_the_load_balancer_names() {
    let web = Upstream::named("web");
    let edge = edge(&web, "127.0.0.0/8");
    for (header, client, port) in [
        (V1.as_bytes().to_vec(), "203.0.113.7", "4430"),
        (v2([203, 0, 113, 8], &[]), "203.0.113.8", "4430"),
        (v2([203, 0, 113, 9], &[0x20, 0, 1, 0]), "203.0.113.9", "4430"),
    ] {
        assert_eq!(get_with(&edge, &header), Some(200), "{client}");
        let seen = web.seen().pop().unwrap();
        assert_eq!(seen.header("x-real-ip"), Some(client));
        assert_eq!(seen.header("x-forwarded-for"), Some(client));
        assert_eq!(seen.header("x-forwarded-port"), Some(port));
        edge.logged(&format!("\"client\":\"{client}\""));
    }
    for own in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        assert_eq!(get_with(&edge, own), Some(200));
        assert_eq!(web.seen().pop().unwrap().header("x-real-ip"), Some("127.0.0.1"));
    }
}

#[test]
fn it_comes_before_tls() {
    let web = Upstream::named("web");
    let one = certificate(&["a.b"]);
    let objects = everything(&[], &[web.address])
        + &with_tls("a", &["a.b"], "one")
        + &secret("one", &one.chain, &one.key);
    let edge = edge(&web, "127.0.0.1/32");
    edge.apply(&objects);
    let mut stream = connect_by(&client(&[&one], ALL_VERSIONS), edge.https, "a.b", V1.as_bytes()).unwrap();
    assert!(get(&mut stream, "a.b").contains("web: GET / "));
    assert_eq!(web.seen()[0].header("x-real-ip"), Some("203.0.113.7"));
    assert!(
        connect_by(&client(&[&one], ALL_VERSIONS), edge.https, "a.b", b"").is_err(),
        "a header is missing"
    );
}

#[test]
fn a_header_that_is_missing_malformed_or_late_ends_the_connection() {
    let web = Upstream::named("web");
    let edge = edge(&web, "127.0.0.0/8");
    let mut long = v2([203, 0, 113, 7], &[]);
    long[14..16].copy_from_slice(&[0x10, 1]);
    for (name, header) in [
        ("none", b"".to_vec()),
        ("a line that does not end", vec![b'P'; 200]),
        ("a long line", [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat()),
        ("another protocol", b"PROXY UDP4 203.0.113.7 198.51.100.1 1 2\r\n".to_vec()),
        ("a line feed alone", b"PROXY TCP4 203.0.113.7 198.51.100.1 1 2\n".to_vec()),
        ("cut off in notes", v2([203, 0, 113, 7], &[0x20, 0, 9])),
        ("longer than anybody's", long),
    ] {
        assert_eq!(get_with(&edge, &header), None, "{name}");
    }
    let tuning = Tuning {
        announcing: vec!["127.0.0.0/8".parse().unwrap()],
        handshake: Duration::from_millis(100),
        ..Tuning::default()
    };
    let impatient = Edge::tuned("", tuning);
    let mut late = impatient.client();
    late.send("PROXY TCP4 ");
    assert!(late.ended());
    assert!(web.seen().is_empty());
}

#[test]
fn a_stranger_is_not_asked_and_cannot_say_anything() {
    let web = Upstream::named("web");
    let edge = edge(&web, "192.0.2.0/24");
    assert_eq!(get_with(&edge, b""), Some(200));
    assert_eq!(web.seen()[0].header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(get_with(&edge, V1.as_bytes()), Some(400));
    assert_eq!(web.seen().len(), 1);
}
