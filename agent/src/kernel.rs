//! The real datapath, as the loop sees it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use common::config::Config;
use common::endpoint::EndpointRow;
use dataplane::{Dataplane, FlowReader, Options, OverlayOptions};
use nix::net::if_::if_indextoname;
use policy::Tables;
use policy::tables::{Cidr, MapOp};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::config::{self, Routing};
use crate::datapath::{Datapath, Unapplied};
use crate::event::Event;

pub(crate) fn open(config: &config::Config) -> Result<(Dataplane, FlowReader)> {
    let overlay = OverlayOptions { port: config.vxlan_port, vni: config.vni };
    let options = Options {
        pins: config.pins.clone(),
        migrate: config.migrate,
        overlay: (config.routing != Routing::Direct).then_some(overlay),
        ..Options::default()
    };
    let mut dataplane = Dataplane::open(&options)
        .with_context(|| format!("open the datapath pinned at {}", config.pins.display()))?;
    let flows = dataplane.flows()?;
    Ok((dataplane, flows))
}

/// Hands batches of flow events to the loop, as fast as it takes them; what the ring cannot hold meanwhile, the
/// programs count.
pub(crate) async fn follow(mut reader: FlowReader, events: mpsc::Sender<Event>) {
    let mut failing = false;
    loop {
        let event = match reader.next().await {
            Ok(batch) => Event::Flows(batch),
            Err(error) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                failing = true;
                let complaint = format!("{:#}", anyhow::Error::from(error));
                Event::Complaints { part: "flows", complaints: vec![complaint] }
            }
        };
        if failing && matches!(event, Event::Flows(_)) {
            failing = false;
            let well = Event::Complaints { part: "flows", complaints: Vec::new() };
            if events.send(well).await.is_err() {
                return;
            }
        }
        if events.send(event).await.is_err() {
            return;
        }
    }
}

impl Datapath for Dataplane {
    fn adopted(&self) -> bool {
        Dataplane::adopted(self)
    }

    fn tables(&self) -> &Tables {
        Dataplane::tables(self)
    }

    fn reread(&mut self) -> Result<()> {
        Ok(Dataplane::reread(self)?)
    }

    fn endpoint_row(&self, ip: IpAddr) -> Result<Option<EndpointRow>> {
        Ok(Dataplane::endpoint_row(self, ip)?)
    }

    fn apply(&mut self, ops: &[MapOp]) -> Result<(), Unapplied> {
        Dataplane::apply(self, ops).map_err(|error| match error {
            dataplane::Error::Full { .. } => Unapplied::Refused(error.into()),
            _ => Unapplied::CutShort(error.into()),
        })
    }

    fn config(&self) -> Result<Config> {
        Ok(Dataplane::config(self)?)
    }

    fn masquerade_beyond(&mut self, native: Option<&BTreeSet<Cidr>>) -> Result<bool> {
        Ok(Dataplane::masquerade_beyond(self, native)?)
    }

    fn limit(&mut self, ifindexes: &BTreeSet<u32>) -> Result<()> {
        Dataplane::limit(self, ifindexes)?;
        Ok(())
    }

    fn take_over(&mut self) -> Result<()> {
        let Some(taken) = Dataplane::take_over(self)? else { return Ok(()) };
        match taken.connections {
            Some(connections) => info!(links = taken.links, connections, "taken over from another layout"),
            None => warn!(
                links = taken.links,
                "taken over from another layout, whose connections cannot be read: each is judged anew with its next packet"
            ),
        }
        Ok(())
    }

    fn attach_endpoint(&mut self, ifindex: u32) -> Result<()> {
        Ok(Dataplane::attach_endpoint(self, ifindex)?)
    }

    fn settle_endpoint(&mut self) -> Result<bool> {
        Ok(Dataplane::settle_endpoint(self)?)
    }

    fn detach_endpoint(&mut self, ifindex: u32) -> Result<()> {
        Ok(Dataplane::detach_endpoint(self, ifindex)?)
    }

    fn endpoint_attached(&mut self, ifindex: u32) -> Result<bool> {
        Ok(Dataplane::endpoint_attached(self, ifindex)?)
    }

    fn attached_endpoints(&self) -> Result<Vec<u32>> {
        Ok(Dataplane::attached_endpoints(self)?)
    }

    fn attach_overlay(&mut self, ifindex: u32) -> Result<()> {
        Ok(Dataplane::attach_overlay(self, ifindex)?)
    }

    fn mend_programs(&mut self, endpoints: &[u32]) -> Result<Vec<String>> {
        Ok(Dataplane::mend_programs(self, endpoints)?)
    }

    fn mend_filters(&mut self, ifindex: u32) -> Result<Vec<String>> {
        Ok(Dataplane::mend_filters(self, ifindex)?)
    }

    fn audit(&mut self, budget: Duration) -> Result<(Vec<MapOp>, bool)> {
        Ok(Dataplane::audit(self, budget)?)
    }

    fn counters(&self) -> Result<Vec<api::Counter>> {
        let counters = Dataplane::counters(self)?;
        Ok(counters
            .into_iter()
            .map(|counter| api::Counter {
                name: counter.name.to_owned(),
                packets: counter.packets,
                bytes: counter.bytes,
            })
            .collect())
    }

    fn fill(&mut self) -> Result<Vec<api::MapFill>> {
        let maps = Dataplane::fill(self)?;
        Ok(maps
            .into_iter()
            .map(|map| api::MapFill {
                name: map.name.to_owned(),
                entries: map.entries,
                capacity: map.capacity,
            })
            .collect())
    }

    fn sweep(&mut self) -> Result<u64> {
        Ok(Dataplane::sweep(self)?.expired)
    }

    fn interface(&self, ifindex: u32) -> Option<String> {
        // nix says `Ok("")` for an interface that is gone.
        if_indextoname(ifindex).ok()?.into_string().ok().filter(|name| !name.is_empty())
    }
}
