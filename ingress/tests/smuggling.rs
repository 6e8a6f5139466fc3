//! Requests that two parsers could read in two ways. None may reach an upstream as anything but what the client will be
//! held to, and after one that is refused the connection is at its end.

mod edge;

use edge::{Edge, Upstream, everything};

/// Sends the bytes and then a request that says who it is. The answers' statuses, and what the upstream saw.
fn sent(bytes: &str) -> (Vec<u16>, Vec<String>) {
    let web = Upstream::named("web");
    let edge = Edge::new(&everything(&[], &[web.address]));
    let mut client = edge.client();
    client.send(bytes);
    // The proxy may have closed by now.
    let mut stream = &client.stream;
    drop(std::io::Write::write_all(
        &mut stream,
        b"GET /next HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n",
    ));
    let mut statuses = Vec::new();
    while let Some(answer) = client.answer() {
        statuses.push(answer.status);
    }
    let seen = web.seen().iter().map(|seen| format!("{} +{}", seen.line, seen.body)).collect();
    (statuses, seen)
}

/// Refused: one answer of an error, or none; nothing of it or after it reaches the upstream.
#[track_caller]
fn refused(name: &str, bytes: &str) {
    let (statuses, seen) = sent(bytes);
    assert!(
        statuses.len() <= 1 && statuses.iter().all(|status| (400..=505).contains(status)),
        "{name}: {statuses:?}"
    );
    assert_eq!(seen, Vec::<String>::new(), "{name}");
}

/// Understood in one way, after which the connection is closed or goes on in step.
#[track_caller]
fn understood(name: &str, bytes: &str, expected: &[&str]) {
    let (_, seen) = sent(bytes);
    assert_eq!(seen, expected, "{name}");
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a.b\r\n";
const INNER: &str = "GET /inner HTTP/1.1\r\nHost: a.b\r\n\r\n";

#[test]
fn framing_that_can_be_read_in_two_ways_is_refused() {
    for (name, headers, body) in [
        ("two lengths", "Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
        ("a list of lengths", "Content-Length: 3, 3\r\n", "abc"),
        ("a length with a sign", "Content-Length: +3\r\n", "abc"),
        ("a negative length", "Content-Length: -3\r\n", "abc"),
        ("a hexadecimal length", "Content-Length: 0x3\r\n", "abc"),
        ("a length with a space in it", "Content-Length: 1 2\r\n", "abc"),
        ("a length that is empty", "Content-Length: \r\n", "abc"),
        ("a length too large to be counted", "Content-Length: 99999999999999999999999\r\n", "abc"),
        ("chunked, then something", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("something, then chunked", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("chunked with a tail", "Transfer-Encoding: chunkedx\r\n", "0\r\n\r\n"),
        ("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
        ("identity", "Transfer-Encoding: identity\r\n", "abc"),
        ("a vertical tab", "Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
        ("a space before the colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("a folded line", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        ("a header that is folded", "X: a\r\n b\r\nContent-Length: 0\r\n", ""),
        ("a name with a space", "Content Length: 3\r\n", "abc"),
        ("a line without a colon", "Content-Length\r\n", "abc"),
        ("a null in a value", "X: a\0b\r\n", ""),
        ("a bare return in a value", "X: a\rContent-Length: 3\r\n", "abc"),
        ("no name", ": x\r\n", ""),
    ] {
        refused(name, &format!("{POST}{headers}\r\n{body}{INNER}"));
    }
}

#[test]
fn chunks_that_can_be_read_in_two_ways_are_refused() {
    let chunked = format!("{POST}Transfer-Encoding: chunked\r\n\r\n");
    for (name, body) in [
        ("a size that is none", "x\r\nabc\r\n0\r\n\r\n"),
        ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a size of 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("a size too large to be counted", "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("data longer than the size", "3\r\nabcdef\r\n0\r\n\r\n"),
        ("a line feed after the size", "3\nabc\r\n0\r\n\r\n"),
        ("a line feed in an extension", "3;x\ny\r\nabc\r\n0\r\n\r\n"),
        ("a return alone after the size", "3\rxabc\r\n0\r\n\r\n"),
    ] {
        refused(name, &format!("{chunked}{body}{INNER}"));
    }
}

#[test]
fn a_request_line_that_is_none_is_refused() {
    for (name, request) in [
        ("no version", "GET /\r\nHost: a.b\r\n\r\n"),
        ("another version", "GET / HTTP/3.0\r\nHost: a.b\r\n\r\n"),
        ("a space in the path", "GET /a b HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        ("two spaces", "GET  / HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        ("a tab", "GET\t/ HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        ("a fragment of a method", "G(T / HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        ("a host beside another", "GET / HTTP/1.1\r\nHost: a.b\r\nHost: c.d\r\n\r\n"),
        ("a host beside the URI's", "GET http://c.d/ HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("a host that is none", "GET / HTTP/1.1\r\nHost: a.b/c\r\n\r\n"),
        ("a tunnel", "CONNECT a.b:80 HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        ("a path above the root", "GET /../x HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n"),
        (
            "chunked before chunks were",
            "POST / HTTP/1.0\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("HTTP/2 where TLS did not agree on it", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (
            "a low line where a hyphen is meant",
            "GET / HTTP/1.1\r\nHost: a.b\r\nX_Forwarded_For: 10.0.0.1\r\n\r\n",
        ),
    ] {
        refused(name, request);
    }
}

#[test]
fn of_length_and_chunks_the_chunks_count_and_nothing_follows_on_the_connection() {
    for headers in [
        "Content-Length: 100\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 100\r\n",
    ] {
        let request = format!("{POST}{headers}\r\n3\r\nabc\r\n0\r\n\r\n{INNER}");
        understood(headers, &request, &["POST / HTTP/1.1 +abc"]);
    }
    let request = format!("{POST}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INNER}");
    understood("a length of nothing", &request, &["POST / HTTP/1.1 +"]);
}

#[test]
fn what_is_unusual_but_clear_is_served_in_step() {
    for (name, request, seen) in [
        (
            "the same length twice",
            format!("{POST}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
            "POST / HTTP/1.1 +abc",
        ),
        (
            "capitals",
            format!("{POST}TRANSFER-ENCODING: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            "POST / HTTP/1.1 +abc",
        ),
        (
            "an extension",
            format!("{POST}Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n"),
            "POST / HTTP/1.1 +abc",
        ),
        (
            "trailers",
            format!("{POST}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"),
            "POST / HTTP/1.1 +abc",
        ),
        (
            "a body of a GET",
            "GET / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 3\r\n\r\nabc".into(),
            "GET / HTTP/1.1 +abc",
        ),
        ("an absolute URI", "GET http://a.b/x HTTP/1.1\r\nHost: a.b\r\n\r\n".into(), "GET /x HTTP/1.1 +"),
        ("an empty line first", "\r\nGET / HTTP/1.1\r\nHost: a.b\r\n\r\n".into(), "GET / HTTP/1.1 +"),
        (
            "a connection header that names the host",
            "GET / HTTP/1.1\r\nHost: a.b\r\nConnection: host\r\n\r\n".into(),
            "GET / HTTP/1.1 +",
        ),
    ] {
        understood(name, &request, &[seen, "GET /next HTTP/1.1 +"]);
    }
}
