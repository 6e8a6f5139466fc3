//! What goes wrong, whose fault it was, and what is tried again.

mod edge;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use edge::{Edge, Upstream, eventually, everything, ingress, ingress_with, service};
use ingress::proxy::Tuning;

/// An address on which nobody listens, and which nobody else gets while the tests run.
fn nobody() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// Status of a request, and fault and reason as they are logged.
#[track_caller]
fn fails(objects: &str, status: u16, fault: &str, reason: &str) {
    let edge = Edge::new(objects);
    let answer = edge.get("a.b", "/fails");
    assert_eq!(answer.status, status);
    let line = edge.logged("/fails").remove(0);
    assert_eq!(
        (line["status"].as_u64(), line["fault"].as_str()),
        (Some(status.into()), Some(fault)),
        "{line}"
    );
    assert!(line["reason"].as_str().unwrap().contains(reason), "{line}");
    assert!(answer.body.contains(line["id"].as_str().unwrap()), "the client can say which request it was");
    assert!(!answer.body.contains("default"), "what is inside the cluster is not told outside");
}

#[test]
fn every_failure_has_its_status_and_says_whose_fault_it_was() {
    fails("", 404, "client", "no rule matches");
    fails(&everything(&[], &[]), 503, "upstream", "Service default/web has no endpoint that serves");
    let rules = ["- Prefix / none"];
    fails(&ingress("all", &[], &rules), 503, "config", "there is no Service default/none");
    fails(&everything(&[], &[nobody()]), 502, "upstream", "Connection refused");
    fails(&everything(&[("enable-modsecurity", "true")], &[nobody()]), 503, "config", "enable-modsecurity");
    fails(&everything(&[("whitelist-source-range", "192.0.2.1")], &[nobody()]), 403, "client", "127.0.0.1");
    let closes = Upstream::new(|_, _| Ok(false));
    fails(&everything(&[], &[closes.address]), 502, "upstream", "no response");
    let nonsense = Upstream::new(|_, stream| stream.write_all(b"nonsense\r\n\r\n").map(|()| false));
    fails(&everything(&[], &[nonsense.address]), 502, "upstream", "no response");
}

#[test]
fn an_upstream_that_says_nothing_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let objects = everything(&[("proxy-read-timeout", "1")], &[silent.local_addr().unwrap()]);
    fails(&objects, 504, "upstream", "no response within 1s");
}

#[test]
fn a_response_that_breaks_off_breaks_off_for_the_client_too() {
    let half = Upstream::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").map(|()| false)
    });
    let edge = Edge::new(&everything(&[], &[half.address]));
    let mut client = edge.client();
    client.send("GET /half HTTP/1.1\r\nHost: a.b\r\n\r\n");
    assert!(client.answer().is_none(), "no end is made up");
    let line = edge.logged("/half").remove(0);
    assert_eq!((line["status"].as_u64(), line["fault"].as_str()), (Some(200), Some("upstream")));
}

#[test]
fn a_response_that_pauses_for_too_long_is_broken_off() {
    let pauses = Upstream::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
        std::thread::sleep(edge::PATIENCE);
        Ok(false)
    });
    let edge = Edge::new(&everything(&[("proxy-read-timeout", "1")], &[pauses.address]));
    let mut client = edge.client();
    client.send("GET /half HTTP/1.1\r\nHost: a.b\r\n\r\n");
    assert!(client.answer().is_none());
    assert!(edge.logged("/half")[0]["reason"].as_str().unwrap().contains("paused"));
}

#[test]
fn a_client_that_pauses_in_its_body_is_given_up() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[("proxy-send-timeout", "1")], &[web.address]));
    let mut client = edge.client();
    client.send("POST /slow HTTP/1.1\r\nHost: a.b\r\nContent-Length: 10\r\n\r\nhalf");
    assert_eq!(client.answer().unwrap().status, 408);
    assert_eq!(edge.logged("/slow")[0]["fault"], "client");
}

#[test]
fn a_slow_upload_is_no_silent_upstream() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[("proxy-read-timeout", "3")], &[web.address]));
    let mut client = edge.client();
    client.send("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 6\r\n\r\n");
    for byte in ["a", "b", "c", "d", "e", "f"] {
        std::thread::sleep(Duration::from_millis(700));
        client.send(byte);
    }
    assert_eq!(client.answer().unwrap().body, "web: POST / HTTP/1.1 +6\n");
}

#[test]
fn who_cannot_be_connected_to_is_replaced_whatever_the_method() {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[], &[nobody(), web.address]));
    for count in 0..20 {
        let answer = edge.client().post("a.b", &format!("/{count}"), "body");
        assert_eq!(answer.body, format!("web: POST /{count} HTTP/1.1 +4\n"));
    }
    let failures = "weir_ingress_upstream_failures_total ";
    let text = edge.shared().metrics().text();
    let failures: u64 = text.lines().find_map(|line| line.strip_prefix(failures)).unwrap().parse().unwrap();
    assert!(failures < 10, "it rests after it has failed: {failures} of 20");
}

/// An upstream that answers the first request of each connection and closes at the second, having read it.
fn closes_at_the_second() -> Upstream {
    Upstream::raw(|stream, connection, seen| {
        let mut reader = std::io::BufReader::new(stream.try_clone()?);
        for count in 0.. {
            let Some(request) = edge::upstream::read(&mut reader, connection)? else { break };
            seen.lock().unwrap().push(request);
            if count == 1 {
                break;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        }
        Ok(())
    })
}

#[test]
fn what_may_be_repeated_is_repeated_on_a_kept_connection_that_was_closed_and_nothing_else() {
    let web = closes_at_the_second();
    let edge = Edge::new(&everything(&[], &[web.address]));
    let mut client = edge.client();
    for _ in 0..6 {
        assert_eq!(client.get("a.b", "/", "").status, 200);
    }
    let before = web.seen().len();
    let statuses: Vec<u16> = (0..4).map(|_| client.post("a.b", "/", "x").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 2, "{statuses:?}");
    assert_eq!(web.seen().len() - before, 4, "each was sent once");
}

#[test]
fn a_kept_connection_that_was_closed_while_idle_costs_nobody_a_request() {
    let web = Upstream::new(|seen, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-On: {}\r\n\r\n", seen.connection)?;
        Ok(false)
    });
    let edge = Edge::new(&everything(&[], &[web.address]));
    let mut client = edge.client();
    for _ in 0..20 {
        assert_eq!(client.get("a.b", "/", "").status, 200);
    }
}

#[test]
fn a_cookie_leads_back_to_its_endpoint_even_while_that_ends() {
    let upstreams: Vec<Upstream> = ["one", "two", "three"].map(Upstream::named).into();
    let addresses: Vec<SocketAddr> = upstreams.iter().map(|it| it.address).collect();
    let edge = Edge::new(&everything(&[("affinity", "cookie")], &addresses));
    let first = edge.get("a.b", "/");
    let cookie = first.headers["set-cookie"].split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("INGRESSCOOKIE="), "{cookie}");
    let again = |edge: &Edge| edge.client().get("a.b", "/", &format!("Cookie: x=y; {cookie}\r\n"));
    for _ in 0..10 {
        let answer = again(&edge);
        assert_eq!(answer.body, first.body);
        assert!(!answer.headers.contains_key("set-cookie"));
    }
    let served = upstreams.iter().position(|it| it.seen().len() == 11).unwrap();
    let ends = everything(&[("affinity", "cookie")], &addresses).replace(
        &format!("port: {} }}]\nendpoints: [{{ addresses: [127.0.0.1]", addresses[served].port()),
        &format!("port: {} }}]\nendpoints: [{{ conditions: {{ ready: false, serving: true, terminating: true }}, addresses: [127.0.0.1]", addresses[served].port()),
    );
    edge.apply(&ends);
    assert_eq!(again(&edge).body, first.body);
    assert_ne!(edge.get("a.b", "/").body, first.body, "others are not sent there any more");
    edge.apply(&everything(&[("affinity", "cookie")], &[addresses[(served + 1) % 3]]));
    let answer = again(&edge);
    assert_ne!(answer.body, first.body);
    assert!(answer.headers.contains_key("set-cookie"), "a new home, a new cookie");
}

#[test]
fn a_canary_gets_about_its_part() {
    let (web, canary) = (Upstream::named("web"), Upstream::named("canary"));
    let objects = service("web", &[web.address])
        + &service("canary", &[canary.address])
        + &ingress("all", &[], &["- Prefix / web"])
        + &ingress(
            "canary",
            &[("canary", "true"), ("canary-weight", "50"), ("canary-by-header", "x-canary")],
            &["- Prefix / canary"],
        );
    let edge = Edge::new(&objects);
    let mut client = edge.client();
    for _ in 0..10 {
        assert!(client.get("a.b", "/", "X-Canary: always\r\n").body.starts_with("canary"));
        assert!(client.get("a.b", "/", "X-Canary: never\r\n").body.starts_with("web"));
    }
    // That all of 200 draws fall on one side is as likely as 2^-199.
    for _ in 0..200 {
        client.get("a.b", "/", "");
    }
    assert!(canary.seen().len() > 10 && web.seen().len() > 10);
}

#[test]
fn a_mistake_in_one_object_is_told_and_harms_no_other() {
    let web = Upstream::named("web");
    let objects = everything(&[], &[web.address])
        + &ingress(
            "bad",
            &[("proxy-read-timeout", "soon")],
            &["x y Prefix / none", "bad.example.com Whole / web"],
        )
        + &ingress_with(
            "worse",
            &[],
            &["good.example.com Prefix / web"],
            "tls: [{ hosts: [good.example.com], secretName: none }],",
        );
    let edge = Edge::new(&objects.replace(
        "host: \"x\", http: { paths: [{ pathType: y, path: \"Prefix\"",
        "host: \"x y\", http: { paths: [{ pathType: Prefix, path: \"/\"",
    ));
    assert_eq!(edge.get("a.b", "/").status, 200);
    assert_eq!(edge.get("good.example.com", "/").status, 308);
    let warnings = edge.warnings.lock().unwrap().clone();
    for said in [
        "Ingress default/bad: nginx.ingress.kubernetes.io/proxy-read-timeout: \"soon\"",
        "spec.rules[0].host: \"x y\" is no DNS name",
        "pathType: \"Whole\"",
        "Ingress default/worse: spec.tls[0].secretName: there is no Secret default/none",
    ] {
        assert!(warnings.iter().any(|warning| warning.contains(said)), "{said:?} is not in {warnings:#?}");
    }
}

#[test]
fn metrics_say_whose_faults_there_were() {
    let edge = Edge::new(&everything(&[], &[nobody()]));
    edge.get("a.b", "/");
    eventually(|| {
        edge.shared()
            .metrics()
            .text()
            .contains("weir_ingress_faults_total{fault=\"upstream\"} 1\n")
            .then_some(())
    });
}

/// An upstream whose answer to `/large` is longer than all buffers between it and the client.
fn large() -> Upstream {
    Upstream::new(|seen, stream| {
        let len = if seen.line.contains("/large") { 64 << 20 } else { 5 };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n")?;
        let part = vec![b'x'; len.min(1 << 20)];
        for _ in 0..len / part.len() {
            stream.write_all(&part)?;
        }
        Ok(true)
    })
}

#[test]
fn a_client_that_does_not_take_its_response_is_given_up() {
    let web = large();
    let tuning = Tuning { take: Duration::from_secs(1), ..Tuning::default() };
    let edge = Edge::tuned(&everything(&[], &[web.address]), tuning);
    let mut client = edge.client();
    client.send("GET /large HTTP/1.1\r\nHost: a.b\r\n\r\n");
    let line = edge.logged("/large").remove(0);
    assert_eq!((line["status"].as_u64(), line["fault"].as_str()), (Some(200), Some("client")), "{line}");
    assert_eq!(line["reason"], "the client did not take the response for too long");
}
