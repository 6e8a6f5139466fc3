//! HTTP/1.1 through the proxy, byte by byte where it matters.

mod edge;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use edge::{Edge, Upstream, eventually, everything, ingress, service};
use ingress::proxy::Tuning;

#[test]
fn a_request_goes_to_its_service_and_says_where_it_came_from() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[], &[web.address]));
    let headers = "X-Kept: 1\r\nConnection: keep-alive, X-Own\r\nX-Own: 1\r\nX-Forwarded-For: 6.6.6.6\r\nKeep-Alive: 5\r\n";
    let answer = edge.client().get("Shop.example.com:8080", "/a/../b?c=d", headers);
    assert_eq!((answer.status, answer.body.as_str()), (200, "web: GET /a/../b?c=d HTTP/1.1 +0\n"));
    let seen = &web.seen()[0];
    assert_eq!(seen.header("host"), Some("Shop.example.com:8080"));
    assert_eq!(seen.header("x-kept"), Some("1"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("Shop.example.com:8080"));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-request-id").map(str::len), Some(32));
    for gone in ["connection", "x-own", "keep-alive", "transfer-encoding", "content-length"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}

#[test]
fn connections_are_kept_on_both_sides() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[], &[web.address]));
    let mut client = edge.client();
    for count in 0..20 {
        assert_eq!(client.get("a.b", &format!("/{count}"), "").status, 200);
        assert_eq!(client.post("a.b", "/", "body").body, "web: POST / HTTP/1.1 +4\n");
    }
    assert_eq!(web.connections(), 1);
    assert_eq!(web.seen().len(), 40);
}

#[test]
fn a_body_of_unknown_length_is_chunked_on_the_other_side_too() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[], &[web.address]));
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n");
    assert_eq!(client.answer().unwrap().body, "web: POST / HTTP/1.1 +7\n");
    assert_eq!(web.seen()[0].body, "abcdefg");
    assert_eq!(web.seen()[0].header("transfer-encoding"), Some("chunked"));
}

#[test]
fn bodies_stream_both_ways_before_they_are_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let edge = Edge::new(&everything(&[], &[listener.local_addr().unwrap()]));
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 6\r\n\r\nabc");
    let (mut upstream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(upstream.try_clone().unwrap());
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    let mut half = [0; 3];
    reader.read_exact(&mut half).unwrap();
    assert_eq!(&half, b"abc", "though the other half has not been sent yet");
    upstream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nuvw\r\n").unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    assert_eq!(client.chunk().as_deref(), Some("uvw"));
    client.send("def");
    reader.read_exact(&mut half).unwrap();
    assert_eq!(&half, b"def");
    upstream.write_all(b"3\r\nxyz\r\n0\r\n\r\n").unwrap();
    assert_eq!(client.chunk().as_deref(), Some("xyz"));
    assert_eq!(client.chunk(), None);
}

#[test]
fn who_asks_whether_to_go_on_is_told_so_when_somebody_reads_and_not_when_the_body_is_too_large() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[("proxy-body-size", "10")], &[web.address]));
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: a.b\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 100);
    client.send("abc");
    assert_eq!(client.answer().unwrap().body, "web: POST / HTTP/1.1 +3\n");
    assert_eq!(web.seen()[0].header("expect"), None);
    client.send("POST / HTTP/1.1\r\nHost: a.b\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 413);
    assert_eq!(web.seen().len(), 1);
}

#[test]
fn a_body_that_turns_out_too_large_is_refused_on_the_way() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[("proxy-body-size", "4")], &[web.address]));
    let mut client = edge.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
    );
    assert_eq!(client.answer().unwrap().status, 413);
    assert_eq!(web.seen().len(), 0, "the upstream never had it whole");
    assert_eq!(edge.logged("longer than allowed")[0]["fault"], "client");
}

#[test]
fn responses_without_a_body_are_told_apart_from_those_with_one() {
    let web = Upstream::new(|seen, stream| {
        let head = match seen.line.split(' ').nth(1) {
            Some("/304") => "304 Not Modified\r\nContent-Length: 5",
            Some("/204") => "204 No Content",
            _ => "200 OK\r\nContent-Length: 5",
        };
        write!(stream, "HTTP/1.1 {head}\r\n\r\n")?;
        Ok(true)
    });
    let edge = Edge::new(&everything(&[], &[web.address]));
    let mut client = edge.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a.b\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!((head.status, head.headers["content-length"].as_str()), (200, "5"));
    assert_eq!(client.get("a.b", "/304", "").status, 304);
    assert_eq!(client.get("a.b", "/204", "").status, 204);
    assert_eq!(web.connections(), 1, "each was over when its head was");
}

#[test]
fn a_client_of_http_1_0_is_served_and_left() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[], &[web.address]));
    let mut client = edge.client();
    client.send("GET /x HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().unwrap().body, "web: GET /x HTTP/1.1 +0\n");
    assert!(client.ended());
}

#[test]
fn a_websocket_is_a_tunnel_once_both_have_agreed() {
    let web = Upstream::raw(|stream, connection, seen| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let request = edge::upstream::read(&mut reader, connection)?.unwrap();
        seen.lock().unwrap().push(request);
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello")?;
        let mut buffer = [0; 64];
        loop {
            match reader.read(&mut buffer)? {
                0 => return stream.shutdown(Shutdown::Both),
                len => stream.write_all(&buffer[..len])?,
            }
        }
    });
    let edge = Edge::new(&everything(&[], &[web.address]));
    let mut client = edge.client();
    client.send("GET /ws HTTP/1.1\r\nHost: a.b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.headers["upgrade"], "websocket");
    assert_eq!(answer.headers["sec-websocket-accept"], "x");
    assert_eq!(client.bytes(5), b"hello");
    client.send("ping");
    assert_eq!(client.bytes(4), b"ping");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(client.ended(), "the end of one way ends the other");
    assert_eq!(web.seen()[0].header("upgrade"), Some("websocket"));
    assert_eq!(web.seen()[0].header("connection"), Some("upgrade"));
}

#[test]
fn an_upgrade_that_the_upstream_does_not_want_is_an_ordinary_answer() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[], &[web.address]));
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let mut client = edge.client();
    assert_eq!(client.get("a.b", "/", upgrade).status, 200);
    assert_eq!(client.get("a.b", "/", "").status, 200);
}

#[test]
fn routes_change_under_a_connection_that_stays() {
    let (one, other) = (Upstream::named("one"), Upstream::named("other"));
    let edge = Edge::new(&everything(&[], &[one.address]));
    let mut client = edge.client();
    assert_eq!(client.get("a.b", "/", "").body, "one: GET / HTTP/1.1 +0\n");
    edge.apply(&everything(&[], &[other.address]));
    assert_eq!(client.get("a.b", "/", "").body, "other: GET / HTTP/1.1 +0\n");
    edge.apply(&service("web", &[]));
    assert_eq!(client.get("a.b", "/", "").status, 404);
}

#[test]
fn a_slow_head_is_not_waited_for() {
    let tuning = Tuning { head: Duration::from_millis(200), ..Tuning::default() };
    let edge = Edge::tuned("", tuning);
    let mut slow = edge.client();
    slow.send("GET / HTTP/1.1\r\nHost: a");
    let mut silent = edge.client();
    let answer = slow.answer();
    assert!(answer.is_none_or(|answer| answer.status == 408));
    assert!(silent.answer().is_none());
    eventually(|| (edge.shared().metrics().open() == 0).then_some(()));
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let web = Upstream::named("web");
    let edge =
        Edge::tuned(&everything(&[], &[web.address]), Tuning { head_bytes: 8 << 10, ..Tuning::default() });
    let mut client = edge.client();
    client.send(format!("GET / HTTP/1.1\r\nHost: a.b\r\nX: {}\r\n\r\n", "x".repeat(9 << 10)));
    assert_eq!(client.answer().unwrap().status, 431);
    assert_eq!(web.seen().len(), 0);
}

#[test]
fn draining_ends_what_is_idle_and_finishes_what_is_under_way() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut edge = Edge::new(&everything(&[], &[listener.local_addr().unwrap()]));
    let mut idle = edge.client();
    let mut busy = edge.client();
    busy.send("GET / HTTP/1.1\r\nHost: a.b\r\n\r\n");
    let (mut upstream, _) = listener.accept().unwrap();
    let proxy = edge.proxy.take().unwrap();
    let drained = std::thread::spawn(move || proxy.drain());
    assert!(idle.ended());
    eventually(|| TcpStream::connect(edge.http).is_err().then_some(()));
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    let answer = busy.answer().unwrap();
    assert_eq!(answer.body, "ok");
    assert_eq!(answer.headers["connection"], "close");
    assert!(busy.ended());
    drained.join().unwrap();
}

#[test]
fn what_does_not_end_in_time_is_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let objects = everything(&[], &[listener.local_addr().unwrap()]);
    let mut edge = Edge::tuned(&objects, Tuning { drain: Duration::from_millis(100), ..Tuning::default() });
    let mut busy = edge.client();
    busy.send("GET / HTTP/1.1\r\nHost: a.b\r\n\r\n");
    let _upstream = listener.accept().unwrap();
    edge.proxy.take().unwrap().drain();
    assert!(busy.ended());
}

#[test]
fn each_request_is_a_line_of_the_log_and_counted() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[], &[web.address]));
    let mut client = edge.client();
    client.get("Shop.example.com", "/x?y=z", "X-Request-ID: mine-1\r\nUser-Agent: test\r\n");
    client.post("a.b", "/", "four");
    let line = &edge.logged("mine-1")[0];
    for (key, value) in [
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("scheme", "http"),
        ("host", "shop.example.com"),
        ("path", "/x?y=z"),
        ("protocol", "HTTP/1.1"),
        ("object", "Ingress default/all"),
        ("service", "default/web:80"),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    assert_eq!(
        (line["status"].as_u64(), line["tries"].as_u64(), line["sent"].as_u64()),
        (Some(200), Some(1), Some(28))
    );
    assert_eq!(line["upstream"], web.address.to_string());
    assert!(line.get("fault").is_none(), "{line}");
    assert_eq!(edge.logged("\"POST\"")[0]["received"].as_u64(), Some(4));
    let metric = "weir_ingress_requests_total{object=\"Ingress default/all\",status=\"200\"} 2\n";
    eventually(|| edge.shared().metrics().text().contains(metric).then_some(()));
}

#[test]
fn a_client_that_leaves_is_told_apart_and_its_upstream_is_let_go() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let edge = Edge::new(&everything(&[], &[listener.local_addr().unwrap()]));
    let mut client = edge.client();
    client.send("GET /left HTTP/1.1\r\nHost: a.b\r\n\r\n");
    let (mut upstream, _) = listener.accept().unwrap();
    drop(client);
    let line = &edge.logged("/left")[0];
    assert_eq!((line["status"].as_u64(), line["fault"].as_str()), (Some(499), Some("client")));
    let mut all = Vec::new();
    upstream.read_to_end(&mut all).unwrap();
}

#[test]
fn redirects_and_rewrites_are_done_on_the_way() {
    let web = Upstream::named("web");
    let objects = service("web", &[web.address])
        + &ingress(
            "a",
            &[("rewrite-target", "/$2"), ("upstream-vhost", "inner")],
            &["a.b ImplementationSpecific /api(/|$)(.*) web"],
        )
        + &ingress("b", &[("force-ssl-redirect", "true")], &["c.d Prefix / web"])
        + &ingress("c", &[("whitelist-source-range", "192.0.2.0/24")], &["e.f Prefix / web"]);
    let edge = Edge::new(&objects);
    assert_eq!(edge.get("a.b", "/api/v1?x=y").body, "web: GET /v1?x=y HTTP/1.1 +0\n");
    assert_eq!(web.seen()[0].header("host"), Some("inner"));
    let answer = edge.get("c.d:80", "/x?y");
    assert_eq!((answer.status, answer.headers["location"].as_str()), (308, "https://c.d/x?y"));
    assert_eq!(edge.get("e.f", "/").status, 403);
}
