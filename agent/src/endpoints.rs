//! Endpoints come and go: the calls of the plugin, and what is left behind by those who did not call.
//!
//! Taking one in: rows and programs are in place before the call is answered, and the link is down until then. Letting
//! one go: rows leave first, so that the programs, attached until the link is gone, drop what the pod still sends.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use api::{Attach, Attached, Attachment, Collected, Detached, Endpoint, Valid};
use policy::PodRef;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::datapath::Datapath;
use crate::drift::{Kind, Mended};
use crate::event::{Refusal, Reply};
use crate::host_rules::HostRules;
use crate::records::is_attachment_name;
use crate::run::Agent;

/// How long a pod that the source has not shown yet is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// An endpoint that waits for its pod to be known.
pub(crate) struct Waiting {
    pub(crate) attach: Attach,
    pub(crate) deadline: Instant,
    reply: Reply<Attached>,
}

/// An endpoint that is in the world, for the next plan.
pub(crate) struct Admitted {
    attach: Attach,
    reply: Reply<Attached>,
}

/// What to say once the rows are gone.
pub(crate) enum Farewell {
    Detached(Reply<Detached>),
    Collected(Reply<Collected>, Collected),
}

impl<D: Datapath> Agent<D> {
    pub(crate) fn attach(&mut self, attach: Attach, reply: Reply<Attached>) {
        match self.check(&attach) {
            Ok(()) => {
                self.waiting.push(Waiting { attach, deadline: Instant::now() + PATIENCE, reply });
                self.admit();
            }
            // Whoever has hung up needs no answer.
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    fn check(&self, attach: &Attach) -> Result<(), Refusal> {
        let refuse = |field: &str, why: String| {
            Err(Refusal::caller(format!(
                "endpoint {}/{}: {field}: {why}",
                attach.container_id, attach.ifname
            )))
        };
        if !is_attachment_name(&attach.container_id, &attach.ifname) {
            return refuse("container_id, ifname", "not names as the CNI specification has them".into());
        }
        if attach.ips.is_empty() {
            return refuse("ips", "empty; an endpoint has at least one address".into());
        }
        if !self.is_alive(attach) {
            let found = self.datapath.interface(attach.host_ifindex);
            let found = found.as_deref().unwrap_or("no interface of this node");
            return refuse(
                "host_ifindex",
                format!("{} is {found}, not {}", attach.host_ifindex, attach.host_ifname),
            );
        }
        let other = self.records.iter().find(|other| {
            !is_same(other, attach)
                && self.is_alive(other)
                && other.ips.iter().any(|ip| attach.ips.contains(ip))
        });
        for mapping in &attach.port_mappings {
            let taken = self.records.iter().find(|other| {
                !is_same(other, attach)
                    && self.is_alive(other)
                    && other.port_mappings.iter().any(|other| other.clashes_with(mapping))
            });
            if let Some(other) = taken {
                let owner = pod_name(other).map_or_else(
                    || format!("endpoint {}/{}", other.container_id, other.ifname),
                    |pod| format!("Pod {pod}"),
                );
                return refuse(
                    "port_mappings",
                    format!("hostPort {mapping} of this node leads to {owner} already"),
                );
            }
        }
        match other {
            Some(other) => refuse(
                "ips",
                format!(
                    "{:?} has an address of endpoint {}/{}",
                    attach.ips, other.container_id, other.ifname
                ),
            ),
            None => Ok(()),
        }
    }

    /// Moves those whose pods are known from the waiting into the world.
    pub(crate) fn admit(&mut self) {
        if !self.source_seen {
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.reply.is_closed() {
                continue;
            }
            let known = waiting
                .attach
                .pod
                .as_ref()
                .is_none_or(|pod| self.world.knows_pod(&pod.namespace, &pod.name, pod.uid.as_deref()));
            if known {
                self.make_room(&waiting.attach);
                self.enter(&waiting.attach);
                self.admitted.push(Admitted { attach: waiting.attach, reply: waiting.reply });
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    /// A runtime that lost its memory may give away again what an endpoint without an interface once had.
    fn make_room(&mut self, attach: &Attach) {
        let stale: Vec<Attachment> = self
            .records
            .iter()
            .filter(|other| {
                let clash = other.host_ifindex == attach.host_ifindex
                    || other.ips.iter().any(|ip| attach.ips.contains(ip));
                if is_same(other, attach) { other.host_ifindex != attach.host_ifindex } else { clash }
            })
            .map(key)
            .collect();
        for attachment in stale {
            self.remove(&attachment);
        }
        self.departing.retain(|ifindex| *ifindex != attach.host_ifindex);
    }

    pub(crate) fn enter(&mut self, attach: &Attach) {
        self.world.attach(policy::Attachment {
            container_id: attach.container_id.clone(),
            ifname: attach.ifname.clone(),
            pod: attach.pod.as_ref().map(|pod| PodRef {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            }),
            ifindex: attach.host_ifindex,
            ips: attach.ips.clone(),
        });
        self.world_changed();
    }

    /// Attaches the programs of those whose rows are in the maps, and answers them. Whether any had to leave again.
    pub(crate) fn finish_admitted(&mut self, programmed: Result<(), String>) -> bool {
        let mut undone = false;
        for Admitted { attach, reply } in std::mem::take(&mut self.admitted) {
            let name = format!("{}/{}", attach.container_id, attach.ifname);
            let answer = programmed.clone().and_then(|()| self.finish(&attach).map_err(|e| format!("{e:#}")));
            let taken = answer.is_ok();
            let answer = answer
                .map(|()| Attached { generation: self.generation() })
                .map_err(|error| Refusal::now(format!("endpoint {name}: {error}")));
            match &answer {
                Ok(_) => {
                    info!(endpoint = name, pod = pod_name(&attach), ips = ?attach.ips, ifname = attach.host_ifname, "taken in")
                }
                Err(refusal) => {
                    warn!(endpoint = name, pod = pod_name(&attach), error = refusal.message, "not taken in")
                }
            }
            // A caller that did not wait for the answer has undone its part, or will.
            if reply.send(answer).is_err() || !taken {
                // It may have failed before there was a record.
                if !self.remove(&key(&attach)) {
                    self.leave(&attach);
                }
                undone = true;
            }
        }
        undone
    }

    fn finish(&mut self, attach: &Attach) -> anyhow::Result<()> {
        if attach.ingress_limited {
            let mut limited = self.limited();
            limited.insert(attach.host_ifindex);
            self.datapath.limit(&limited)?;
        }
        self.datapath.attach_endpoint(attach.host_ifindex)?;
        if !attach.port_mappings.is_empty()
            && let Some(rules) = &mut self.host_rules
        {
            let others = self.records.iter().filter(|other| !is_same(other, attach));
            rules.lead_to(others.chain([attach])).context("port_mappings")?;
        }
        self.records.put(attach.clone())
    }

    /// Answers those whose pods did not come in time.
    pub(crate) fn give_up(&mut self, now: Instant) {
        let (late, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.deadline <= now);
        self.waiting = waiting;
        for Waiting { attach, reply, .. } in late {
            let message = match &attach.pod {
                Some(pod) if self.source_seen => format!(
                    "Pod {}/{}{}: not seen by the agent of node {} within {} s",
                    pod.namespace,
                    pod.name,
                    pod.uid.as_ref().map(|uid| format!(" with uid {uid}")).unwrap_or_default(),
                    self.node,
                    PATIENCE.as_secs()
                ),
                _ => format!("the agent of node {} has not read its source yet", self.node),
            };
            warn!(container = attach.container_id, error = message, "not taken in");
            drop(reply.send(Err(Refusal::now(message))));
        }
    }

    pub(crate) fn detach(&mut self, attachment: &Attachment, reply: Reply<Detached>) {
        // One that still waits has nothing to undo but its place in the queue.
        self.waiting.retain(|waiting| key(&waiting.attach) != *attachment);
        let (overtaken, admitted): (Vec<_>, Vec<_>) = std::mem::take(&mut self.admitted)
            .into_iter()
            .partition(|admitted| key(&admitted.attach) == *attachment);
        self.admitted = admitted;
        overtaken.iter().for_each(|admitted| self.leave(&admitted.attach));
        if self.remove(attachment) {
            self.farewells.push(Farewell::Detached(reply));
        } else {
            drop(reply.send(Ok(Detached { existed: false })));
        }
    }

    pub(crate) fn collect(&mut self, valid: &Valid, reply: Reply<Collected>) {
        let removed: Vec<Attachment> = self
            .records
            .iter()
            .map(key)
            .filter(|attachment| !valid.attachments.contains(attachment))
            .collect();
        for attachment in &removed {
            self.remove(attachment);
        }
        self.farewells.push(Farewell::Collected(reply, Collected { removed }));
    }

    /// Ports of the host lead to nobody who has left, or was not taken in after all.
    pub(crate) fn free_ports(&mut self) {
        if self.host_rules.as_ref().is_some_and(HostRules::leads_anywhere) {
            self.lead_ports();
        }
    }

    /// Makes the ports of the host lead to the endpoints on record.
    pub(crate) fn lead_ports(&mut self) {
        let Some(rules) = &mut self.host_rules else { return };
        let done = rules.lead_to(self.records.iter());
        let complaints = done.err().map(|error| format!("port_mappings: {error:#}"));
        self.complain("host ports", complaints.into_iter().collect());
    }

    /// The rows of those who left are gone.
    pub(crate) fn say_farewell(&mut self) {
        for farewell in std::mem::take(&mut self.farewells) {
            match farewell {
                Farewell::Detached(reply) => drop(reply.send(Ok(Detached { existed: true }))),
                Farewell::Collected(reply, collected) => drop(reply.send(Ok(collected))),
            }
        }
    }

    /// Takes an endpoint out of the world and forgets its record; the next plan removes its rows.
    pub(crate) fn remove(&mut self, attachment: &Attachment) -> bool {
        let Some(attach) = self.records.remove(attachment) else { return false };
        info!(
            endpoint = format!("{}/{}", attach.container_id, attach.ifname),
            pod = pod_name(&attach),
            "let go"
        );
        self.leave(&attach);
        true
    }

    fn leave(&mut self, attach: &Attach) {
        self.world.detach(&attach.container_id, &attach.ifname);
        self.world_changed();
        if attach.ingress_limited
            && let Err(error) = self.datapath.limit(&self.limited())
        {
            warn!(error = format!("{error:#}"), "a limit stays behind for now");
        }
        if let Some(pod) = pod_name(attach) {
            attach.ips.iter().for_each(|ip| self.naming.departed(*ip, &pod));
        }
        self.departing.push(attach.host_ifindex);
    }

    fn limited(&self) -> BTreeSet<u32> {
        let limited = self.records.iter().filter(|attach| attach.ingress_limited);
        limited.map(|attach| attach.host_ifindex).collect()
    }

    /// Detaches the programs whose link is gone. Those of a link that is still there go on dropping its packets.
    pub(crate) fn let_depart(&mut self) {
        for ifindex in std::mem::take(&mut self.departing) {
            if self.datapath.interface(ifindex).is_some() {
                self.departing.push(ifindex);
            } else if let Err(error) = self.datapath.detach_endpoint(ifindex) {
                warn!(ifindex, error = format!("{error:#}"), "programs stay behind for now");
                self.departing.push(ifindex);
            }
        }
    }

    pub(crate) fn endpoint(&mut self, attachment: &Attachment) -> Result<Endpoint, Refusal> {
        let attach = self.records.find(attachment).cloned().ok_or_else(|| {
            Refusal::absent(format!("no endpoint {}/{}", attachment.container_id, attachment.ifname))
        })?;
        let programs_attached = self
            .datapath
            .endpoint_attached(attach.host_ifindex)
            .map_err(|error| Refusal::now(format!("{error:#}")))?;
        let mut rows_present = true;
        for ip in &attach.ips {
            let row = self.datapath.endpoint_row(*ip).map_err(|error| Refusal::now(format!("{error:#}")))?;
            rows_present &= row.is_some_and(|row| row.ifindex == attach.host_ifindex);
        }
        Ok(Endpoint { attach: attach.clone(), programs_attached, rows_present })
    }

    /// Lets go of endpoints whose interface is gone, and mends what somebody else detached.
    pub(crate) fn reconcile(&mut self) {
        if let Err(error) = self.datapath.limit(&self.limited()) {
            warn!(error = format!("{error:#}"), "limits cannot be looked at");
        }
        let gone: Vec<Attachment> =
            self.records.iter().filter(|attach| !self.is_alive(attach)).map(key).collect();
        for attachment in gone {
            warn!(endpoint = ?attachment, "its interface is gone and nobody said so");
            self.remove(&attachment);
        }
        let recorded: Vec<u32> = self.records.iter().map(|attach| attach.host_ifindex).collect();
        for &ifindex in &recorded {
            let mended = match self.datapath.endpoint_attached(ifindex) {
                Ok(true) => continue,
                Ok(false) => self.datapath.attach_endpoint(ifindex),
                Err(error) => Err(error),
            };
            match mended {
                Ok(()) => {
                    let what = format!("programs of interface {ifindex}");
                    self.mended(vec![Mended { kind: Kind::Program, what }]);
                }
                Err(error) => {
                    warn!(ifindex, error = format!("{error:#}"), "programs of an endpoint are missing")
                }
            }
        }
        match self.datapath.attached_endpoints() {
            Ok(attached) => {
                let unknown = attached.into_iter().filter(|ifindex| !recorded.contains(ifindex));
                let unknown: Vec<u32> = unknown.filter(|ifindex| !self.departing.contains(ifindex)).collect();
                self.departing.extend(unknown);
            }
            Err(error) => warn!(error = format!("{error:#}"), "attached programs cannot be listed"),
        }
        self.let_depart();
    }

    pub(crate) fn is_alive(&self, attach: &Attach) -> bool {
        self.datapath.interface(attach.host_ifindex).as_ref() == Some(&attach.host_ifname)
    }
}

fn key(attach: &Attach) -> Attachment {
    Attachment { container_id: attach.container_id.clone(), ifname: attach.ifname.clone() }
}

/// `namespace/name`.
pub(crate) fn pod_name(attach: &Attach) -> Option<String> {
    attach.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name))
}

fn is_same(one: &Attach, other: &Attach) -> bool {
    one.container_id == other.container_id && one.ifname == other.ifname
}
