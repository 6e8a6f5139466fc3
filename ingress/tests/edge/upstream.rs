//! An HTTP/1.1 server that does what a test tells it to, and remembers each request as it came.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `GET /path HTTP/1.1`.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// The number of its connection, from 0.
    pub(crate) connection: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }
}

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
}

impl Upstream {
    /// One that says `NAME: METHOD PATH` and the length of the body.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::new(move |seen, stream| {
            let body = format!("{name}: {} +{}\n", seen.line, seen.body.len());
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            Ok(true)
        })
    }

    /// Answers each request by `answer`, whose result is whether the connection goes on.
    pub(crate) fn new(
        answer: impl Fn(&Seen, &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        Self::raw(move |stream, connection, seen| {
            let mut reader = BufReader::new(stream.try_clone()?);
            while let Some(request) = read(&mut reader, connection)? {
                seen.lock().unwrap().push(request.clone());
                if !answer(&request, stream)? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Does as it likes with each connection.
    pub(crate) fn raw(
        serve: impl Fn(&mut TcpStream, usize, &Mutex<Vec<Seen>>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let upstream =
            Self { address, seen: Arc::default(), connections: Arc::default(), ends: Arc::default() };
        let (seen, connections, ends) =
            (Arc::clone(&upstream.seen), Arc::clone(&upstream.connections), Arc::clone(&upstream.ends));
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                let number = connections.fetch_add(1, SeqCst);
                let (serve, seen) = (Arc::clone(&serve), Arc::clone(&seen));
                thread::spawn(move || {
                    // The proxy may leave at any time.
                    drop(serve(&mut stream, number, &seen));
                    drop(stream.shutdown(Shutdown::Both));
                });
            }
        });
        upstream
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ends.store(true, SeqCst);
        // Wakes the thread, so that it sees that.
        drop(TcpStream::connect(self.address));
    }
}

/// The next request; nothing at the end of the connection.
pub(crate) fn read(reader: &mut BufReader<TcpStream>, connection: usize) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut seen =
        Seen { line: line.trim_end().to_owned(), headers: Vec::new(), body: String::new(), connection };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        seen.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut take = |len: usize| -> io::Result<String> {
        let mut bytes = vec![0; len];
        reader.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    if let Some(len) = seen.header("content-length") {
        seen.body = take(len.parse().unwrap())?;
    } else if seen.header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let len = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; len + 2];
            reader.read_exact(&mut chunk)?;
            if len == 0 {
                break;
            }
            seen.body += &String::from_utf8_lossy(&chunk[..len]);
        }
    }
    Ok(Some(seen))
}
