//! `weir-ingress`: serves the Ingress objects of a cluster, or of a folder of Kubernetes YAML.
//!
//! Wiring only. One thread follows the source, compiles what it says and swaps the snapshot; one thread per core serves;
//! this one answers for health and metrics and waits for the signal to end.
#![forbid(unsafe_code)]

mod config;
mod keep;
mod source;

use std::io::{IsTerminal as _, Write};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use ingress::admin::{self, Admin, Phase};
use ingress::compile::Settings;
use ingress::handover::{Estate, Predecessor};
use ingress::kubernetes::Ending;
use ingress::proxy::{Listen, Proxy, Shared, Tuning};
use ingress::serving::Serving;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::{AccessLog, Config};
use crate::source::Source;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Config::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-ingress: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)
        .with_context(|| format!("--log {}: no tracing filter", config.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let tuning = Tuning {
        drain: Duration::from_secs(config.drain_seconds),
        trusted: config.trusted_proxies,
        announcing: config.proxy_protocol,
        https_port: config.https_port,
        ..Tuning::default()
    };
    let log: Option<Box<dyn Write + Send>> = match config.access_log {
        AccessLog::Stdout => Some(Box::new(std::io::stdout())),
        AccessLog::Off => None,
    };
    let shared = Arc::new(Shared::new(tuning, log));
    let settings = Settings {
        classes: config.classes,
        without_class: !config.only_with_class,
        default_backend: config.default_backend,
        default_certificate: config.default_certificate,
        secrets: true,
    };
    let serving = Serving::new(settings, Arc::clone(&shared));
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let listen =
        Listen { http: config.http.0, https: config.https.0, workers: config.workers.unwrap_or(cores) };
    let admin = Arc::new(Admin::new(Arc::clone(&shared)));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let serve = Serve {
        admin,
        address: config.admin.0,
        listen,
        delay: Duration::from_secs(config.drain_delay_seconds),
        take_over: config.take_over,
    };
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let Some((proxy, handed)) = serve
            .until_told(|admin| Source::start(config.files, config.cluster, serving, admin), &mut signals)
            .await?
        else {
            return Ok(());
        };
        info!("draining");
        // It waits for its threads.
        let drained = tokio::task::spawn_blocking(|| proxy.drain());
        if let Some((successor, estate)) = handed {
            keep::keep(successor, estate, &mut signals).await?;
        }
        drained.await.context("drain")
    })?;
    info!("ended");
    Ok(())
}

/// What is needed to serve.
struct Serve {
    admin: Arc<Admin>,
    /// Of `--admin`.
    address: Option<SocketAddr>,
    listen: Listen,
    delay: Duration,
    take_over: bool,
}

/// Who serves after us, and what we handed over.
type Handed = (tokio::process::Child, Estate);

impl Serve {
    /// Serves until told to end, or to hand over. `None`: told so before there was anything to serve.
    async fn until_told(
        self,
        start: impl FnOnce(Arc<Admin>) -> Result<Source>,
        signals: &mut Signals,
    ) -> Result<Option<(Proxy, Option<Handed>)>> {
        let Self { admin, address, listen, delay, take_over } = self;
        let (predecessor, mut estate) = match take_over {
            true => Predecessor::take_over().map(|(one, estate)| (Some(one), estate))?,
            false => (None, Estate::default()),
        };
        if estate.admin.is_none() {
            estate.admin = address.map(listen_admin).transpose()?;
        }
        // Until we serve it is for the one before us to answer.
        let mut answers = match predecessor {
            None => answer_admin(&estate, &admin)?,
            Some(_) => None,
        };
        let mut source = start(Arc::clone(&admin))?;
        // Nothing is served before everything has been read once.
        tokio::select! {
            begun = &mut source.begun => if begun.is_err() { return Err(source.error().await) },
            () = signals.end() => return Ok(None),
        }
        let proxy = Proxy::start_with(Arc::clone(&admin.shared), listen, estate.sockets)?;
        estate.sockets = proxy.sockets().context("keep the sockets for a successor")?;
        let text = |address: Option<SocketAddr>| address.map_or("off".to_owned(), |it| it.to_string());
        info!(http = text(proxy.http()), https = text(proxy.https()), workers = listen.workers, "listening");
        admin.enter(Phase::Ready);
        if let Some(predecessor) = predecessor {
            answers = answer_admin(&estate, &admin)?;
            predecessor.serving();
        }
        let handed = loop {
            tokio::select! {
                told = signals.next() => match told {
                    Told::End => break None,
                    Told::Replace => match keep::replace(&estate).await {
                        Ok(successor) => break Some(successor),
                        Err(error) => warn!("{error:#}; this process goes on"),
                    },
                },
                error = source.error() => return Err(error),
            }
        };
        if let Some(successor) = handed {
            info!("handed over");
            if let Some(answers) = answers {
                answers.abort();
            }
            source.end(Ending::HandedOver).await;
            return Ok(Some((proxy, Some((successor, estate)))));
        }
        admin.enter(Phase::Draining);
        // While others still send, and the status still names us.
        tokio::join!(tokio::time::sleep(delay), source.end(Ending::ForGood));
        Ok(Some((proxy, None)))
    }
}

fn listen_admin(address: SocketAddr) -> Result<TcpListener> {
    let listen = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        info!(admin = %listener.local_addr()?, "listening");
        std::io::Result::Ok(listener)
    };
    listen().with_context(|| format!("--admin {address}"))
}

/// Answers for health and metrics from now on, if anybody can ask.
fn answer_admin(estate: &Estate, admin: &Arc<Admin>) -> Result<Option<JoinHandle<()>>> {
    let Some(listener) = &estate.admin else { return Ok(None) };
    let listener = listener.try_clone().and_then(tokio::net::TcpListener::from_std).context("--admin")?;
    Ok(Some(tokio::spawn(admin::serve(listener, Arc::clone(admin)))))
}

/// What tells this process what to do.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    replace: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("handle SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("handle SIGINT")?,
            replace: signal(SignalKind::user_defined2()).context("handle SIGUSR2")?,
        })
    }

    /// The next thing to do.
    pub(crate) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.replace.recv() => Told::Replace,
        }
    }

    /// Until there is nothing to do but to end.
    async fn end(&mut self) {
        while self.next().await != Told::End {}
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    End,
    /// To hand over to a new process.
    Replace,
}
