//! Which of the replicas writes: the one that holds the Lease.
//!
//! A holder renews well before the Lease runs out, and lets go of it when it ends, so that the next one need not wait. How
//! long a Lease of somebody else has been silent is measured by our own clock from when we saw it change: clocks of
//! several machines do not agree.

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use kubernetes::{Api, Trouble};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// A Lease that was not renewed for so long is anybody's.
const HELD: Duration = Duration::from_secs(15);
/// So often the holder renews it.
pub(super) const RENEWED: Duration = Duration::from_secs(5);

/// Who a replica is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Of the pod.
    pub name: String,
    /// Of the pod, and of the Lease.
    pub namespace: String,
    /// Of the Lease: the same for all replicas.
    pub lease: String,
}

/// What is to be done about the Lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create,
    /// Make it ours, or ours for longer.
    Hold,
    /// It is somebody else's.
    Leave,
}

pub(super) struct Elector {
    api: Api,
    identity: Identity,
    /// The Lease of somebody else as it was seen last, and since when.
    seen: Option<(String, Instant)>,
    /// Until then it is certainly ours.
    until: Option<Instant>,
}

impl Elector {
    pub(super) fn new(api: Api, identity: Identity) -> Self {
        Self { api, identity, seen: None, until: None }
    }

    /// Whether we may write now.
    pub(super) fn leads(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Looks at the Lease, and takes or renews it where that is due. The error says why neither could be had.
    pub(super) async fn turn(&mut self) -> Result<(), String> {
        let asked = Instant::now();
        let lease = match self.api.read(&self.path()).await.map_err(why)? {
            (StatusCode::OK, text) => {
                Some(serde_json::from_slice(&text).map_err(|error| format!("the Lease: {error}"))?)
            }
            (StatusCode::NOT_FOUND, _) => None,
            (status, _) => return Err(refusal(status)),
        };
        let status = match self.step(lease.as_ref(), asked) {
            Step::Leave => {
                self.until = None;
                return Ok(());
            }
            Step::Create => {
                let path = self.path();
                let folder = path.rsplit_once('/').map_or(path.as_str(), |(folder, _)| folder);
                self.write(Method::POST, folder, &self.lease(None, &self.identity.name)).await?
            }
            Step::Hold => {
                let lease = self.lease(lease.as_ref(), &self.identity.name);
                self.write(Method::PUT, &self.path(), &lease).await?
            }
        };
        if status.is_success() {
            self.until = Some(asked + HELD - RENEWED / 2);
            Ok(())
        } else if status == StatusCode::CONFLICT {
            // Somebody was faster.
            self.until = None;
            Ok(())
        } else {
            Err(refusal(status))
        }
    }

    /// Lets go of the Lease, if it is ours.
    pub(super) async fn release(&mut self) -> Result<(), String> {
        if self.until.take().is_none() {
            return Ok(());
        }
        let (status, text) = self.api.read(&self.path()).await.map_err(why)?;
        let lease: Value = serde_json::from_slice(&text).unwrap_or_default();
        if !status.is_success() || lease["spec"]["holderIdentity"] != self.identity.name.as_str() {
            return Ok(());
        }
        self.write(Method::PUT, &self.path(), &self.lease(Some(&lease), "")).await.map(drop)
    }

    fn step(&mut self, lease: Option<&Value>, now: Instant) -> Step {
        let Some(lease) = lease else { return Step::Create };
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        if holder.is_empty() || holder == self.identity.name {
            self.seen = None;
            return Step::Hold;
        }
        let version = lease["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if seen == version => *since,
            _ => {
                self.seen = Some((version.to_owned(), now));
                now
            }
        };
        let held = lease["spec"]["leaseDurationSeconds"].as_u64().map_or(HELD, Duration::from_secs);
        if now.duration_since(since) > held { Step::Hold } else { Step::Leave }
    }

    /// The Lease as it is to be; of the one that is there the version is kept, so that of two writers one loses.
    fn lease(&self, last: Option<&Value>, holder: &str) -> Value {
        let now = format!("{:.6}", Timestamp::now());
        let mut lease = last.cloned().unwrap_or_else(|| {
            json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": { "name": self.identity.lease, "namespace": self.identity.namespace },
                "spec": { "leaseTransitions": 0 },
            })
        });
        let spec = &mut lease["spec"];
        if spec["holderIdentity"].as_str().unwrap_or_default() != holder && !holder.is_empty() {
            spec["leaseTransitions"] = (spec["leaseTransitions"].as_i64().unwrap_or(0) + 1).into();
            spec["acquireTime"] = now.as_str().into();
        }
        spec["holderIdentity"] = holder.into();
        spec["leaseDurationSeconds"] = if holder.is_empty() { 1 } else { HELD.as_secs() }.into();
        spec["renewTime"] = now.into();
        lease
    }

    async fn write(&self, method: Method, path: &str, lease: &Value) -> Result<StatusCode, String> {
        let body = Bytes::from(lease.to_string());
        Ok(self.api.ask(method, path, "application/json", body).await.map_err(why)?.0)
    }

    fn path(&self) -> String {
        let Identity { namespace, lease, .. } = &self.identity;
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{lease}")
    }
}

pub(super) fn why(trouble: Trouble) -> String {
    match trouble {
        Trouble::Gone => "410 Gone".into(),
        Trouble::Other(why) => why,
    }
}

fn refusal(status: StatusCode) -> String {
    match status {
        StatusCode::FORBIDDEN => {
            "403 Forbidden: the ServiceAccount's Role must allow get, create and update of leases in \
             coordination.k8s.io"
                .into()
        }
        status => status.to_string(),
    }
}
