//! A corpus of request smuggling: mutated requests, and what the upstream makes of the bytes that the proxy sends on.
//!
//! What reaches the upstream must be read alike by a reader that takes nothing but the standard and by one that takes anything,
//! and each request that either finds must be one that the proxy knows of: it has a line in the access log. Whether a
//! mutation is refused or understood is the proxy's business; here it only must not mean two things.

#[path = "../edge/mod.rs"]
mod edge;
mod http2;
mod mutate;
mod parse;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use edge::{Edge, Upstream, everything};
use mutate::{Case, Corpus};

/// Who says nothing for so long has said what he has to say. Whoever is cut off by it on a busy machine has only been tried less.
const SILENCE: Duration = Duration::from_millis(60);
/// Connections at a time.
const CLIENTS: usize = 32;

/// What an upstream was sent, by the number of the connection.
type Kept = Arc<Mutex<BTreeMap<usize, Vec<u8>>>>;

/// An upstream that keeps every byte, by connection, and answers what the standard calls a request.
fn keeper() -> (Upstream, Kept) {
    let kept = Kept::default();
    let keeps = Arc::clone(&kept);
    let upstream = Upstream::raw(move |stream, number, _| {
        let (mut buffer, mut answered) = (vec![0; 64 << 10], 0);
        loop {
            let len = stream.read(&mut buffer)?;
            if len == 0 {
                return Ok(());
            }
            let (found, end) = {
                let mut kept = keeps.lock().unwrap();
                let bytes = kept.entry(number).or_default();
                bytes.extend_from_slice(&buffer[..len]);
                parse::strict(&bytes[answered..]).map_err(io::Error::other)?
            };
            answered += end;
            for _ in found.iter().filter(|found| found.whole) {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            }
        }
    });
    (upstream, kept)
}

/// Sends all cases and checks what came of them.
fn check(cases: &[Case], send: impl Fn(SocketAddr, &Case) + Sync, known: &[&str]) {
    let (upstream, kept) = keeper();
    let edge = Edge::new(&everything(&[], &[upstream.address]));
    // What is as it should be arrives, or nothing here would mean anything.
    edge::eventually(|| {
        send(edge.http, &cases[0]);
        let kept = kept.lock().unwrap();
        let sent = kept.values().map(|bytes| String::from_utf8_lossy(bytes)).collect::<String>();
        known.iter().all(|line| sent.contains(line)).then_some(())
    });
    let next = AtomicUsize::new(1);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, SeqCst)) {
                    send(edge.http, case);
                }
            });
        }
    });
    let mut tries: BTreeMap<String, u64> = BTreeMap::new();
    // The proxy's end writes down what was still under way.
    for line in edge.ended() {
        if line.get("upstream").is_some() {
            let path = line["path"].as_str().unwrap();
            *tries.entry(path.to_owned()).or_default() += line["tries"].as_u64().unwrap();
        }
    }
    let about = |line: &str| {
        let number: String =
            line.chars().skip_while(|it| !it.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        let case = number.parse::<usize>().ok().and_then(|number| cases.get(number));
        case.map(|case| format!("{}: {:?}", case.name, String::from_utf8_lossy(&case.bytes)))
            .unwrap_or_default()
    };
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for (number, bytes) in &*kept.lock().unwrap() {
        let (strict, _) = parse::strict(bytes)
            .unwrap_or_else(|error| panic!("the upstream is sent {error}: {}", about(&error)));
        let lenient = parse::lenient(bytes);
        if strict != lenient {
            let first = strict.iter().zip(&lenient).find(|(one, other)| one != other);
            let about = first.map(|(one, _)| about(&one.line)).unwrap_or_default();
            panic!(
                "connection {number} is read in two ways: {first:?}, {} and {} requests; {about}",
                strict.len(),
                lenient.len()
            );
        }
        for found in strict {
            *seen.entry(found.path().to_owned()).or_default() += 1;
        }
    }
    for (path, count) in &seen {
        let known = tries.get(path).copied().unwrap_or(0);
        assert!(
            *count <= known,
            "the upstream found {path} {count} times, the proxy sent it {known} times: {}",
            about(path)
        );
    }
    eprintln!("{} cases, {} requests reached the upstream", cases.len(), seen.values().sum::<u64>());
}

/// The case, and a request after it that ends the connection.
fn send(address: SocketAddr, case: &Case) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let last = "GET /next HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n";
    // The proxy may have closed at any point.
    drop(stream.write_all(&[case.bytes.as_slice(), last.as_bytes()].concat()));
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
    drop(stream.shutdown(Shutdown::Both));
}

#[test]
fn no_mutation_of_http1_means_two_things() {
    check(&Corpus::all().cases, send, &["POST /c0 ", "GET /next "]);
}

#[test]
fn no_mutation_of_http2_means_two_things_in_http1() {
    check(&http2::cases(), http2::send, &["POST /c0 "]);
}
