//! One kind: listed once, then watched for ever; listed again only where the watch has lost its place.
//!
//! What is told at any time is what the server said at some time: a list that breaks off changes nothing, and a watch
//! that breaks off is taken up where it was.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use hyper::StatusCode;
use policy::{Kind, Object, ObjectKey, Warning};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::{debug, info};

use super::api::{self, Head, Name, Page, Trouble};
use super::mirror::Mirror;
use super::{Arrival, Change, Patience, Shared, trim};

pub(super) struct Feed {
    kind: Kind,
    shared: Rc<Shared>,
    /// The first list has been told whole.
    listed: bool,
    /// The last request was in vain, and it was said so.
    troubled: bool,
    /// Objects that could not be read, and why.
    unread: BTreeMap<Name, String>,
}

/// One line of a watch.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    what: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// An object that is news.
struct News {
    name: Name,
    version: String,
    /// `None`: it is gone.
    object: Option<(Object, Vec<Warning>)>,
}

/// Nobody listens any more.
struct Unheard;

enum End {
    Trouble(Trouble),
    Unheard,
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Unheard> for End {
    fn from(_: Unheard) -> Self {
        Self::Unheard
    }
}

impl Feed {
    pub(super) fn new(kind: Kind, shared: Rc<Shared>) -> Self {
        Self { kind, shared, listed: false, troubled: false, unread: BTreeMap::new() }
    }

    /// Until nobody listens.
    pub(super) async fn run(mut self) {
        if matches!(self.kind, Kind::NetworkPolicy | Kind::Namespace) {
            // Whatever was there when a listed pod was created is in a list that comes later.
            let mut listed = self.shared.listed.subscribe();
            if listed.wait_for(|listed| listed.contains(&Kind::Pod)).await.is_err() {
                return;
            }
        }
        let mut patience = Patience::new();
        let mut place: Option<String> = None;
        loop {
            let end = match &mut place {
                None => match self.list().await {
                    Ok(version) => {
                        patience.restore();
                        self.complain(None).await;
                        place = Some(version);
                        continue;
                    }
                    Err(end) => Err(end),
                },
                Some(version) => self.watch(version, &mut patience).await,
            };
            match end {
                // The server ends watches now and then; one that ends them at once is not to be flooded.
                Ok(()) => debug!(kind = self.kind.as_str(), "watch ended, taken up again"),
                Err(End::Unheard) => return,
                Err(End::Trouble(Trouble::Gone)) => {
                    info!(
                        kind = self.kind.as_str(),
                        "the API server no longer knows our place, listed again"
                    );
                    place = None;
                }
                Err(End::Trouble(Trouble::Other(why))) => self.complain(Some(&why)).await,
            }
            patience.wait().await;
        }
    }

    /// Tells what is different from what was told, once the list is whole; returns its version.
    async fn list(&mut self) -> Result<String, End> {
        let mut listed = HashSet::new();
        let mut news = Vec::new();
        let mut next = String::new();
        loop {
            let text = self.shared.api.page(self.kind, &next).await?;
            let page: Page<'_> = serde_json::from_slice(&text).map_err(api::unreadable)?;
            for item in page.items.into_iter().flatten() {
                let head: Head = serde_json::from_str(item.get()).map_err(api::unreadable)?;
                let (name, version) = head.into_parts();
                if !self.holds(&name, &version)
                    && let Some(object) = self.read(&name, &version, item.get())
                {
                    news.push(News { name: name.clone(), version, object: Some(object) });
                }
                listed.insert(name);
            }
            next = page.metadata.next;
            if next.is_empty() {
                self.unread.retain(|name, _| listed.contains(name));
                let gone = self.mirrored(|mirror| mirror.without(&listed));
                news.extend(gone.into_iter().map(|name| News { name, version: String::new(), object: None }));
                self.tell(news, !self.listed, None).await?;
                let version = page.metadata.resource_version;
                self.pass(&version);
                return Ok(version);
            }
            if !self.listed {
                // Nothing is programmed yet, so nothing need be held back here.
                self.tell(std::mem::take(&mut news), false, None).await?;
            }
        }
    }

    /// Follows what happens after `version`, which moves along.
    async fn watch(&mut self, version: &mut String, patience: &mut Patience) -> Result<(), End> {
        let mut lines = self.shared.api.watch(self.kind, version).await?;
        if self.troubled {
            self.complain(None).await;
        }
        loop {
            let (text, at) = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(trouble) => {
                    // No news as long as it can be taken up again.
                    info!(kind = self.kind.as_str(), ?trouble, "watch broke off");
                    return Ok(());
                }
            };
            let line: Line<'_> = serde_json::from_slice(&text).map_err(api::unreadable)?;
            if line.what == "ERROR" {
                return Err(failure(line.object.get()).into());
            }
            let head: Head = serde_json::from_str(line.object.get()).map_err(api::unreadable)?;
            let (name, next) = head.into_parts();
            let unread = self.unread.len();
            let object = match line.what {
                "ADDED" | "MODIFIED" => self.read(&name, &next, line.object.get()).map(Some),
                "DELETED" => {
                    self.unread.remove(&name);
                    Some(None)
                }
                // A bookmark, or what a later version thinks of.
                _ => None,
            };
            if self.unread.len() != unread {
                self.complain(None).await;
            }
            if let Some(object) = object {
                let arrived = Arrival { kind: self.kind, at };
                self.tell(vec![News { name, version: next.clone(), object }], false, Some(arrived)).await?;
            }
            self.pass(&next);
            *version = next;
            patience.restore();
        }
    }

    /// What the text says; where it cannot be read, what was known of the object stays.
    fn read(&mut self, name: &Name, version: &str, text: &str) -> Option<(Object, Vec<Warning>)> {
        match trim::object(self.kind, text) {
            Ok(object) => {
                self.unread.remove(name);
                Some(object)
            }
            Err(why) => {
                let key = self.key(name.clone());
                self.unread
                    .insert(name.clone(), format!("{key}: {why}; what was known of it stays in force"));
                // There is no more to come of this version.
                self.mirrored(|mirror| mirror.put(name.clone(), version));
                None
            }
        }
    }

    /// Sends news in one piece, and notes what has been told.
    async fn tell(&mut self, news: Vec<News>, whole: bool, arrived: Option<Arrival>) -> Result<(), Unheard> {
        let mut changes = Vec::with_capacity(news.len());
        let mut told = Vec::with_capacity(news.len());
        for News { name, version, object } in news {
            let there = object.is_some();
            match object {
                Some(object) => changes.extend(self.admit(&name, object)),
                None => {
                    if self.kind == Kind::Pod {
                        self.shared.newcomers.forget(&name);
                    }
                    changes.push(Change::Delete(self.key(name.clone())));
                }
            }
            told.push((name, version, there));
        }
        if whole {
            self.listed = true;
            self.shared.listed.send_if_modified(|listed| listed.insert(self.kind));
        }
        if (whole || !changes.is_empty()) && !self.shared.tell(changes, arrived).await {
            return Err(Unheard);
        }
        self.mirrored(|mirror| {
            for (name, version, there) in told {
                if there { mirror.put(name, &version) } else { mirror.remove(&name) }
            }
        });
        Ok(())
    }

    /// A pod that is new to this node has to wait.
    fn admit(&self, name: &Name, (object, warnings): (Object, Vec<Warning>)) -> Option<Change> {
        let Object::Pod(pod) = &object else { return Some(Change::Apply(object, warnings)) };
        let spec = pod.spec.as_ref();
        // A pod of no node has no address yet, and it may become one of this node.
        let node = spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty())?;
        if node != self.shared.node || spec.is_some_and(|spec| spec.host_network == Some(true)) {
            return Some(Change::Apply(object, warnings));
        }
        if !self.listed {
            self.shared.newcomers.welcome(name, pod.metadata.uid.as_deref().unwrap_or_default());
        }
        let known = self.shared.newcomers.receive(name, object, warnings);
        known.map(|(object, warnings)| Change::Apply(object, warnings))
    }

    fn holds(&self, name: &Name, version: &str) -> bool {
        self.mirrored(|mirror| mirror.holds(name, version))
    }

    fn pass(&self, version: &str) {
        self.mirrored(|mirror| mirror.pass(version));
        self.shared.moved.notify_waiters();
    }

    fn mirrored<T>(&self, with: impl FnOnce(&mut Mirror) -> T) -> T {
        with(self.shared.mirrors.borrow_mut().entry(self.kind).or_default())
    }

    fn key(&self, (namespace, name): Name) -> ObjectKey {
        ObjectKey { kind: self.kind, namespace: self.kind.is_namespaced().then_some(namespace), name }
    }

    async fn complain(&mut self, trouble: Option<&str>) {
        self.troubled = trouble.is_some();
        let kind = self.kind.as_str();
        let stays = if self.listed { "; what was known stays in force" } else { "" };
        let trouble = trouble.map(|why| format!("API server, {kind}s: {why}{}{stays}", advice(why)));
        self.shared.complain(kind, trouble.into_iter().chain(self.unread.values().cloned()).collect()).await;
    }
}

/// What to do, where that follows from the words of the server or of TLS.
fn advice(why: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if says(&["403 Forbidden"]) {
        " (the ServiceAccount's ClusterRole must allow list and watch of it: apply deploy/ again)"
    } else if says(&["401 Unauthorized"]) {
        " (the token is not, or no longer, valid here: see --token-file or the kubeconfig)"
    } else if says(&["certificate expired", "Expired"]) {
        " (the API server's certificate has expired: renew it, or set this machine's clock right)"
    } else if says(&["NotValidForName", "not valid for name"]) {
        " (the API server's certificate is not for this address: use one that it names for --api-server)"
    } else if says(&["UnknownIssuer", "BadSignature", "invalid peer certificate"]) {
        " (the API server's certificate is not from the authority in --ca-file: give the right one)"
    } else {
        ""
    }
}

/// What an `ERROR` of a watch says.
fn failure(status: &str) -> Trouble {
    #[derive(Deserialize)]
    struct Status {
        code: u16,
    }
    let code = serde_json::from_str(status).map_or(0, |status: Status| status.code);
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    api::refusal(code, status.as_bytes())
}
