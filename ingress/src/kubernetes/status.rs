//! `status.loadBalancer` of what is served: where clients find it.
//!
//! Written by the replica that holds the Lease. The last replica that ends takes its addresses back, unless told to keep
//! them; where others stay, they write on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kubernetes::{Api, Patience};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::Ending;
use super::lease::{Elector, Identity, RENEWED, why};
use crate::compile::{self, Settings};
use crate::object::{Name, World};

/// Whoever does not hold the Lease looks at it so often; the holder looks for its replicas.
const LOOKED_AT: Duration = Duration::from_secs(2);
const REPLICAS: Duration = Duration::from_secs(10);

/// Where the addresses come from.
#[derive(Clone, Debug)]
pub struct Publish {
    /// These and no others, if there are any.
    pub addresses: Vec<Address>,
    /// Else those of this Service.
    pub service: Option<Name>,
    /// Else those of the nodes on which the pods with these labels, of our namespace, are ready.
    pub pods: String,
    /// Leave them when the last replica ends.
    pub keep: bool,
}

/// An address as `status.loadBalancer.ingress[]` has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    Ip(IpAddr),
    Hostname(String),
}

impl Address {
    /// A literal is an IP, all else a name.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Hostname(text.to_owned()), Self::Ip)
    }

    fn json(&self) -> Value {
        match self {
            Self::Ip(ip) => json!({ "ip": ip.to_string() }),
            Self::Hostname(name) => json!({ "hostname": name }),
        }
    }
}

/// What is served, and which addresses it shows already.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) shown: BTreeMap<Name, Vec<Address>>,
    /// Those of `--publish-service`.
    service: Vec<Address>,
}

impl Wanted {
    /// Answers whether there is anything new.
    pub(super) fn update(&mut self, world: &World, settings: &Settings, publish: &Publish) -> bool {
        let ours = world.ingresses.iter().filter(|(_, it)| compile::is_ours(it, world, settings));
        let shown: BTreeMap<Name, Vec<Address>> =
            ours.map(|(name, ingress)| (name.clone(), shown(ingress))).collect();
        let service = publish.service.as_ref().and_then(|name| world.services.get(name));
        let service = service.map(|service| of_service(service)).unwrap_or_default();
        let changed = (&self.shown, &self.service) != (&shown, &service);
        *self = Self { shown, service };
        changed
    }
}

fn shown(ingress: &Ingress) -> Vec<Address> {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let address =
        |ip: &Option<String>, name: &Option<String>| Some(Address::parse(ip.as_deref().or(name.as_deref())?));
    entries.into_iter().flatten().filter_map(|entry| address(&entry.ip, &entry.hostname)).collect()
}

fn of_service(service: &Service) -> Vec<Address> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let mut addresses: BTreeSet<Address> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(Address::parse(entry.ip.as_deref().or(entry.hostname.as_deref())?)))
        .collect();
    let external = service.spec.as_ref().and_then(|spec| spec.external_ips.as_ref());
    addresses.extend(external.into_iter().flatten().map(|ip| Address::parse(ip)));
    addresses.into_iter().collect()
}

/// The replicas: the addresses of their nodes, and whether there is another one than we.
#[derive(Debug, Default, PartialEq, Eq)]
struct Replicas {
    addresses: Vec<Address>,
    others: bool,
}

fn replicas(pods: &[Pod], me: &str) -> Replicas {
    let mut addresses = BTreeSet::new();
    let mut others = false;
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let Some(status) = &pod.status else { continue };
        let ready = status.conditions.iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
        // Whoever writes this serves, though the kubelet may not have seen it yet.
        let is_me = pod.metadata.name.as_deref() == Some(me);
        if !ready && !is_me {
            continue;
        }
        others |= !is_me;
        let several = status.host_ips.iter().flatten().map(|it| it.ip.as_str());
        addresses.extend(several.chain(status.host_ip.as_deref()).map(Address::parse));
    }
    Replicas { addresses: addresses.into_iter().collect(), others }
}

pub(super) struct Writer {
    api: Api,
    identity: Identity,
    publish: Publish,
    wants: watch::Receiver<Wanted>,
    elector: Elector,
    replicas: Replicas,
    /// What was said last about not being able to write.
    trouble: Option<String>,
}

impl Writer {
    pub(super) fn new(
        api: Api,
        identity: Identity,
        publish: Publish,
        wants: watch::Receiver<Wanted>,
    ) -> Self {
        let elector = Elector::new(api.clone(), identity.clone());
        Self { api, identity, publish, wants, elector, replicas: Replicas::default(), trouble: None }
    }

    /// Until it is time to end, and what has to be taken back is.
    pub(super) async fn run(mut self, mut ending: watch::Receiver<Option<Ending>>) {
        let mut looks = interval(LOOKED_AT);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut renewed, mut counted) = (None::<Instant>, None::<Instant>);
        let mut patience = Patience::new();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                changed = self.wants.changed() => if changed.is_err() { break },
                _ = ending.wait_for(Option::is_some) => break,
            }
            let outcome = async {
                if !self.elector.leads() || renewed.is_none_or(|at| at.elapsed() >= RENEWED) {
                    let led = self.elector.leads();
                    self.elector.turn().await?;
                    renewed = Some(Instant::now());
                    if self.elector.leads() && !led {
                        info!(lease = self.identity.lease, "this replica writes status.loadBalancer");
                        counted = None;
                    }
                }
                if !self.elector.leads() {
                    return Ok(());
                }
                if counted.is_none_or(|at| at.elapsed() >= REPLICAS) {
                    self.count().await?;
                    counted = Some(Instant::now());
                }
                self.write().await
            };
            match outcome.await {
                Ok(()) => {
                    self.trouble = None;
                    patience.restore();
                }
                Err(why) => {
                    if self.trouble.as_ref() != Some(&why) {
                        warn!("status.loadBalancer cannot be written: {why}");
                        self.trouble = Some(why);
                    }
                    tokio::select! {
                        _ = patience.wait() => {}
                        _ = ending.wait_for(Option::is_some) => break,
                    }
                }
            }
        }
        if *ending.borrow() == Some(Ending::HandedOver) {
            return;
        }
        if let Err(why) = self.end().await {
            warn!("status.loadBalancer cannot be taken back: {why}");
        }
    }

    /// Who our replicas are. Not asked where their addresses are not.
    async fn count(&mut self) -> Result<(), String> {
        if !self.by_pods() {
            return Ok(());
        }
        let selector = form_urlencoded::Serializer::new(String::new())
            .append_pair("labelSelector", &self.publish.pods)
            .finish();
        let path = format!("/api/v1/namespaces/{}/pods?{selector}", self.identity.namespace);
        let (status, text) = self.api.read(&path).await.map_err(why)?;
        if status != StatusCode::OK {
            return Err(refusal(status, "list pods in its namespace"));
        }
        #[derive(Deserialize)]
        struct Pods {
            items: Vec<Pod>,
        }
        let pods: Pods = serde_json::from_slice(&text).map_err(|error| format!("the pods: {error}"))?;
        self.replicas = replicas(&pods.items, &self.identity.name);
        Ok(())
    }

    fn by_pods(&self) -> bool {
        self.publish.addresses.is_empty() && self.publish.service.is_none()
    }

    fn addresses(&self) -> Vec<Address> {
        if !self.publish.addresses.is_empty() {
            self.publish.addresses.clone()
        } else if self.publish.service.is_some() {
            self.wants.borrow().service.clone()
        } else {
            self.replicas.addresses.clone()
        }
    }

    /// Writes what is not shown yet.
    async fn write(&mut self) -> Result<(), String> {
        let addresses = self.addresses();
        let late: Vec<Name> = {
            let wanted = self.wants.borrow_and_update();
            // An entry may carry what we do not compare; nothing to say is not worth overwriting it.
            let late = wanted.shown.iter().filter(|(_, shown)| **shown != addresses && !addresses.is_empty());
            late.map(|(name, _)| name.clone()).collect()
        };
        self.show(&late, &addresses).await
    }

    async fn show(&mut self, names: &[Name], addresses: &[Address]) -> Result<(), String> {
        let entries: Vec<Value> = addresses.iter().map(Address::json).collect();
        let body = Bytes::from(json!({ "status": { "loadBalancer": { "ingress": entries } } }).to_string());
        let mut last = Instant::now();
        // One that is refused, by a webhook say, is not what the others wait for.
        let mut refused = None;
        for Name { namespace, name } in names {
            let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{name}/status");
            let kind = "application/merge-patch+json";
            let (status, _) = self.api.ask(Method::PATCH, &path, kind, body.clone()).await.map_err(why)?;
            match status {
                // Gone meanwhile: the watch will tell.
                StatusCode::NOT_FOUND => {}
                status if status.is_success() => {}
                status => {
                    let refusal = refusal(status, "patch ingresses/status");
                    refused.get_or_insert_with(|| format!("Ingress {namespace}/{name}: {refusal}"));
                }
            }
            if last.elapsed() >= RENEWED {
                self.elector.turn().await?;
                last = Instant::now();
                if !self.elector.leads() {
                    break;
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Takes back what nobody would keep right any more, and lets go of the Lease.
    async fn end(&mut self) -> Result<(), String> {
        if !self.elector.leads() {
            return Ok(());
        }
        if !self.publish.keep && self.by_pods() {
            self.count().await?;
            if !self.replicas.others {
                let names: Vec<Name> = self.wants.borrow().shown.keys().cloned().collect();
                self.show(&names, &[]).await?;
                info!(ingresses = names.len(), "the last replica ends: status.loadBalancer is empty");
            }
        }
        self.elector.release().await
    }
}

fn refusal(status: StatusCode, what: &str) -> String {
    match status {
        StatusCode::FORBIDDEN => {
            format!("403 Forbidden: the ServiceAccount must be allowed to {what}")
        }
        status => format!("{what}: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: bool, host: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": name },
            "status": { "hostIP": host, "hostIPs": [{ "ip": host }],
                "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
        }))
        .unwrap()
    }

    #[test]
    fn the_addresses_are_those_of_the_nodes_whose_replicas_serve() {
        let mut ending = pod("c", true, "192.0.2.3");
        ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let pods =
            [pod("a", false, "192.0.2.1"), pod("b", true, "192.0.2.2"), ending, pod("d", false, "192.0.2.4")];
        let found = replicas(&pods, "a");
        assert_eq!(found.addresses, ["192.0.2.1", "192.0.2.2"].map(Address::parse), "we serve, d does not");
        assert!(found.others);
        assert!(!replicas(&pods[..1], "a").others, "nobody but we");
    }

    #[test]
    fn an_address_is_an_ip_or_a_name() {
        assert_eq!(Address::parse("2001:db8::1").json(), json!({ "ip": "2001:db8::1" }));
        assert_eq!(Address::parse("edge.example").json(), json!({ "hostname": "edge.example" }));
    }
}
