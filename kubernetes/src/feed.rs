//! One kind: listed once, then watched for ever; listed again only where the watch has lost its place.
//!
//! What is told at any time is what the server said at some time: a list that breaks off changes nothing, and a watch
//! that breaks off is taken up where it was.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::Instant;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::{debug, info};

use crate::api::{self, Api, Head, Name, Page, Resource, Trouble};
use crate::mirror::Mirror;
use crate::patience::Patience;

/// Who is told what a feed learns.
pub trait Sink {
    /// What an object is once it has been read.
    type Object;

    /// As Kubernetes writes the kind.
    fn kind(&self) -> &'static str;

    /// The object that `text` is; the error says why it is none.
    fn read(&self, text: &str) -> Result<Self::Object, String>;

    /// Takes news in as one. `whole`: with this the first list has been told. Answers whether anybody listens.
    fn tell(&mut self, news: Vec<News<Self::Object>>, whole: bool) -> impl Future<Output = bool>;

    /// Everything up to some version has been told.
    fn passed(&self) {}

    /// All that is wrong with this kind now.
    fn complain(&mut self, complaints: Vec<String>) -> impl Future<Output = ()>;
}

/// Of one kind, how things stand with the API server.
pub struct Feed<S: Sink> {
    api: Api,
    resource: Resource,
    mirror: Rc<RefCell<Mirror>>,
    sink: S,
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
pub struct News<O> {
    pub name: Name,
    version: String,
    /// `None`: it is gone.
    pub object: Option<O>,
    /// When the event of a watch arrived that this is, the only one of its kind to be told at once. Of a list: nothing.
    pub arrived: Option<Instant>,
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

impl<S: Sink> Feed<S> {
    /// What has been told is noted in `mirror`.
    pub fn new(api: Api, resource: Resource, mirror: Rc<RefCell<Mirror>>, sink: S) -> Self {
        Self { api, resource, mirror, sink, listed: false, troubled: false, unread: BTreeMap::new() }
    }

    /// Until nobody listens.
    pub async fn run(mut self) {
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
                Ok(()) => debug!(kind = self.sink.kind(), "watch ended, taken up again"),
                Err(End::Unheard) => return,
                Err(End::Trouble(Trouble::Gone)) => {
                    info!(kind = self.sink.kind(), "the API server no longer knows our place, listed again");
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
            let text = self.api.page(self.resource, &next).await?;
            let page: Page<'_> = serde_json::from_slice(&text).map_err(api::unreadable)?;
            for item in page.items.into_iter().flatten() {
                let head: Head = serde_json::from_str(item.get()).map_err(api::unreadable)?;
                let (name, version) = head.into_parts();
                if !self.holds(&name, &version)
                    && let Some(object) = self.read(&name, &version, item.get())
                {
                    news.push(News { name: name.clone(), version, object: Some(object), arrived: None });
                }
                listed.insert(name);
            }
            next = page.metadata.next;
            if next.is_empty() {
                self.unread.retain(|name, _| listed.contains(name));
                let gone = self.mirrored(|mirror| mirror.without(&listed));
                news.extend(gone.into_iter().map(|name| News {
                    name,
                    version: String::new(),
                    object: None,
                    arrived: None,
                }));
                self.tell(news, !self.listed).await?;
                let version = page.metadata.resource_version;
                self.pass(&version);
                return Ok(version);
            }
            if !self.listed {
                // Nothing is programmed yet, so nothing need be held back here.
                self.tell(std::mem::take(&mut news), false).await?;
            }
        }
    }

    /// Follows what happens after `version`, which moves along.
    async fn watch(&mut self, version: &mut String, patience: &mut Patience) -> Result<(), End> {
        let mut lines = self.api.watch(self.resource, version).await?;
        if self.troubled {
            self.complain(None).await;
        }
        loop {
            let (text, at) = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(trouble) => {
                    // No news as long as it can be taken up again.
                    info!(kind = self.sink.kind(), ?trouble, "watch broke off");
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
                let news = News { name, version: next.clone(), object, arrived: Some(at) };
                self.tell(vec![news], false).await?;
            }
            self.pass(&next);
            *version = next;
            patience.restore();
        }
    }

    /// What the text says; where it cannot be read, what was known of the object stays.
    fn read(&mut self, name: &Name, version: &str, text: &str) -> Option<S::Object> {
        match self.sink.read(text) {
            Ok(object) => {
                self.unread.remove(name);
                Some(object)
            }
            Err(why) => {
                let (kind, (namespace, object)) = (self.sink.kind(), name);
                let slash = if namespace.is_empty() { "" } else { "/" };
                let complaint =
                    format!("{kind} {namespace}{slash}{object}: {why}; what was known of it stays in force");
                self.unread.insert(name.clone(), complaint);
                // There is no more to come of this version.
                self.mirrored(|mirror| mirror.put(name.clone(), version));
                None
            }
        }
    }

    /// Sends news in one piece, and notes what has been told.
    async fn tell(&mut self, news: Vec<News<S::Object>>, whole: bool) -> Result<(), Unheard> {
        let told: Vec<_> =
            news.iter().map(|it| (it.name.clone(), it.version.clone(), it.object.is_some())).collect();
        self.listed |= whole;
        if !self.sink.tell(news, whole).await {
            return Err(Unheard);
        }
        self.mirrored(|mirror| {
            for (name, version, there) in told {
                if there { mirror.put(name, &version) } else { mirror.remove(&name) }
            }
        });
        Ok(())
    }

    fn holds(&self, name: &Name, version: &str) -> bool {
        self.mirrored(|mirror| mirror.holds(name, version))
    }

    fn pass(&self, version: &str) {
        self.mirrored(|mirror| mirror.pass(version));
        self.sink.passed();
    }

    fn mirrored<T>(&self, with: impl FnOnce(&mut Mirror) -> T) -> T {
        with(&mut self.mirror.borrow_mut())
    }

    async fn complain(&mut self, trouble: Option<&str>) {
        self.troubled = trouble.is_some();
        let kind = self.sink.kind();
        let stays = if self.listed { "; what was known stays in force" } else { "" };
        let trouble = trouble.map(|why| format!("API server, {}: {why}{}{stays}", plural(kind), advice(why)));
        self.sink.complain(trouble.into_iter().chain(self.unread.values().cloned()).collect()).await;
    }
}

/// `Pods`, `Ingresses`, `NetworkPolicies`.
fn plural(kind: &str) -> String {
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with('s') => format!("{kind}es"),
        None => format!("{kind}s"),
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
