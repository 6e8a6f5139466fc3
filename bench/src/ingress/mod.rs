//! The subcommand `ingress`: what a request costs that comes through weir-ingress, beside nginx, HAProxy and a proxy that
//! does nothing.
//!
//! All of them serve the same hundred hosts in one namespace, over its loopback; each has one worker on the first CPU,
//! clients and upstream have the others. Within a round every proxy is measured right after the other.

mod bare;
mod churn;
mod client;
mod peers;
mod report;
mod site;
mod upstream;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use self::churn::{Changes, Churn};
use self::client::{Clients, Load};
use self::peers::{OTHER_UPSTREAM, Peer, Programs, Running, UPSTREAM};
use self::report::{Idle, Report, Sample};
use self::site::Site;
use crate::report::Machine;
use crate::{layout, place};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the JSON goes
    #[arg(long)]
    out: PathBuf,
    /// The program `weir-ingress`
    #[arg(long)]
    weir: PathBuf,
    /// The program `nginx`
    #[arg(long)]
    nginx: PathBuf,
    /// The program `haproxy`
    #[arg(long)]
    haproxy: PathBuf,
    /// How often everything is measured
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// How long one measurement takes
    #[arg(long, default_value_t = 0.8)]
    seconds: f64,
    /// Only these loads: http1-1k, http1-1m, http2-1, http2-10, http2-1m, handshake, idle, churn
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leave out HAProxy and the bare proxy
    #[arg(long)]
    nginx_only: bool,
    /// How many changes weir-ingress sees under load: routes, certificates and endpoints in turn
    #[arg(long, default_value_t = 1_000)]
    changes: usize,
    /// How many routes it has then
    #[arg(long, default_value_t = 5_000)]
    routes: usize,
}

/// So many connections are held idle.
const IDLE: usize = 1_000;

/// Runs one of the programs that are not proxies of somebody else's.
#[derive(clap::Args)]
pub(crate) struct Part {
    #[arg(value_enum)]
    part: PartKind,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    certificates: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum PartKind {
    Upstream,
    Bare,
}

pub(crate) fn part(part: &Part) -> Result<()> {
    place::die_with_parent()?;
    match part.part {
        PartKind::Upstream => upstream::serve(part.port),
        PartKind::Bare => {
            let folder = part.certificates.as_deref().context("the bare proxy needs --certificates")?;
            bare::serve(part.port, UPSTREAM, folder)
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.seconds > 0.0 && args.rounds > 0, "--rounds and --seconds must be above 0");
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    for name in &args.only {
        let known =
            ["idle", "churn"].contains(&name.as_str()) || Load::ALL.iter().any(|(load, _)| load == name);
        ensure!(
            known,
            "--only {name}: expected one of http1-1k, http1-1m, http2-1, http2-10, http2-1m, handshake, idle, churn"
        );
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("make {}", args.out.display()))?;
    let peers = if args.nginx_only { &Peer::ALL[..2] } else { &Peer::ALL[..] };
    place::make_private()?;
    // Before we are pinned to one CPU of it.
    let machine = Machine::this().text();
    let begun = Instant::now();
    let mut bench = Bench::new(args)?;
    let mut idle = Vec::new();
    if wanted("idle") {
        for peer in peers {
            idle.push(bench.idle(*peer).with_context(|| format!("idle connections of {}", peer.title()))?);
        }
    }
    let loads: Vec<_> = Load::ALL.into_iter().filter(|(name, _)| wanted(name)).collect();
    let samples = bench.rounds(peers, &loads, args.rounds, Duration::from_secs_f64(args.seconds))?;
    let churn = if wanted("churn") { Some(bench.churn(args.changes, args.routes)?) } else { None };
    let report = Report::new(peers.to_vec(), loads, samples, idle, churn, begun.elapsed(), machine);
    print!("{}", report.table()?);
    let json = args.out.join("ingress.json");
    std::fs::write(&json, report.json()?).with_context(|| format!("write {}", json.display()))?;
    println!("\n{}", json.display());
    Ok(())
}

/// Everything but the proxies; dropping it ends the upstreams and the namespace.
struct Bench {
    site: Site,
    programs: Programs,
    runtime: Runtime,
    tasks: LocalSet,
    upstreams: Vec<Child>,
}

impl Bench {
    fn new(args: &Args) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let netns = runtime.block_on(layout::namespace())?;
        // For good: this process ends with its benchmark, and whatever it starts is to be inside.
        std::mem::forget(netns.enter().context("enter the benchmark's namespace")?);
        let site = Site::new()?;
        let paths = [&args.weir, &args.nginx, &args.haproxy].map(std::path::absolute);
        let [weir, nginx, haproxy] = paths;
        let programs = Programs::new(&site, [weir?, nginx?, haproxy?], place::FILES.into())?;
        place::pin(place::Cpu::Last)?;
        let mut bench = Self { site, programs, runtime, tasks: LocalSet::new(), upstreams: Vec::new() };
        for port in [UPSTREAM, OTHER_UPSTREAM] {
            let mut command = place::ourselves("ingress-part")?;
            command.args(["upstream", "--port", &port.to_string()]).stdin(Stdio::null());
            bench.upstreams.push(command.spawn().context("start an upstream")?);
            let started = bench.upstreams.last_mut().context("an upstream")?;
            peers::wait_for(started, ([127, 0, 0, 1], port).into()).context("an upstream")?;
        }
        Ok(bench)
    }

    fn start(&self, peer: Peer) -> Result<Running> {
        place::pin(place::Cpu::First)?;
        let running = self.programs.start(peer)?;
        place::pin(place::Cpu::Last)?;
        Ok(running)
    }

    fn clients(&self, peer: Peer) -> Result<Rc<Clients>> {
        Ok(Rc::new(Clients::new(&self.site, peer.address())?))
    }

    /// What a connection on which nothing happens any more occupies in a proxy that has only just begun.
    fn idle(&mut self, peer: Peer) -> Result<Idle> {
        let clients = self.clients(peer)?;
        let kib = |load| -> Result<f64> {
            let running = self.start(peer)?;
            let grown = self.tasks.block_on(&self.runtime, async {
                // Whatever is made with the first connections is not one connection's.
                drop(clients.idle(load, 8).await?);
                let before = running.memory()?;
                let _held = clients.idle(load, IDLE).await?;
                tokio::time::sleep(Duration::from_millis(300)).await;
                anyhow::Ok(running.memory()?.saturating_sub(before))
            })?;
            Ok(grown as f64 / 1024.0 / IDLE as f64)
        };
        Ok(Idle {
            peer,
            http1_kib: kib(Load::Http1 { body: 1024, connections: 0 })?,
            http2_kib: kib(Load::Http2 { body: 1024, connections: 0, streams: 0 })?,
        })
    }

    /// Changes under load, in a large configuration.
    fn churn(&mut self, changes: usize, routes: usize) -> Result<Churn> {
        let clients = self.clients(Peer::Weir)?;
        churn::write_routes(&self.programs.objects(), routes)?;
        let files = Changes::new(self.programs.objects(), &self.site, &clients)?;
        let running = self.start(Peer::Weir)?;
        self.tasks
            .block_on(&self.runtime, churn::run(&running, &clients, &files, changes, routes))
            .context("changes under load")
    }

    fn rounds(
        &mut self,
        peers: &[Peer],
        loads: &[(&'static str, Load)],
        rounds: u32,
        duration: Duration,
    ) -> Result<Vec<Sample>> {
        let mut proxies = Vec::new();
        for peer in peers {
            proxies.push((self.start(*peer)?, self.clients(*peer)?));
        }
        let mut samples = Vec::new();
        for round in 0..rounds {
            for (name, load) in loads {
                // Each round begins with another: nobody is always the first after a pause.
                let turn = round as usize % proxies.len();
                for (running, clients) in proxies[turn..].iter().chain(&proxies[..turn]) {
                    if std::io::stderr().is_terminal() {
                        let title = running.peer.title();
                        eprint!("\r\x1b[Kround {} of {rounds}: {name}, {title}", round + 1);
                    }
                    let seen = self
                        .tasks
                        .block_on(&self.runtime, clients.load(*load, duration, || running.cpu()))
                        .with_context(|| format!("{name} through {}", running.peer.title()))?;
                    samples.push(Sample::new(round, running.peer, *load, seen)?);
                }
            }
        }
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        Ok(samples)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for upstream in &mut self.upstreams {
            // It may have ended, and then there is nothing to undo.
            upstream.kill().unwrap_or_default();
            upstream.wait().map(drop).unwrap_or_default();
        }
    }
}
