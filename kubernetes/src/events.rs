//! Notices as Events of `events.k8s.io/v1`: one for each thing, however often it happens, and never many at once.
//!
//! An Event's name follows from what it says. So a process that comes back goes on with the Event that is there, and what all
//! nodes have to say about one object is one Event. What cannot be written is in the log anyway.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::api::{Api, Trouble};
use crate::notice::Notice;

/// So many at once; beyond that one every [`REFILL`].
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_secs(6);
/// An Event that happens again and again is written so often.
const REPEAT: Duration = Duration::from_secs(60);
/// The server forgets an Event after an hour, and so do we.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Different things to say in an hour. The rest is in the log.
const REMEMBERED: usize = 512;
const LONGEST_NOTE: usize = 1024;

/// Who reports.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// `weir.dev/agent`.
    pub controller: &'static str,
    /// The node or pod that it runs on.
    pub instance: String,
    /// What it was about to do.
    pub action: &'static str,
}

/// Writes Events until nobody has anything to tell.
pub struct EventWriter {
    api: Api,
    reporter: Reporter,
    told: HashMap<Notice, Told>,
    left: u32,
    refilled: Instant,
    refused: bool,
}

/// What has been told.
struct Told {
    count: u32,
    /// Of these are written.
    written: u32,
    last: Timestamp,
    written_at: Instant,
}

impl EventWriter {
    pub fn new(api: Api, reporter: Reporter) -> Self {
        Self { api, reporter, told: HashMap::new(), left: BURST, refilled: Instant::now(), refused: false }
    }

    /// Until nobody tells anything any more.
    pub async fn run(mut self, mut notices: mpsc::Receiver<Notice>) {
        let mut repeats = interval(REPEAT);
        repeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notice = notices.recv() => match notice {
                    Some(notice) => self.hear(notice).await,
                    None => return,
                },
                _ = repeats.tick() => self.repeat().await,
            }
        }
    }

    async fn hear(&mut self, notice: Notice) {
        let now = Instant::now();
        if let Some(told) = self.told.get_mut(&notice) {
            told.count += 1;
            told.last = Timestamp::now();
            return;
        }
        if self.told.len() >= REMEMBERED || !self.may_write(now) {
            debug!(message = notice.message, "too many Events, this one is in the log only");
            return;
        }
        let told = Told { count: 1, written: 1, last: Timestamp::now(), written_at: now };
        let outcome = match self.create(&notice, &told).await {
            // Of an agent before this one, or of another node's.
            Ok(StatusCode::CONFLICT) if notice.about.kind == "Node" => {
                self.patch(&notice, &Told { count: 2, ..told }).await
            }
            outcome => outcome,
        };
        self.note(outcome);
        let last = Timestamp::now();
        self.told.insert(notice, Told { count: 1, written: 1, last, written_at: now });
    }

    /// What has happened again since it was written.
    async fn repeat(&mut self) {
        let now = Instant::now();
        self.told.retain(|_, told| now.duration_since(told.written_at) < FORGOTTEN);
        let again: Vec<Notice> = self
            .told
            .iter()
            .filter(|(_, told)| told.count > told.written && now.duration_since(told.written_at) >= REPEAT)
            .map(|(notice, _)| notice.clone())
            .collect();
        for notice in again {
            let Some(mut told) = self.told.remove(&notice) else { continue };
            let outcome = match self.patch(&notice, &told).await {
                Ok(StatusCode::NOT_FOUND) => self.create(&notice, &told).await,
                outcome => outcome,
            };
            self.note(outcome);
            (told.written, told.written_at) = (told.count, now);
            self.told.insert(notice, told);
        }
    }

    fn may_write(&mut self, now: Instant) -> bool {
        let periods = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if periods > 0 {
            self.left = BURST.min(self.left.saturating_add(u32::try_from(periods).unwrap_or(BURST)));
            self.refilled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    async fn create(&self, notice: &Notice, told: &Told) -> Result<StatusCode, String> {
        let event = event(notice, &self.reporter, told.last);
        self.send(Method::POST, &path(notice), "application/json", &event).await
    }

    async fn patch(&self, notice: &Notice, told: &Told) -> Result<StatusCode, String> {
        let series =
            json!({ "series": { "count": told.count.max(2), "lastObservedTime": micro(told.last) } });
        let uri = format!("{}/{}", path(notice), name(notice, &self.reporter.instance));
        self.send(Method::PATCH, &uri, "application/merge-patch+json", &series).await
    }

    async fn send(&self, method: Method, uri: &str, kind: &str, body: &Value) -> Result<StatusCode, String> {
        let body = Bytes::from(body.to_string().into_bytes());
        match self.api.ask(method, uri, kind, body).await {
            Ok((status, _)) => Ok(status),
            Err(Trouble::Gone) => Err("410 Gone".into()),
            Err(Trouble::Other(why)) => Err(why),
        }
    }

    fn note(&mut self, outcome: Result<StatusCode, String>) {
        let why = match outcome {
            Ok(status) if status.is_success() || status == StatusCode::CONFLICT => {
                self.refused = false;
                return;
            }
            Ok(StatusCode::FORBIDDEN) => {
                "403 Forbidden: the ClusterRole must allow create and patch of events \
                in events.k8s.io (deploy/ has it)"
                    .to_owned()
            }
            Ok(status) => status.to_string(),
            Err(why) => why,
        };
        if !std::mem::replace(&mut self.refused, true) {
            warn!("Events cannot be written, what they say is in this log: {why}");
        }
    }
}

/// Where the Events about this object are.
fn path(notice: &Notice) -> String {
    format!("/apis/events.k8s.io/v1/namespaces/{}/events", namespace(notice))
}

/// Events about what is in no namespace are in `default`.
fn namespace(notice: &Notice) -> &str {
    if notice.about.namespace.is_empty() { "default" } else { &notice.about.namespace }
}

fn name(notice: &Notice, instance: &str) -> String {
    let mut hash = DefaultHasher::new();
    notice.hash(&mut hash);
    if notice.about.kind == "Node" {
        instance.hash(&mut hash);
    }
    // A name has 253 characters at most.
    let object: String = notice.about.name.chars().take(230).collect();
    format!("{object}.{:016x}", hash.finish())
}

fn event(notice: &Notice, reporter: &Reporter, at: Timestamp) -> Value {
    let about = &notice.about;
    let mut regarding =
        json!({ "kind": about.kind, "name": about.name, "apiVersion": api_version(about.kind) });
    if about.namespace.is_empty() {
        // As the kubelet has it, so that `kubectl describe node` finds it.
        regarding["uid"] = about.name.as_str().into();
    } else {
        regarding["namespace"] = about.namespace.as_str().into();
    }
    let mut end = notice.message.len().min(LONGEST_NOTE);
    while !notice.message.is_char_boundary(end) {
        end -= 1;
    }
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": name(notice, &reporter.instance), "namespace": namespace(notice) },
        "eventTime": micro(at),
        "reportingController": reporter.controller,
        "reportingInstance": reporter.instance,
        "action": reporter.action,
        "reason": notice.reason,
        "regarding": regarding,
        "note": &notice.message[..end],
        "type": if notice.is_warning { "Warning" } else { "Normal" },
    })
}

fn api_version(kind: &str) -> &'static str {
    match kind {
        "NetworkPolicy" | "Ingress" | "IngressClass" => "networking.k8s.io/v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        _ => "v1",
    }
}

/// Times of Events have microseconds.
fn micro(at: Timestamp) -> String {
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::task::LocalSet;

    use super::*;
    use crate::access::Access;
    use crate::fake::FakeApi;
    use crate::notice::About;

    fn drift(what: &str) -> Notice {
        let message = format!("changed by somebody else, put right: {what}");
        Notice { about: About::node("node-0"), reason: "DriftRepaired", message, is_warning: true }
    }

    async fn writer(test: impl AsyncFnOnce(FakeApi, EventWriter)) {
        let run = async {
            let api = FakeApi::start().await;
            let access = Access::by_url(&api.url, Path::new("/nowhere"), Path::new("/nowhere")).unwrap();
            let reporter =
                Reporter { controller: "weir.dev/agent", instance: "node-0".into(), action: "Enforce" };
            test(api, EventWriter::new(Api::new(access), reporter)).await;
        };
        LocalSet::new().run_until(run).await;
    }

    #[tokio::test]
    async fn what_happens_again_and_again_is_one_event_with_a_count() {
        writer(async |api, mut writer| {
            for _ in 0..3 {
                writer.hear(drift("route 10.244.1.0/24")).await;
            }
            writer.hear(drift("link weir1")).await;
            let written = api.cluster().written.clone();
            assert_eq!(written.len(), 2, "{written:#?}");
            let (request, event) = &written[0];
            assert_eq!(request, "POST /apis/events.k8s.io/v1/namespaces/default/events");
            for (field, value) in [
                ("reason", "DriftRepaired"),
                ("reportingController", "weir.dev/agent"),
                ("reportingInstance", "node-0"),
                ("note", "changed by somebody else, put right: route 10.244.1.0/24"),
                ("type", "Warning"),
            ] {
                assert_eq!(event[field], value, "{field}");
            }
            let regarding = json!({ "kind": "Node", "name": "node-0", "uid": "node-0", "apiVersion": "v1" });
            assert_eq!(event["regarding"], regarding);
            assert_eq!(event["metadata"]["namespace"], "default");
            let time = event["eventTime"].as_str().unwrap();
            assert!(time.ends_with('Z') && time.rsplit('.').next().unwrap().len() == 7, "{time}");

            for told in writer.told.values_mut() {
                told.written_at -= REPEAT;
            }
            writer.repeat().await;
            writer.repeat().await;
            let written = api.cluster().written.split_off(2);
            let [(request, series)] = &written[..] else { panic!("{written:#?}") };
            assert!(request.starts_with("PATCH /apis/events.k8s.io/v1/namespaces/default/events/node-0."));
            assert_eq!(series["series"]["count"], 3);
        })
        .await;
    }

    #[tokio::test]
    async fn a_policys_event_has_the_same_name_on_every_node_and_lies_in_its_namespace() {
        writer(async |api, mut writer| {
            let message = "NetworkPolicy shop/web: spec.ingress[0]: no".to_owned();
            let about = About::of(&message, &["NetworkPolicy"]).unwrap();
            let told = Notice { about, reason: "NotHonoured", message, is_warning: true };
            writer.hear(told.clone()).await;
            let (request, event) = api.cluster().written[0].clone();
            assert_eq!(request, "POST /apis/events.k8s.io/v1/namespaces/shop/events");
            assert_eq!(event["regarding"]["apiVersion"], "networking.k8s.io/v1");
            assert_eq!(event["regarding"]["namespace"], "shop");
            assert_eq!(name(&told, "node-0"), name(&told, "node-1"));
            assert_ne!(name(&drift("link"), "node-0"), name(&drift("link"), "node-1"));
        })
        .await;
    }

    #[tokio::test]
    async fn a_flood_of_things_to_tell_is_not_a_flood_of_events() {
        writer(async |api, mut writer| {
            for number in 0..200 {
                writer.hear(drift(&format!("route {number}"))).await;
            }
            let written = api.cluster().written.len();
            assert!((BURST as usize..2 * BURST as usize).contains(&written), "{written} Events");
        })
        .await;
    }
}
