//! Listening sockets and the threads of the workers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{interval, timeout};

use super::Shared;
use super::serve;
use super::worker::Worker;

/// Connections that wait to be accepted, for each worker.
const BACKLOG: i32 = 1024;
/// Log and metrics are held back no longer.
const FLUSH: Duration = Duration::from_millis(200);

/// Where a proxy listens.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// Where to listen for HTTP in the clear; port 0 takes any.
    pub http: Option<SocketAddr>,
    /// Where to listen for TLS.
    pub https: Option<SocketAddr>,
    /// At least 1.
    pub workers: usize,
}

/// Sockets that listen already, each to be had by one worker.
#[derive(Debug, Default)]
pub struct Sockets {
    pub http: Vec<TcpListener>,
    pub https: Vec<TcpListener>,
}

impl Sockets {
    /// The same sockets once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        let again = |all: &[TcpListener]| all.iter().map(TcpListener::try_clone).collect::<io::Result<_>>();
        Ok(Self { http: again(&self.http)?, https: again(&self.https)? })
    }

    /// Listens wherever `listen` says and nobody does yet, so that each worker has a socket.
    fn complete(&mut self, listen: &mut Listen) -> Result<(), Error> {
        let places = [(&mut self.http, &mut listen.http), (&mut self.https, &mut listen.https)];
        for (sockets, address) in places {
            let Some(address) = address else { continue };
            // With port 0 the first socket's choice is everyone's.
            if let Some(chosen) = sockets.first().and_then(|first| first.local_addr().ok()) {
                *address = chosen;
            }
            while sockets.len() < listen.workers.max(1) {
                sockets.push(bind(address)?);
            }
        }
        Ok(())
    }
}

/// A running proxy. Dropping it ends it at once, [`Proxy::drain`] in peace.
pub struct Proxy {
    shared: Arc<Shared>,
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    drain: watch::Sender<bool>,
    /// Dropped to end what does not end by itself.
    abort: Option<watch::Sender<()>>,
    workers: Vec<JoinHandle<()>>,
    /// What workers listen on, for a successor.
    sockets: Sockets,
}

/// The proxy cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("start a worker")]
    Worker(#[source] io::Error),
    #[error("a worker ended before it listened")]
    Lost,
}

impl Proxy {
    /// Listens, and serves what `shared` holds.
    pub fn start(shared: Arc<Shared>, listen: Listen) -> Result<Self, Error> {
        Self::start_with(shared, listen, Sockets::default())
    }

    /// The same with sockets that there are already. All of them are listened to, however many workers there are.
    pub fn start_with(shared: Arc<Shared>, mut listen: Listen, mut sockets: Sockets) -> Result<Self, Error> {
        sockets.complete(&mut listen)?;
        let Listen { http, https, workers } = listen;
        let workers = workers.max(1);
        let (drain, draining) = watch::channel(false);
        let (abort, aborted) = watch::channel(());
        let tls = shared.server_config();
        let again = sockets.try_clone().map_err(Error::Worker)?;
        let mut all: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        for (number, socket) in sockets.http.into_iter().enumerate() {
            all[number % workers].push((socket, None));
        }
        for (number, socket) in sockets.https.into_iter().enumerate() {
            all[number % workers].push((socket, Some(Arc::clone(&tls))));
        }
        let mut proxy = Self {
            shared: Arc::clone(&shared),
            http,
            https,
            drain,
            abort: Some(abort),
            workers: Vec::new(),
            sockets: again,
        };
        let (ready, readiness) = std_mpsc::channel();
        for (number, sockets) in all.into_iter().enumerate() {
            let (shared, draining, aborted, ready) =
                (Arc::clone(&shared), draining.clone(), aborted.clone(), ready.clone());
            let worker = thread::Builder::new()
                .name(format!("worker {number}"))
                .spawn(move || work(shared, sockets, draining, aborted, &ready))
                .map_err(Error::Worker)?;
            proxy.workers.push(worker);
        }
        drop(ready);
        for _ in &proxy.workers {
            readiness.recv().map_err(|_| Error::Lost)?.map_err(Error::Worker)?;
        }
        Ok(proxy)
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where HTTP in the clear is served.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where HTTP over TLS is served.
    pub fn https(&self) -> Option<SocketAddr> {
        self.https
    }

    /// What it listens on, for a successor. Nobody accepts from them once this proxy drains.
    pub fn sockets(&self) -> io::Result<Sockets> {
        self.sockets.try_clone()
    }

    /// Takes no more connections and waits for the requests in flight, as long as the tuning allows.
    pub fn drain(mut self) {
        // Else nobody would refuse those that wait to be accepted, nor accept them.
        self.sockets = Sockets::default();
        self.drain.send_replace(true);
        self.join();
    }

    fn join(&mut self) {
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so; the others end in peace.
            drop(worker.join());
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.abort = None;
        self.join();
    }
}

/// A socket that shares its address with those of the other workers.
fn bind(address: &mut SocketAddr) -> Result<TcpListener, Error> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(*address)?;
        let socket = socket.as_fd().try_clone_to_owned()?;
        rustix::net::listen(&socket, BACKLOG)?;
        let listener = TcpListener::from(socket);
        Ok((listener.local_addr()?, listener))
    };
    let (chosen, socket) = bound().map_err(|error| Error::Listen(*address, error))?;
    *address = chosen;
    Ok(socket)
}

/// The whole life of a worker's thread.
fn work(
    shared: Arc<Shared>,
    sockets: Vec<(TcpListener, Option<Arc<ServerConfig>>)>,
    draining: watch::Receiver<bool>,
    mut aborted: watch::Receiver<()>,
    ready: &std_mpsc::Sender<io::Result<()>>,
) {
    // If nobody waits for it, nobody needs to know.
    let tell = |result| drop(ready.send(result));
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return tell(Err(error)),
    };
    let patience = shared.tuning.drain;
    let worker = Rc::new(Worker::new(shared));
    let served = async {
        let (alive, mut gone) = mpsc::channel(1);
        for (socket, tls) in sockets {
            let listener = match tokio::net::TcpListener::from_std(socket) {
                Ok(listener) => listener,
                Err(error) => return tell(Err(error)),
            };
            spawn_local(serve::accept(Rc::clone(&worker), listener, tls, draining.clone(), alive.clone()));
        }
        drop(alive);
        tell(Ok(()));
        spawn_local(housekeeping(Rc::clone(&worker)));
        let mut draining = draining.clone();
        let drained = async {
            if draining.wait_for(|drain| *drain).await.is_ok() {
                // Nothing is ever sent: it ends when the last holder is gone, or when patience does.
                drop(timeout(patience, gone.recv()).await);
            }
        };
        tokio::select! {
            () = drained => {}
            _ = aborted.changed() => {}
        }
    };
    runtime.block_on(served);
    // What was still under way is written down as it is dropped.
    drop(runtime);
    worker.flush();
}

async fn housekeeping(worker: Rc<Worker>) {
    let mut ticks = interval(FLUSH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0_u32;
    loop {
        ticks.tick().await;
        worker.flush();
        count = count.wrapping_add(1);
        if count.is_multiple_of(50) {
            worker.pool.sweep();
        }
    }
}
