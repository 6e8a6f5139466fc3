//! `ADD`: all or nothing.
//!
//! In this order, so that whatever fails leaves the least to undo, and no packet is ever judged by nothing: look, take
//! addresses, make the pair, wire both ends, hand the endpoint to the agent, and only then set up the host's side.

use std::net::IpAddr;

use api::Attach;
use ipnet::IpNet;
use netlink::{Handle, Mac, Netns};
use serde_json::Value;

use super::{open_netns, status, store};
use crate::agent::Agent;
use crate::config::Config;
use crate::endpoint::{host_name, pod_mac};
use crate::invocation::Invocation;
use crate::ipam::{Holder, Ledger, Refusal};
use crate::ipam_store::{Store, now};
use crate::result::add_answer;
use crate::spec::{Failure, code};
use crate::wiring::Wiring;

pub(crate) async fn run(invocation: &Invocation, config: &Config) -> Result<Value, Failure> {
    let pod = invocation.pod()?;
    let prev_result = config.prev_result()?;
    let netns = open_netns(invocation)?;
    let inside = Handle::in_netns(&netns)?;
    if inside.link_by_name(&invocation.ifname).await?.is_some() {
        let message = format!("interface {} exists in {}", invocation.ifname, netns.path().display());
        return Err(Failure::new(code::EXISTS, message));
    }
    let agent = Agent::at(config.agent_socket()?);
    agent.reach().await?;

    let mut attempt =
        Attempt { invocation, store: store(config)?, host: Handle::new()?, agent, made: Made::default() };
    match attempt.make(config, pod, &netns, &inside).await {
        Ok(wiring) => {
            let sandbox = netns.path().to_string_lossy();
            Ok(add_answer(config.version, &wiring, &sandbox, prev_result, config.dns()))
        }
        Err(failure) => {
            attempt.undo().await;
            Err(failure)
        }
    }
}

struct Attempt<'a> {
    invocation: &'a Invocation,
    store: Store,
    host: Handle,
    agent: Agent,
    made: Made,
}

/// What this very process has made so far: an earlier `ADD` of the same attachment keeps what is its own.
#[derive(Default)]
struct Made {
    leases: bool,
    host_link: Option<u32>,
    /// Also where the answer never came: the agent may have taken it in all the same.
    attached: bool,
}

impl Attempt<'_> {
    async fn make(
        &mut self,
        config: &Config,
        pod: Option<api::PodRef>,
        netns: &Netns,
        inside: &Handle,
    ) -> Result<Wiring, Failure> {
        let Invocation { container_id, ifname, .. } = self.invocation;
        let (port_mappings, bandwidth) = (config.port_mappings()?, config.bandwidth()?);
        let wiring = self.lease(config)?;
        let (host_link, pod_link) = match wiring.make_link(&self.host, netns).await {
            Ok(links) => links,
            Err(failure) => return Err(self.explain(failure, &wiring).await),
        };
        self.made.host_link = Some(host_link);
        wiring.wire_pod(inside, netns, pod_link).await?;
        wiring.wire_host(&self.host, host_link).await?;
        // What a side of the pair sends is what the other takes in.
        if let Some(limit) = &bandwidth.egress {
            inside.limit(pod_link, limit).await?;
        }
        if let Some(limit) = &bandwidth.ingress {
            self.host.limit(host_link, limit).await?;
        }

        self.made.attached = true;
        let attach = Attach {
            container_id: container_id.clone(),
            ifname: ifname.clone(),
            netns: netns.path().to_string_lossy().into_owned(),
            pod,
            host_ifname: wiring.host_name.clone(),
            host_ifindex: host_link,
            ips: wiring.ips.clone(),
            mac: Some(wiring.mac),
            port_mappings,
            ingress_limited: bandwidth.ingress.is_some(),
        };
        self.agent.attach(&attach).await?;
        if let Err(failure) = status::Note::of(config).and_then(|note| note.agent_is_there()) {
            eprintln!("weir-cni: {failure}");
        }
        wiring.open(&self.host, inside, host_link).await?;
        Ok(wiring)
    }

    fn lease(&mut self, config: &Config) -> Result<Wiring, Failure> {
        let wanted = Wanted::of(config)?;
        let mut locked = self.store.lock()?;
        let wiring = wanted.take(self.invocation, config, &mut locked.ledger)?;
        locked.commit()?;
        self.made.leases = true;
        Ok(wiring)
    }

    /// The kernel does not say which of the two names was taken.
    async fn explain(&self, failure: Failure, wiring: &Wiring) -> Failure {
        match self.host.link_by_name(&wiring.host_name).await {
            Ok(Some(link)) => {
                let message = format!(
                    "interface {} exists on the host: container {} has its {} already",
                    link.name, self.invocation.container_id, wiring.ifname
                );
                Failure::new(code::EXISTS, message)
            }
            _ => failure,
        }
    }

    /// The reverse order. What cannot be undone is reported and does not stop the rest; the runtime's `DEL` is next.
    async fn undo(&mut self) {
        let Invocation { container_id, ifname, .. } = self.invocation;
        let report = |result: Result<(), String>| {
            if let Err(problem) = result {
                eprintln!("weir-cni: undo ADD: {problem}");
            }
        };
        if self.made.attached {
            let detached = self.agent.detach(container_id, ifname).await;
            report(detached.map(drop).map_err(|error| error.to_string()));
        }
        if let Some(link) = self.made.host_link {
            let deleted = self.host.delete_link(link).await;
            report(deleted.map_err(|error| Failure::from(error).to_string()));
        }
        if self.made.leases {
            let released = self.store.lock().and_then(|mut locked| {
                locked.ledger.release(container_id, ifname, now());
                locked.commit()
            });
            report(released.map_err(|failure| failure.to_string()));
        }
    }
}

/// What the configuration asks for.
pub(crate) struct Wanted {
    ranges: Vec<IpNet>,
    ips: Vec<IpAddr>,
    mac: Option<Mac>,
    mtu: u32,
    node_ips: Vec<IpAddr>,
}

impl Wanted {
    pub(crate) fn of(config: &Config) -> Result<Self, Failure> {
        Ok(Self {
            ranges: config.ranges()?,
            ips: config.wanted_ips()?,
            mac: config.wanted_mac()?,
            mtu: config.mtu()?,
            node_ips: config.node_ips()?,
        })
    }

    /// Takes the addresses; everything else follows from them.
    pub(crate) fn take(
        self,
        invocation: &Invocation,
        config: &Config,
        ledger: &mut Ledger,
    ) -> Result<Wiring, Failure> {
        let Invocation { container_id, ifname, .. } = invocation;
        let holder = Holder {
            network: config.name.clone(),
            container_id: container_id.clone(),
            ifname: ifname.clone(),
        };
        let ips = ledger.allocate(&holder, &self.ranges, &self.ips)?;
        Ok(Wiring {
            host_name: host_name(container_id, ifname),
            ifname: ifname.clone(),
            // A ledger gives at least one address: there is at least one range.
            mac: self.mac.unwrap_or_else(|| pod_mac(ips[0])),
            ips,
            mtu: self.mtu,
            node_ips: self.node_ips,
        })
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            // Both pass when another pod goes.
            Refusal::Full { .. } | Refusal::Taken { .. } => code::TRY_AGAIN_LATER,
            Refusal::AlreadyHeld { .. } => code::EXISTS,
            Refusal::Outside { .. } | Refusal::SameFamily(..) => code::CONFIGURATION,
        };
        Self::new(code, refusal.to_string())
    }
}
