//! `weir-ingress`: serves the Ingress objects of a folder of Kubernetes YAML.
//!
//! Wiring only. One thread reads the files whenever they change, compiles them and swaps the snapshot; one thread per core
//! serves; this one answers for health and metrics and waits for the signal to end.
#![forbid(unsafe_code)]

mod config;

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser as _;
use ingress::admin::{self, Admin};
use ingress::compile::{self, Settings};
use ingress::files::Files;
use ingress::proxy::{Listen, Proxy, Shared, Tuning};
use ingress::tls::Certificates;
use ingress::watch::Watch;
use policy::Warning;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::config::{AccessLog, Config};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A folder that is gone is looked for so often.
const RETURN: Duration = Duration::from_secs(1);

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
    // Nothing is served before all files have been read once.
    let mut source = Source::new(config.files, settings, Arc::clone(&shared))?;
    source.read()?;
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let listen =
        Listen { http: config.http.0, https: config.https.0, workers: config.workers.unwrap_or(cores) };
    let proxy = Proxy::start(Arc::clone(&shared), listen)?;
    let text = |address: Option<SocketAddr>| address.map_or("off".to_owned(), |it| it.to_string());
    info!(http = text(proxy.http()), https = text(proxy.https()), workers = listen.workers, "listening");
    let admin = Arc::new(Admin { shared, draining: AtomicBool::new(false) });
    let delay = Duration::from_secs(config.drain_delay_seconds);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(until_told(config.admin.0, Arc::clone(&admin), source, delay))?;
    info!("draining");
    proxy.drain();
    info!("ended");
    Ok(())
}

/// Follows the files and answers for health until a signal asks for the end, and for `delay` more.
async fn until_told(
    address: Option<SocketAddr>,
    admin: Arc<Admin>,
    source: Source,
    delay: Duration,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    if let Some(address) = address {
        let listener = TcpListener::bind(address).await.with_context(|| format!("--admin {address}"))?;
        info!(admin = %listener.local_addr().context("--admin")?, "listening");
        tokio::spawn(admin::serve(listener, Arc::clone(&admin)));
    }
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name("source".into())
        .spawn(move || {
            // If nobody listens any more, the proxy is ending.
            drop(ended.send(source.follow()));
        })
        .context("start the thread that reads the files")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        error = end => bail!(error.unwrap_or_else(|_| anyhow!("the thread that reads the files ended without a word"))),
    }
    admin.draining.store(true, Relaxed);
    tokio::time::sleep(delay).await;
    Ok(())
}

/// The files, and what becomes of them.
struct Source {
    files: Files,
    settings: Settings,
    shared: Arc<Shared>,
    watch: Watch,
    /// Those of the last read: each is told once, for as long as it lasts.
    warnings: BTreeSet<Warning>,
}

impl Source {
    fn new(files: Vec<PathBuf>, settings: Settings, shared: Arc<Shared>) -> Result<Self> {
        let watch = Watch::new()
            .context("watch the files: no inotify instance to be had (fs.inotify.max_user_instances)")?;
        Ok(Self { files: Files::new(files), settings, shared, watch, warnings: BTreeSet::new() })
    }

    fn read(&mut self) -> Result<()> {
        let (world, mut warnings) = self.files.read(&mut |folder| self.watch.add(folder))?;
        let mut compiled = compile::compile(&world, &self.settings);
        warnings.append(&mut compiled.warnings);
        let (certificates, more) = Certificates::new(&compiled, &world, &self.settings);
        warnings.extend(more);
        info!(
            ingresses = world.ingresses.len(),
            rules = compiled.table.len(),
            services = compiled.clusters.len(),
            warnings = warnings.len(),
            "serving"
        );
        self.shared.serve(compiled, certificates);
        let warnings: BTreeSet<Warning> = warnings.into_iter().collect();
        warnings.difference(&self.warnings).for_each(|warning| warn!("{warning}"));
        self.warnings = warnings;
        Ok(())
    }

    /// Reads again after each change, until that is not possible any more.
    fn follow(mut self) -> anyhow::Error {
        let mut lost = false;
        loop {
            if let Err(error) = self.watch.wait(lost.then_some(RETURN)) {
                return anyhow::Error::new(error).context("wait for changes in the files");
            }
            let read = self.read();
            if let (Err(error), false) = (&read, lost) {
                warn!("{error:#}; what was read before stays in force");
            }
            lost = read.is_err();
        }
    }
}
