//! Changes under load: routes, certificates and endpoints of a large weir-ingress change one after the other, while
//! clients ask on connections that are kept and may not see a single wrong answer.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::client::{Clients, Load};
use super::peers::{HTTP, OTHER_UPSTREAM, Peer, Running, UPSTREAM};
use super::site::{self, Site};
use crate::statistics::Summary;

/// Hosts with this many paths each make the large configuration.
const PATHS: usize = 10;
/// So long after a change its effect must be seen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients pause so long between two requests: what is measured is the change, not a proxy without a moment to spare.
const PACE: Duration = Duration::from_millis(2);

/// What was found.
pub(super) struct Churn {
    pub(super) routes: usize,
    pub(super) changes: usize,
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// Milliseconds from a file's renaming to the first answer that shows it, by kind of change.
    pub(super) live_ms: Vec<(&'static str, Summary)>,
    /// What weir-ingress occupies: before the changes, and after them.
    pub(super) mib: [f64; 2],
}

/// Adds hosts until there are `routes` routes, each Ingress with a Service of its own.
pub(super) fn write_routes(folder: &Path, routes: usize) -> Result<()> {
    for number in 0..routes.div_ceil(PATHS) {
        let paths: String = (0..PATHS)
            .map(|path| {
                format!(
                    "          - {{ path: /part-{path}, pathType: Prefix, backend: {{ service: {{ name: s-{number}, port: {{ number: 80 }} }} }} }}\n"
                )
            })
            .collect();
        let text = format!(
            "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{ name: many-{number} }}
spec:
  rules:
    - host: many-{number}.bench.test
      http:
        paths:
{paths}---
{}",
            site::service(&format!("s-{number}"), UPSTREAM)
        );
        replace(&folder.join(format!("many-{number}.yaml")), &text)?;
    }
    Ok(())
}

/// In one step, as an editor or a synchronised folder does it.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("write {}", path.display()))
}

/// What changes, and how it shows.
#[derive(Clone, Copy)]
enum Kind {
    Route,
    Certificate,
    Endpoint,
}

impl Kind {
    const ALL: [(&'static str, Self); 3] =
        [("route", Self::Route), ("certificate", Self::Certificate), ("endpoint", Self::Endpoint)];
}

/// The files that change.
pub(super) struct Changes<'a> {
    folder: PathBuf,
    site: &'a Site,
    clients: &'a Clients,
}

impl<'a> Changes<'a> {
    /// Writes what is to change in its first version.
    pub(super) fn new(folder: PathBuf, site: &'a Site, clients: &'a Clients) -> Result<Self> {
        let changes = Self { folder, site, clients };
        for (_, kind) in Kind::ALL {
            changes.write(kind, 0)?;
        }
        Ok(changes)
    }

    fn write(&self, kind: Kind, number: usize) -> Result<()> {
        let (name, text) = match kind {
            Kind::Route => {
                // A host that is new each time, and the last one goes.
                let host = format!("change-{number}.bench.test");
                ("route", site::plain_ingress("route", &host, "web"))
            }
            Kind::Certificate => {
                let host = &self.site.swapped[number % self.site.swapped.len()];
                let text =
                    format!("{}{}", site::secret(&host.name, host), site::ingress("swapped", &host.name));
                ("certificate", text)
            }
            Kind::Endpoint => {
                let port = if number.is_multiple_of(2) { UPSTREAM } else { OTHER_UPSTREAM };
                let text = site::service("moved", port);
                ("endpoint", format!("{text}{}", site::plain_ingress("moved", MOVED, "moved")))
            }
        };
        replace(&self.folder.join(format!("change-{name}.yaml")), &text)
    }

    /// Whether version `number` of it shows.
    async fn shows(&self, kind: Kind, number: usize, plain: &mut Option<TcpStream>) -> Result<bool> {
        match kind {
            Kind::Route => {
                let answer = ask(plain, &format!("change-{number}.bench.test")).await?;
                Ok(answer.starts_with("HTTP/1.1 200 "))
            }
            Kind::Endpoint => {
                let port = if number.is_multiple_of(2) { UPSTREAM } else { OTHER_UPSTREAM };
                let answer = ask(plain, MOVED).await?;
                // Whichever upstream: an endpoint that moves must never show.
                ensure!(answer.starts_with("HTTP/1.1 200 "), "{MOVED} answered {:?}", answer.lines().next());
                Ok(answer.contains(&format!("bench-{port}\r\n")))
            }
            Kind::Certificate => {
                let host = &self.site.swapped[number % self.site.swapped.len()];
                let stream = TcpStream::connect(Peer::Weir.address()).await.context("connect")?;
                let name = ServerName::try_from(host.name.clone())?;
                let stream = TlsConnector::from(self.clients.config()).connect(name, stream).await;
                let stream = stream.context("a handshake while its certificate changes")?;
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                Ok(shown.is_some_and(|shown| *shown == host.der))
            }
        }
    }
}

const MOVED: &str = "moved.bench.test";

/// One request in the clear on a connection that is kept, and the head of its answer.
async fn ask(kept: &mut Option<TcpStream>, host: &str) -> Result<String> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(("127.0.0.1", HTTP)).await.context("connect")?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    let request = format!("GET /1024 HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("send a request")?;
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.context("an answer without a length")? {
                break;
            }
        }
        ensure!(stream.read_buf(&mut answer).await.context("read an answer")? > 0, "the connection ended");
    }
    *kept = Some(stream);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Makes the changes while clients ask, and waits for each to show.
pub(super) async fn run(
    running: &Running,
    clients: &Rc<Clients>,
    changes: &Changes<'_>,
    count: usize,
    routes: usize,
) -> Result<Churn> {
    let load = Rc::new(Asked::default());
    let mut tasks = JoinSet::new();
    for (number, kind) in (0..12).map(|number| (number, number % 2)) {
        let (clients, load) = (Rc::clone(clients), Rc::clone(&load));
        let name = if kind == 0 { "http1-1k" } else { "http2-1" };
        let form = Load::ALL.into_iter().find(|(known, _)| *known == name).context("a load of that name")?.1;
        tasks.spawn_local(async move { clients.steadily(form, number, PACE, &load).await });
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut plain = None;
    for (name, kind) in Kind::ALL {
        ensure!(changes.shows(kind, 0, &mut plain).await?, "the first {name} does not show");
    }
    let before = running.memory()?;
    let mut live: Vec<Vec<f64>> = vec![Vec::new(); Kind::ALL.len()];
    for change in 0..count {
        let (which, number) = (change % Kind::ALL.len(), change / Kind::ALL.len() + 1);
        let (name, kind) = Kind::ALL[which];
        changes.write(kind, number)?;
        let began = Instant::now();
        while !changes.shows(kind, number, &mut plain).await? {
            ensure!(began.elapsed() < PATIENCE, "{name} {number} does not show within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        live[which].push(began.elapsed().as_secs_f64() * 1e3);
    }
    let after = running.memory()?;
    load.over.set(true);
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client's task")?;
    }
    if let Some(first) = load.first.take() {
        eprintln!("weir-bench: the first request that failed: {first}");
    }
    let live_ms = Kind::ALL
        .iter()
        .zip(live)
        .filter_map(|((name, _), values)| Some((*name, Summary::of(values)?)))
        .collect();
    Ok(Churn {
        routes,
        changes: count,
        requests: load.requests.get(),
        failed: load.failed.get(),
        live_ms,
        mib: [mib(before), mib(after)],
    })
}

/// What steady clients saw.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) over: Cell<bool>,
    pub(super) requests: Cell<u64>,
    failed: Cell<u64>,
    first: RefCell<Option<String>>,
}

impl Asked {
    pub(super) fn failed(&self, error: &anyhow::Error) {
        self.failed.set(self.failed.get() + 1);
        self.first.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
    }
}
