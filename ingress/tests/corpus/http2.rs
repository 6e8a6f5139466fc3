//! Streams of HTTP/2 that say what HTTP/1.1 would read in another way: frames and headers written byte by byte.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::SILENCE;
use crate::mutate::{Case, smuggled};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// A header as a literal that is not indexed (RFC 7541 §6.2.2), whatever is in it.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let text = |text: &[u8]| {
        let mut out = Vec::new();
        match text.len() {
            len @ 0..127 => out.push(len as u8),
            len => {
                out.push(127);
                let mut rest = len - 127;
                while rest >= 128 {
                    out.push(rest as u8 | 128);
                    rest >>= 7;
                }
                out.push(rest as u8);
            }
        }
        out.extend_from_slice(text);
        out
    };
    [vec![0], text(name), text(value)].concat()
}

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

fn headers(number: usize) -> Headers {
    let path = format!("/c{number}");
    [(":method", "POST"), (":scheme", "http"), (":authority", "a.b"), (":path", path.as_str())]
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .to_vec()
}

/// One stream: its head, its body, and trailers if there are any.
fn stream(headers: &Headers, body: Option<&[u8]>, trailers: &Headers) -> Vec<u8> {
    let block = |headers: &Headers| {
        headers.iter().flat_map(|(name, value)| literal(name, value)).collect::<Vec<u8>>()
    };
    let end = |last: bool| if last { END_STREAM } else { 0 };
    let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    all.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    all.extend(frame(HEADERS, END_HEADERS | end(body.is_none() && trailers.is_empty()), &block(headers)));
    if let Some(body) = body {
        all.extend(frame(DATA, end(trailers.is_empty()), body));
    }
    if !trailers.is_empty() {
        all.extend(frame(HEADERS, END_HEADERS | END_STREAM, &block(trailers)));
    }
    all
}

/// Bytes that end something in HTTP/1.1.
const BREAKS: [&str; 14] = [
    "\r\nTransfer-Encoding: chunked",
    "\nTransfer-Encoding: chunked",
    "\rTransfer-Encoding: chunked",
    "\0",
    "\x01",
    "\x0b",
    "\x7f",
    "\r\n\r\nGET /x HTTP/1.1\r\nHost: a.b\r\n\r\n",
    "\n\n",
    " HTTP/1.1\r\nX: y",
    " HTTP/1.1\nX: y",
    "\r\n x",
    "\u{85}",
    " ",
];

/// Headers that only HTTP/1.1 has, or has in another way.
const LINES: [(&str, &str); 30] = [
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "identity"),
    ("Transfer-Encoding", "chunked"),
    ("transfer_encoding", "chunked"),
    ("transfer-encoding ", "chunked"),
    (" transfer-encoding", "chunked"),
    ("transfer-encoding:", "chunked"),
    ("transfer-encoding: chunked\r\nx", "y"),
    ("transfer-encoding\0", "chunked"),
    ("x\r\ntransfer-encoding", "chunked"),
    ("x\ntransfer-encoding", "chunked"),
    ("connection", "transfer-encoding"),
    ("connection", "content-length"),
    ("connection", "close"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "close"),
    ("upgrade", "websocket"),
    ("te", "chunked"),
    ("te", "trailers"),
    ("host", "c.d"),
    ("host", "a.b"),
    ("host", "a.b\r\nx: y"),
    ("content-length", "0"),
    ("content-length", "5"),
    ("content-length", "-1"),
    ("content-length", "+3"),
    ("content-length", "3, 3"),
    ("content_length", "0"),
    ("expect", "100-continue"),
    ("", "x"),
];

/// Pseudo-headers, some of which nobody knows.
const PSEUDO: [(&str, &str); 32] = [
    (":path", ""),
    (":path", "*"),
    (":path", "x"),
    (":path", "//c.d/x"),
    (":path", "http://c.d/x"),
    (":path", "/x#y"),
    (":path", "/x y"),
    (":method", ""),
    (":method", "GET /x HTTP/1.1\r\nx: y\r\n\r\nGET"),
    (":method", "GET /x"),
    (":method", "CONNECT"),
    (":method", "get"),
    (":scheme", ""),
    (":scheme", "ftp"),
    (":scheme", "http://c.d/x?"),
    (":scheme", "http\r\nx: y"),
    (":authority", ""),
    (":authority", "c.d/x"),
    (":authority", "u@a.b"),
    (":authority", "a.b:99999"),
    (":authority", "a.b\r\nx: y"),
    (":authority", "a.b c.d"),
    (":authority", "a.b?x"),
    (":status", "200"),
    (":protocol", "websocket"),
    (":unknown", "x"),
    (":", "x"),
    (":path:", "/x"),
    (":PATH", "/x"),
    (":host", "c.d"),
    (":content-length", "0"),
    (":transfer-encoding", "chunked"),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut push = |name: String, make: &dyn Fn(usize) -> Vec<u8>| {
        let bytes = make(cases.len());
        cases.push(Case { name, bytes });
    };
    let none = Headers::new();
    let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    push("as it should be".into(), &|number| stream(&headers(number), Some(b"abc"), &none));
    for (name, value) in LINES {
        push(format!("{name:?}: {value:?} before a body"), &|number| {
            let mut headers = headers(number);
            headers.push(pair(name, value));
            stream(&headers, Some(&[b"0\r\n\r\n".to_vec(), smuggled(number)].concat()), &none)
        });
        push(format!("{name:?}: {value:?} beside a length"), &|number| {
            let (mut headers, body) = (headers(number), smuggled(number));
            headers.push(pair("content-length", &body.len().to_string()));
            headers.push(pair(name, value));
            stream(&headers, Some(&body), &none)
        });
        push(format!("{name:?}: {value:?} without a body"), &|number| {
            let mut headers = headers(number);
            headers.push(pair(name, value));
            stream(&headers, None, &none)
        });
        push(format!("{name:?}: {value:?} after the body"), &|number| {
            stream(&headers(number), Some(&smuggled(number)), &vec![pair(name, value)])
        });
    }
    for (name, value) in PSEUDO {
        for place in 0..5 {
            push(format!("{name:?}: {value:?} at place {place}"), &|number| {
                let mut all = headers(number);
                match place {
                    // In the place of the right one, twice in either order, after what must come after, in trailers.
                    0 => match all.iter().position(|(it, _)| it == name.as_bytes()) {
                        Some(at) => all[at].1 = value.into(),
                        None => all.push(pair(name, value)),
                    },
                    1 => all.insert(0, pair(name, value)),
                    2 => all.push(pair(name, value)),
                    3 => all.extend([pair("x", "y"), pair(name, value)]),
                    _ => return stream(&all, Some(b"abc"), &vec![pair(name, value)]),
                }
                stream(&all, Some(&smuggled(number)), &none)
            });
        }
    }
    for text in BREAKS {
        for (index, (name, right)) in headers(0).into_iter().enumerate() {
            let name = String::from_utf8(name).unwrap();
            let right = String::from_utf8(right).unwrap();
            push(format!("{text:?} after {right:?} of {name}"), &|number| {
                let mut all = headers(number);
                all[index].1.extend_from_slice(text.as_bytes());
                stream(&all, Some(&smuggled(number)), &none)
            });
        }
        for (name, value) in [
            (format!("x{text}"), "y".to_owned()),
            ("x".into(), format!("y{text}")),
            ("cookie".into(), text.into()),
        ] {
            push(format!("{name:?}: {value:?}"), &|number| {
                let mut all = headers(number);
                all.push(pair(&name, &value));
                stream(&all, Some(&smuggled(number)), &none)
            });
        }
    }
    for said in [0_usize, 1, 2, 4, 100, usize::MAX] {
        for body in [None, Some(&b""[..]), Some(b"abc")] {
            push(format!("a length of {said} for {body:?}"), &|number| {
                let mut all = headers(number);
                all.push(pair("content-length", &said.to_string()));
                stream(&all, body, &none)
            });
        }
    }
    cases
}

/// All of it at once; whatever is answered is taken until nothing more comes.
pub(crate) fn send(address: SocketAddr, case: &Case) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    drop(stream.write_all(&case.bytes));
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
    drop(stream.shutdown(Shutdown::Both));
}
