//! `weir-agent`, one per node: watches, compiles, programs, reports.
//!
//! Wiring only. Sources, socket, timers and the kernel's flow events become [`event::Event`]s; [`run::Agent`] owns all
//! state. One thread does everything but read the source: a namespace belongs to a thread.
#![forbid(unsafe_code)]

mod audit;
mod cgroup;
mod cidrs;
mod config;
mod conflist;
mod datapath;
mod drift;
mod endpoints;
mod event;
mod explain;
mod flows;
mod health;
mod host_rules;
mod http;
mod kernel;
mod leaks;
mod masquerade;
mod metrics;
mod naming;
mod node;
mod notice;
mod options;
mod overlay;
mod probe;
mod records;
mod routes;
mod run;
mod socket;
mod source;
mod status;
mod steps;
mod survey;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod underlay;
mod ways;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use dataplane::PinsLock;
use kubernetes::{Access, Api, EventWriter, Reporter};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::interval;
use tracing::info;

use crate::config::{Call, Config, Routing};
use crate::drift::Keeper;
use crate::event::Event;
use crate::host_rules::HostRules;
use crate::masquerade::Masquerade;
use crate::node::{Neighbourhood, Plugin};
use crate::notice::Notices;
use crate::records::Records;
use crate::routes::Routes;
use crate::run::Agent;
use crate::socket::Socket;
use crate::source::Directory;

fn main() -> ExitCode {
    dataplane::one_heap();
    let done = Call::read(std::env::args_os()).and_then(|call| match call {
        Call { step: Some(step), .. } => steps::run(step),
        Call { config: Some(config), .. } => run(config),
        Call { step: None, config: None } => bail!("nothing to do: see `weir-agent --help`"),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-agent: {error:#}");
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
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    LocalSet::new().block_on(&runtime, serve(config))
}

async fn serve(config: Config) -> Result<()> {
    // These first: they keep a second agent away from everything else.
    let socket = Socket::bind(&config.socket)?;
    let _pins = PinsLock::take(&config.pins)?;
    let access = match (&config.api_server, &config.kubeconfig) {
        (Some(url), _) => Some(Access::by_url(url, &config.token_file, &config.ca_file)?),
        (None, Some(file)) => Some(Access::by_kubeconfig(file).await?),
        (None, None) => None,
    };
    let listener = match config.metrics {
        Some(addr) => Some(health::bind(addr).await?),
        None => None,
    };
    let handle = netlink::Handle::new()?;
    let monitor = netlink::Monitor::new()?;
    let underlays = underlay::find(&handle, &config.devices).await?;
    let (mut dataplane, flow_reader) = kernel::open(&config)?;
    // Not before: an agent that cannot start leaves the machine's settings alone.
    underlay::prepare(&underlays)?;
    for underlay in &underlays {
        dataplane
            .attach_underlay(underlay.ifindex)
            .with_context(|| format!("attach to the underlay device {}", underlay.name))?;
    }
    let device = if config.routing == Routing::Direct {
        overlay::remove_device(&handle).await?;
        None
    } else {
        let device = overlay::device(&handle, config.vxlan_port).await?;
        dataplane.attach_overlay(device)?;
        Some(device)
    };
    if let Some(cgroup) = &config.cgroup {
        let cgroup = cgroup::tree(cgroup)?;
        dataplane.attach_cgroup(&cgroup).with_context(|| format!("--cgroup {}", cgroup.display()))?;
    }
    info!(node = config.node, adopted = dataplane.adopted(), "datapath open");

    let masquerades = config.masquerades();
    let records = Records::load(config.cni_state.join("endpoints"))?;
    let host_rules = HostRules::new(masquerades, records.iter())?;
    let plugin = match &config.conflist {
        // The runtime runs the plugin elsewhere.
        Some(path) => Some(Plugin {
            path: conflist::file_at(path)?,
            socket: std::path::absolute(&config.socket)?,
            state: std::path::absolute(&config.cni_state)?,
        }),
        None => None,
    };
    let (neighbourhood, neighbours) = watch::channel(Neighbourhood::default());
    let routes = Routes::new(
        handle.clone(),
        underlays.clone(),
        config.routing,
        device,
        config.vxlan_port,
        dataplane.overlay()?,
    )?;
    let mut agent = Agent::new(&config.node, dataplane, records, neighbourhood);
    agent.masquerade = Masquerade::new(masquerades, config.non_masquerade_cidrs);
    agent.awaits_conflist = plugin.is_some();
    agent.host_rules = Some(host_rules);
    agent.lead_ports();
    agent.source_kind = if access.is_some() { "API server" } else { "folder" };
    if let Some(access) = &access {
        let (sender, notices) = mpsc::channel(64);
        agent.notices = Notices::to(sender);
        let reporter =
            Reporter { controller: "weir.dev/agent", instance: config.node.clone(), action: "Enforce" };
        spawn_local(EventWriter::new(Api::new(access.clone()), reporter).run(notices));
    }

    let (events, queue) = mpsc::channel(256);
    let on_link = underlays.iter().flat_map(underlay::Underlay::on_link).collect();
    let disturbed = Rc::new(Notify::new());
    let leak_handle = handle.clone();
    let keeper = Keeper::new(handle, underlays, Rc::clone(&disturbed), events.clone());
    spawn_local(keeper.run(monitor, agent.wirings.subscribe()));
    let (orphans, let_go) = mpsc::channel(64);
    agent.let_go = Some(orphans);
    spawn_local(leaks::follow(
        config.cni_state,
        leak_handle,
        agent.wirings.subscribe(),
        let_go,
        events.clone(),
    ));
    spawn_local(node::follow(
        config.node.clone(),
        routes,
        on_link,
        plugin,
        neighbours,
        disturbed,
        events.clone(),
    ));
    spawn_local(every(audit::PERIOD, || Event::Audit, events.clone()));
    spawn_local(kernel::follow(flow_reader, events.clone()));
    spawn_local(every(Duration::from_secs(10), || Event::Sweep, events.clone()));
    spawn_local(every(Duration::from_secs(30), || Event::Reconcile, events.clone()));
    spawn_local(signals(events.clone())?);
    if let Some(listener) = listener {
        spawn_local(health::serve(listener, events.clone()));
    }
    let source = match (access, config.source) {
        (Some(access), _) => source::follow_api_server(access, config.node, events.clone()),
        (None, Some(folder)) => source::follow(Directory::new(folder), events.clone()),
        (None, None) => bail!("no source: expected --source, --api-server or --kubeconfig"),
    };

    // Whatever ends first ends the agent; the datapath goes on.
    tokio::select! {
        () = agent.run(queue) => info!("stopped, the datapath goes on enforcing"),
        () = socket.serve(events) => {}
        error = source => bail!(error.unwrap_or_else(|_| anyhow!("the source ended without a word"))),
    }
    Ok(())
}

async fn every(period: Duration, event: impl Fn() -> Event, events: mpsc::Sender<Event>) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is at once.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if events.send(event()).await.is_err() {
            return;
        }
    }
}

/// Installs the handlers before it returns, so that no signal meets the default action afterwards.
fn signals(events: mpsc::Sender<Event>) -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // If nobody listens, the agent has stopped already.
        events.send(Event::Shutdown).await.unwrap_or_default();
    })
}
