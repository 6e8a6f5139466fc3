//! What is in force, for people to look at.

use api::ingress::{Backend, Certificate, Endpoint, Route};

use super::Shared;
use super::live;
use crate::compile::{Action, Protocol};

impl Shared {
    /// Every rule, host by host, in the order in which they are asked.
    pub fn routes(&self) -> Vec<Route> {
        let snapshot = self.snapshot.load();
        let name =
            |cluster: usize| snapshot.clusters.get(cluster).map(|it| it.name.clone()).unwrap_or_default();
        let rules = snapshot.table.rules().into_iter();
        let routes = rules.map(|(host, path, conditions, target)| {
            let (backends, refused) = match &target.action {
                Action::Forward(shares) => {
                    (shares.iter().map(|share| (name(share.cluster), share.weight)).collect(), None)
                }
                Action::Refuse { status, why } => (Vec::new(), Some(format!("{}: {why}", status.as_u16()))),
            };
            Route { host, path, conditions, object: target.object.to_string(), backends, refused }
        });
        routes.collect()
    }

    /// Every port of a Service that a rule leads to, and how its endpoints are doing.
    pub fn backends(&self) -> Vec<Backend> {
        let snapshot = self.snapshot.load();
        let backends = snapshot.clusters.iter().map(|cluster| {
            let serving = cluster.endpoints.iter().map(|it| endpoint(it, false));
            let ending = cluster.draining.iter().map(|it| endpoint(it, true));
            let mut endpoints: Vec<Endpoint> = ending.chain(serving).collect();
            // Where only those that end are left they are in both.
            endpoints.sort_by_key(|it| (it.address, !it.ends));
            endpoints.dedup_by_key(|it| it.address);
            let protocol = match cluster.protocol {
                Protocol::Http => "http",
                Protocol::H2c => "h2c",
                Protocol::Https => "https",
                Protocol::Grpcs => "grpcs",
            };
            Backend {
                name: cluster.name.clone(),
                protocol: protocol.into(),
                endpoints,
                empty: cluster.empty.clone(),
            }
        });
        backends.collect()
    }

    /// The certificates that hosts want, and whether they show them.
    pub fn certificates(&self) -> Vec<Certificate> {
        let snapshot = self.snapshot.load();
        let certificates = snapshot.uses.iter().map(|it| Certificate {
            host: it.host.as_ref().map(ToString::to_string),
            secret: it.secret.to_string(),
            object: it.object.clone(),
            in_force: snapshot.certificates.has(&it.secret),
        });
        certificates.collect()
    }
}

fn endpoint(it: &live::Endpoint, ends: bool) -> Endpoint {
    let (in_flight, latency_us, rests) = it.load.look();
    Endpoint { address: it.address, ends, in_flight, latency_us, rests }
}
