//! Requests taken apart and put together wrongly: every mutation at every place.

/// Bytes that somebody passes over, or takes for the end of something.
const STRAY: [&[u8]; 20] = [
    b" ", b"\t", b"\x0b", b"\x0c", b"\0", b"\r", b"\n", b"\r\n", b"\r\n ", b"\xa0", b"\x85", b"\x7f",
    b"\x01", b"\xff", b"\"", b",", b";", b"+", b"-", b"_",
];
/// In the place of a line's end.
const ENDS: [&[u8]; 9] = [b"\n", b"\r", b"\r\r\n", b"\r\0\n", b"\n\r", b"", b"\r\n ", b"\r\n\t", b"\r\n\r\n"];

const LENGTHS: [&str; 15] = [
    "+N",
    "-N",
    "0xN",
    "N,N",
    "N, N",
    "N, 0",
    "0, N",
    "N;",
    "N N",
    "0N",
    "N.0",
    "Ne0",
    "",
    "\"N\"",
    "99999999999999999999",
];

const CODINGS: [&str; 16] = [
    "chunked",
    "Chunked",
    "CHUNKED",
    "chunked,",
    ",chunked",
    "xchunked",
    "chunkedx",
    "chunked, identity",
    "identity, chunked",
    "gzip, chunked",
    "chunked;q=1",
    "identity",
    "chunked chunked",
    "'chunked'",
    "[chunked]",
    "chunked, chunked",
];

const SIZES: [&str; 16] = [
    "+S",
    "-S",
    "0xS",
    " S",
    "S ",
    "\tS",
    "S\t",
    "S;",
    "S;a=b",
    "S;\"\n\"",
    "S;a=\"\r\n\"",
    "0000000000000000S",
    "1000000000000000S",
    "ffffffffffffffffS",
    "S,0",
    "Sh",
];

/// Lines that say of other lines what to do with them, or that stand in their place.
const LINES: [&str; 24] = [
    "Connection: content-length",
    "Connection: transfer-encoding",
    "Connection: close, content-length, transfer-encoding, host",
    "Connection: host",
    "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Connection: upgrade\r\nUpgrade: websocket",
    "Upgrade: websocket",
    "TE: trailers, chunked",
    "TE: chunked",
    "Trailer: Content-Length, Transfer-Encoding",
    "Expect: 100-continue",
    "Expect: 100-continue, 200-ok",
    "Expect: ",
    "Content_Length: 5",
    "Transfer_Encoding: chunked",
    "Content-Length: 5",
    "Content-Length: 0",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Content-Encoding: chunked",
    "Host: c.d",
    "X-HTTP-Method-Override: GET",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
];

/// Request lines, `P` being the path.
const REQUEST_LINES: [&str; 24] = [
    "POST P HTTP/1.0",
    "POST P HTTP/0.9",
    "POST P HTTP/1.2",
    "POST P HTTP/2.0",
    "POST P HTTP/1.01",
    "POST P http/1.1",
    "POST P HTTP/1.1 ",
    "POST  P HTTP/1.1",
    "POST P  HTTP/1.1",
    "POST\tP\tHTTP/1.1",
    "POST P",
    " POST P HTTP/1.1",
    "POST P HTTP/1.1\x0b",
    "POST http://a.bP HTTP/1.1",
    "POST http://c.dP HTTP/1.1",
    "POST http://a.b@c.dP HTTP/1.1",
    "POST ftp://a.bP HTTP/1.1",
    "POST *P HTTP/1.1",
    "POST P%0d%0aX:%20y HTTP/1.1",
    "POST P#x HTTP/1.1",
    "POST P?a b HTTP/1.1",
    "GET P HTTP/1.1",
    "PRI P HTTP/1.1",
    "P\u{d6}ST P HTTP/1.1",
];

/// What one connection sends, and which mutation it is.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// A request in lines without their ends, and a body in pieces.
#[derive(Clone)]
struct Parts {
    lines: Vec<Vec<u8>>,
    body: Vec<Vec<u8>>,
}

impl Parts {
    /// `framing` beside the Host; the body is chunks that end, and then a request that may be seen or not.
    fn new(number: usize, framing: &[&str], body: Vec<Vec<u8>>) -> Self {
        let mut lines = vec![format!("POST /c{number} HTTP/1.1").into_bytes(), b"Host: a.b".to_vec()];
        lines.extend(framing.iter().map(|line| line.as_bytes().to_vec()));
        Self { lines, body }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for line in &self.lines {
            all.extend_from_slice(line);
            all.extend_from_slice(b"\r\n");
        }
        all.extend_from_slice(b"\r\n");
        self.body.iter().for_each(|piece| all.extend_from_slice(piece));
        all
    }
}

/// Makes the cases one after the other; each has a number, and so paths of its own.
#[derive(Default)]
pub(crate) struct Corpus {
    pub(crate) cases: Vec<Case>,
}

impl Corpus {
    pub(crate) fn all() -> Self {
        let mut corpus = Self::default();
        corpus.push("as it should be", |number| {
            Parts::new(number, &["Content-Length: 3"], vec![b"abc".to_vec()]).bytes()
        });
        corpus.stray_bytes();
        corpus.values();
        corpus.line_ends();
        corpus.sizes();
        corpus.lines();
        corpus.request_lines();
        corpus
    }

    fn push(&mut self, name: impl Into<String>, make: impl FnOnce(usize) -> Vec<u8>) {
        let number = self.cases.len();
        self.cases.push(Case { name: name.into(), bytes: make(number) });
    }

    /// Both ways that a body can be meant: a length that holds what chunks leave out, and chunks that hold what a length leaves out.
    fn both(&mut self, name: &str, make: impl Fn(usize, &[&str], Vec<Vec<u8>>, usize) -> Parts) {
        self.push(format!("{name}, the length longer"), |number| {
            let body = vec![b"0\r\n\r\n".to_vec(), smuggled(number)];
            let len = body.concat().len();
            make(number, &[&format!("Content-Length: {len}")], body, len).bytes()
        });
        self.push(format!("{name}, the chunks longer"), |number| {
            let inner = smuggled(number);
            let body = vec![format!("{:x}\r\n", inner.len()).into_bytes(), inner, b"\r\n0\r\n\r\n".to_vec()];
            let len = body[0].len();
            make(number, &[&format!("Content-Length: {len}")], body, len).bytes()
        });
    }

    /// Each stray byte at each place of each framing header, alone and beside the other one.
    fn stray_bytes(&mut self) {
        for stray in STRAY {
            for place in 0..6 {
                let shown = String::from_utf8_lossy(stray).into_owned();
                let put = |header: &str| {
                    let (name, value) = header.split_once(": ").unwrap_or((header, ""));
                    let at = match place {
                        0 => 0,
                        1 => name.len() / 2,
                        2 => name.len(),
                        3 => name.len() + 1,
                        4 => name.len() + 2 + value.len() / 2,
                        _ => header.len(),
                    };
                    let bytes = header.as_bytes();
                    [&bytes[..at], stray, &bytes[at..]].concat()
                };
                self.both(
                    &format!("{shown:?} at place {place} of a coding after a length"),
                    |number, length, body, _| {
                        let mut parts = Parts::new(number, length, body);
                        parts.lines.push(put("Transfer-Encoding: chunked"));
                        parts
                    },
                );
                self.both(
                    &format!("{shown:?} at place {place} of a length after a coding"),
                    |number, length, body, _| {
                        let mut parts = Parts::new(number, &["Transfer-Encoding: chunked"], body);
                        parts.lines.push(put(length[0]));
                        parts
                    },
                );
                self.push(format!("{shown:?} at place {place} of a length alone"), |number| {
                    let inner = smuggled(number);
                    let mut parts = Parts::new(number, &[], vec![inner.clone()]);
                    parts.lines.push(put(&format!("Content-Length: {}", inner.len())));
                    parts.bytes()
                });
            }
        }
    }

    fn values(&mut self) {
        for value in LENGTHS {
            self.both(&format!("length {value:?}"), |number, _, body, len| {
                let value = value.replace('N', &len.to_string());
                Parts::new(number, &[&format!("Content-Length: {value}")], body)
            });
            self.both(&format!("length {value:?} after another"), |number, length, body, len| {
                let value = value.replace('N', &len.to_string());
                Parts::new(number, &[length[0], &format!("Content-Length: {value}")], body)
            });
        }
        for value in CODINGS {
            let line = format!("Transfer-Encoding: {value}");
            self.both(&format!("coding {value:?}"), |number, _, body, _| Parts::new(number, &[&line], body));
            self.both(&format!("coding {value:?} before a length"), |number, length, body, _| {
                Parts::new(number, &[&line, length[0]], body)
            });
            self.both(&format!("coding {value:?} after another"), |number, _, body, _| {
                Parts::new(number, &["Transfer-Encoding: chunked", &line], body)
            });
        }
    }

    /// Each line's end, and each in the body.
    fn line_ends(&mut self) {
        for end in ENDS {
            let shown = String::from_utf8_lossy(end).into_owned();
            for place in 0..9 {
                self.push(format!("{shown:?} as end {place}"), |number| {
                    let inner = String::from_utf8_lossy(&smuggled(number)).into_owned();
                    let pieces = [
                        format!("POST /c{number} HTTP/1.1"),
                        "Host: a.b".into(),
                        "X: y".into(),
                        "Transfer-Encoding: chunked".into(),
                        String::new(),
                        "3".into(),
                        "abc".into(),
                        "0".into(),
                        String::new(),
                    ];
                    let ended = pieces.iter().enumerate().flat_map(|(index, piece)| {
                        [piece.as_bytes(), if index == place { end } else { b"\r\n" }].concat()
                    });
                    ended.chain(inner.into_bytes()).collect()
                });
            }
        }
    }

    fn sizes(&mut self) {
        for size in SIZES {
            for last in [false, true] {
                self.push(format!("size {size:?}, of the last chunk: {last}"), |number| {
                    let inner = smuggled(number);
                    let of = |size: &str, len: usize, wrong: bool| {
                        let right = format!("{len:x}");
                        if wrong { size.replace('S', &right) } else { right }
                    };
                    let body = vec![
                        format!("{}\r\n", of(size, inner.len(), !last)).into_bytes(),
                        inner.clone(),
                        format!("\r\n{}\r\n\r\n", of(size, 0, last)).into_bytes(),
                    ];
                    Parts::new(number, &["Transfer-Encoding: chunked"], body).bytes()
                });
            }
        }
        for trailer in LINES {
            self.push(format!("trailer {trailer:?}"), |number| {
                let body = vec![format!("3\r\nabc\r\n0\r\n{trailer}\r\n\r\n").into_bytes(), smuggled(number)];
                Parts::new(number, &["Transfer-Encoding: chunked"], body).bytes()
            });
        }
    }

    fn lines(&mut self) {
        for line in LINES {
            self.both(&format!("line {line:?} beside a length"), |number, length, body, _| {
                Parts::new(number, &[length[0], line], body)
            });
            self.both(&format!("line {line:?} beside a coding"), |number, _, body, _| {
                Parts::new(number, &[line, "Transfer-Encoding: chunked"], body)
            });
            self.push(format!("line {line:?} and no framing"), |number| {
                Parts::new(number, &[line], vec![smuggled(number)]).bytes()
            });
        }
    }

    fn request_lines(&mut self) {
        for line in REQUEST_LINES {
            for framing in ["Content-Length: 3", "Transfer-Encoding: chunked"] {
                self.push(format!("request line {line:?} with {framing}"), |number| {
                    let body = if framing.starts_with('C') { "abc" } else { "3\r\nabc\r\n0\r\n\r\n" };
                    let mut parts = Parts::new(number, &[framing], vec![body.into(), smuggled(number)]);
                    parts.lines[0] = target(line, number);
                    parts.bytes()
                });
            }
        }
    }
}

/// The line with `P` in the place of its target made a path.
fn target(line: &str, number: usize) -> Vec<u8> {
    let at = line[1..].find(" P").or_else(|| line[1..].find("\tP")).map(|at| at + 2);
    let at =
        at.or_else(|| line.rfind('P').filter(|at| line[..*at].contains("//") || line[..*at].contains('*')));
    match at {
        Some(at) => format!("{}/c{number}{}", &line[..at], &line[at + 1..]).into_bytes(),
        None => line.as_bytes().to_vec(),
    }
}

/// A request that must be nobody's but its sender's.
pub(crate) fn smuggled(number: usize) -> Vec<u8> {
    format!("GET /inner{number} HTTP/1.1\r\nHost: a.b\r\nX: {number}\r\n\r\n").into_bytes()
}
