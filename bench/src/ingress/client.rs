//! The clients: loads over TLS, each request's time taken, on one thread.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::churn::Asked;
use super::site::Site;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Bodies that the upstream has.
pub(super) const SIZES: [usize; 2] = [KIB, MIB];

/// What is asked for, in which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Http1 {
        body: usize,
        connections: usize,
    },
    Http2 {
        body: usize,
        connections: usize,
        streams: usize,
    },
    /// A connection, a full handshake, and the connection's end, again and again.
    Handshake {
        connections: usize,
    },
}

impl Load {
    /// Names in reports and for `--only`.
    pub(super) const ALL: [(&'static str, Self); 6] = [
        ("http1-1k", Self::Http1 { body: KIB, connections: 32 }),
        ("http1-1m", Self::Http1 { body: MIB, connections: 4 }),
        ("http2-1", Self::Http2 { body: KIB, connections: 32, streams: 1 }),
        ("http2-10", Self::Http2 { body: KIB, connections: 8, streams: 10 }),
        ("http2-1m", Self::Http2 { body: MIB, connections: 4, streams: 1 }),
        ("handshake", Self::Handshake { connections: 8 }),
    ];

    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 { .. } | Self::Handshake { .. } => b"http/1.1",
            Self::Http2 { .. } => b"h2",
        }
    }
}

/// What one measurement saw: of each request that ended in its time, how long it took.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) latencies: Vec<Duration>,
    pub(super) wall: Duration,
}

type Sender = http2::SendRequest<Empty<Bytes>>;

/// Where clients go, and as whom they know it.
pub(super) struct Clients {
    to: SocketAddr,
    hosts: Vec<String>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

/// What the tasks of one load share.
#[derive(Default)]
struct Tally {
    counting: Cell<bool>,
    over: Cell<bool>,
    latencies: RefCell<Vec<Duration>>,
}

impl Tally {
    fn add(&self, began: Instant) {
        if self.counting.get() {
            self.latencies.borrow_mut().push(began.elapsed());
        }
    }
}

impl Clients {
    pub(super) fn new(site: &Site, to: SocketAddr) -> Result<Self> {
        let hosts = site.hosts.iter().map(|host| host.name.clone()).collect();
        Ok(Self { to, hosts, http1: site.client(b"http/1.1")?, http2: site.client(b"h2")? })
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.http1)
    }

    fn host(&self, number: usize) -> String {
        self.hosts[number % self.hosts.len()].clone()
    }

    /// A connection whose handshake is over, to one of the hosts.
    async fn connect(&self, number: usize, alpn: &[u8]) -> Result<TlsStream<TcpStream>> {
        let config = if alpn == b"h2" { &self.http2 } else { &self.http1 };
        let host = self.host(number);
        let stream = TcpStream::connect(self.to).await.with_context(|| format!("connect to {}", self.to))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host.clone())?;
        let stream = TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await
            .with_context(|| format!("handshake with {host}"))?;
        ensure!(stream.get_ref().1.alpn_protocol() == Some(alpn), "{host} did not agree to the protocol");
        Ok(stream)
    }

    /// Puts this load on for a moment and then for `duration`, at whose ends `meter` is asked. Every answer must be right.
    pub(super) async fn load<M>(
        self: &Rc<Self>,
        load: Load,
        duration: Duration,
        mut meter: impl FnMut() -> Result<M>,
    ) -> Result<(Seen, M, M)> {
        let tally = Rc::new(Tally::default());
        let mut tasks = JoinSet::new();
        let connections = match load {
            Load::Http1 { connections, .. }
            | Load::Http2 { connections, .. }
            | Load::Handshake { connections } => connections,
        };
        for number in 0..connections {
            let (clients, tally) = (Rc::clone(self), Rc::clone(&tally));
            // Not the first hosts only.
            let number = number * 7;
            tasks.spawn_local(async move {
                match load {
                    Load::Http1 { body, .. } => clients.http1(number, body, &tally).await,
                    Load::Http2 { body, streams, .. } => clients.http2(number, body, streams, &tally).await,
                    Load::Handshake { .. } => clients.handshakes(number, load.alpn(), &tally).await,
                }
            });
        }
        tokio::time::sleep(duration / 4).await;
        let (before, began) = (meter()?, Instant::now());
        tally.counting.set(true);
        tokio::time::sleep(duration).await;
        tally.counting.set(false);
        let (wall, after) = (began.elapsed(), meter()?);
        tally.over.set(true);
        while let Some(ended) = tasks.join_next().await {
            ended.context("a client's task")??;
        }
        let latencies = tally.latencies.take();
        ensure!(!latencies.is_empty(), "no request was answered in {duration:?}");
        Ok((Seen { latencies, wall }, before, after))
    }

    async fn http1(&self, number: usize, body: usize, tally: &Tally) -> Result<()> {
        let mut stream = self.connect(number, b"http/1.1").await?;
        let request = self.request(number, body);
        let mut buffer = vec![0; 64 << 10];
        while !tally.over.get() {
            let began = Instant::now();
            exchange(&mut stream, &request, body, &mut buffer).await?;
            tally.add(began);
        }
        Ok(())
    }

    /// What a browser says about itself, shortened.
    fn request(&self, number: usize, body: usize) -> Vec<u8> {
        format!(
            "GET /{body} HTTP/1.1\r\nHost: {}\r\nUser-Agent: bench\r\nAccept: */*\r\nAccept-Encoding: gzip, br\r\n\
             Cookie: session=0123456789abcdef\r\n\r\n",
            self.host(number)
        )
        .into_bytes()
    }

    async fn http2(
        self: &Rc<Self>,
        number: usize,
        body: usize,
        streams: usize,
        tally: &Rc<Tally>,
    ) -> Result<()> {
        let (sender, connection) = self.begin_http2(number).await?;
        let mut tasks = JoinSet::new();
        for _ in 0..streams {
            let (clients, tally, mut sender) = (Rc::clone(self), Rc::clone(tally), sender.clone());
            tasks.spawn_local(async move {
                while !tally.over.get() {
                    let began = Instant::now();
                    clients.exchange2(number, body, &mut sender).await?;
                    tally.add(began);
                }
                anyhow::Ok(())
            });
        }
        drop(sender);
        while let Some(ended) = tasks.join_next().await {
            ended.context("a client's task")??;
        }
        connection.abort();
        Ok(())
    }

    /// One request of HTTP/2 and its whole response, which must be 200 and have a body of this length.
    async fn exchange2(&self, number: usize, body: usize, sender: &mut Sender) -> Result<()> {
        let request = Request::get(format!("https://{}/{body}", self.host(number)))
            .version(Version::HTTP_2)
            .header("user-agent", "bench")
            .header("accept", "*/*")
            .header("accept-encoding", "gzip, br")
            .header("cookie", "session=0123456789abcdef")
            .body(Empty::new())?;
        let response = sender.send_request(request).await.context("ask over HTTP/2")?;
        ensure!(response.status() == StatusCode::OK, "answered {}", response.status());
        let mut content = response.into_body();
        let mut received = 0;
        while let Some(frame) = content.frame().await {
            received += frame.context("a body over HTTP/2")?.data_ref().map_or(0, Bytes::len);
        }
        ensure!(received == body, "a body of {received} bytes, expected {body}");
        Ok(())
    }

    async fn begin_http2(&self, number: usize) -> Result<(Sender, JoinHandle<hyper::Result<()>>)> {
        let stream = self.connect(number, b"h2").await?;
        let (sender, connection) = http2::Builder::new(Local)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .context("begin HTTP/2")?;
        Ok((sender, spawn_local(connection)))
    }

    /// One request after the other on one kept connection, with pauses, until told to end. A request that fails is
    /// counted, and the next is asked on a new connection.
    pub(super) async fn steadily(&self, load: Load, number: usize, pause: Duration, asked: &Asked) {
        while !asked.over.get() {
            if let Err(error) = self.steadily_on_one(load, number, pause, asked).await {
                asked.failed(&error);
            }
        }
    }

    async fn steadily_on_one(&self, load: Load, number: usize, pause: Duration, asked: &Asked) -> Result<()> {
        let more = async || {
            asked.requests.set(asked.requests.get() + 1);
            tokio::time::sleep(pause).await;
            !asked.over.get()
        };
        if let Load::Http2 { body, .. } = load {
            let (mut sender, connection) = self.begin_http2(number).await?;
            while more().await {
                self.exchange2(number, body, &mut sender).await?;
            }
            connection.abort();
        } else {
            let mut stream = self.connect(number, load.alpn()).await?;
            let (request, mut buffer) = (self.request(number, KIB), vec![0; 16 << 10]);
            while more().await {
                exchange(&mut stream, &request, KIB, &mut buffer).await?;
            }
        }
        Ok(())
    }

    async fn handshakes(&self, mut number: usize, alpn: &[u8], tally: &Tally) -> Result<()> {
        let mut buffer = [0; 1 << 10];
        while !tally.over.get() {
            let began = Instant::now();
            let mut stream = self.connect(number, alpn).await?;
            number += 1;
            stream.shutdown().await.context("end a connection")?;
            // Its end is the server's answer to ours: by then it has seen the end of the handshake, too.
            while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
            tally.add(began);
        }
        Ok(())
    }

    /// Connections on which one request has been answered, and which nothing moves on any more.
    pub(super) async fn idle(&self, load: Load, count: usize) -> Result<Vec<Box<dyn std::any::Any>>> {
        let mut idle: Vec<Box<dyn std::any::Any>> = Vec::new();
        let mut buffer = vec![0; 16 << 10];
        for number in 0..count {
            if let Load::Http2 { .. } = load {
                let (mut sender, task) = self.begin_http2(number).await?;
                self.exchange2(number, KIB, &mut sender).await?;
                idle.push(Box::new((sender, task)));
            } else {
                let mut stream = self.connect(number, load.alpn()).await?;
                exchange(&mut stream, &self.request(number, KIB), KIB, &mut buffer).await?;
                idle.push(Box::new(stream));
            }
        }
        Ok(idle)
    }
}

/// One request of HTTP/1.1 and its whole response, which must be 200 and have a body of this length.
async fn exchange(
    stream: &mut TlsStream<TcpStream>,
    request: &[u8],
    body: usize,
    buffer: &mut [u8],
) -> Result<()> {
    stream.write_all(request).await.context("send a request")?;
    stream.flush().await.context("send a request")?;
    let mut filled = 0;
    let head = loop {
        let read = stream.read(&mut buffer[filled..]).await.context("read a response")?;
        ensure!(read > 0, "the connection ended before the response's head");
        filled += read;
        if let Some(end) = buffer[..filled].windows(4).position(|it| it == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = std::str::from_utf8(&buffer[..head]).context("a response's head")?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "answered {:?}", text.lines().next());
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    ensure!(length == Some(body), "a body of {length:?} bytes, expected {body}");
    let mut left = (head + body).checked_sub(filled).context("more than the response")?;
    while left > 0 {
        let read = stream.read(buffer).await.context("read a response's body")?;
        ensure!(read > 0, "the connection ended {left} bytes before the response's end");
        left = left.checked_sub(read).context("more than the response")?;
    }
    Ok(())
}

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy)]
pub(super) struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}
