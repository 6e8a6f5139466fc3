//! The three requests that are made: a page of a list, the names and versions of a list, a watch.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use form_urlencoded::Serializer;
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use kube::Client;
use kube::client::Body;
use policy::Kind;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{Access, chance};

/// Objects a page: few enough that a page of large Pods stays a few megabytes.
const PAGE: usize = 250;
/// A page that takes longer will not come.
const ANSWER: Duration = Duration::from_secs(30);
/// The server ends a watch after this, or up to twice as long, so that not all of them end together.
const WATCH_S: f64 = 300.0;
/// It sends a bookmark each minute at least; one that is silent for longer is dead.
const SILENCE: Duration = Duration::from_secs(100);

pub(super) struct Api {
    client: Client,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The version asked for is no longer kept: everything has to be listed again.
    Gone,
    Other(String),
}

/// Of any object, what tells which it is.
#[derive(Deserialize)]
pub(super) struct Head {
    metadata: HeadMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
}

/// Namespace, or nothing, and name.
pub(super) type Name = (String, String);

impl Head {
    pub(super) fn into_parts(self) -> (Name, String) {
        let HeadMetadata { namespace, name, resource_version } = self.metadata;
        ((namespace, name), resource_version)
    }
}

/// One page of a list, its objects still as text.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    pub(super) metadata: PageMetadata,
    #[serde(borrow)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    pub(super) resource_version: String,
    #[serde(rename = "continue", default)]
    pub(super) next: String,
}

/// The objects that there are, and the version as of which.
pub(super) struct Listing {
    pub(super) version: String,
    pub(super) versions: BTreeMap<Name, String>,
}

/// Where a kind's objects are.
fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "/api/v1/namespaces",
        Kind::Node => "/api/v1/nodes",
        Kind::Pod => "/api/v1/pods",
        Kind::Service => "/api/v1/services",
        Kind::NetworkPolicy => "/apis/networking.k8s.io/v1/networkpolicies",
        Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
    }
}

impl Api {
    pub(super) fn new(access: Access) -> Self {
        Self { client: access.client }
    }

    /// One page, as of now; `next` is what the page before said. It is to be read as a [`Page`].
    pub(super) async fn page(&self, kind: Kind, next: &str) -> Result<Bytes, Trouble> {
        let mut query = Serializer::new(String::new());
        query.append_pair("limit", &PAGE.to_string());
        if !next.is_empty() {
            query.append_pair("continue", next);
        }
        self.get(&format!("{}?{}", path(kind), query.finish()), "application/json").await
    }

    /// All names, as of now. Of a kind in namespaces, those in `namespace`.
    pub(super) async fn names(&self, kind: Kind, namespace: &str) -> Result<Listing, Trouble> {
        let path = match path(kind).rsplit_once('/') {
            Some((group, resource)) if kind.is_namespaced() => {
                format!("{group}/namespaces/{namespace}/{resource}")
            }
            _ => path(kind).to_owned(),
        };
        let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let text = self.get(&path, accept).await?;
        let page: Page<'_> = serde_json::from_slice(&text).map_err(unreadable)?;
        let heads = page.items.iter().flatten().map(|item| serde_json::from_str::<Head>(item.get()));
        let versions =
            heads.map(|head| head.map(Head::into_parts).map_err(unreadable)).collect::<Result<_, _>>()?;
        Ok(Listing { version: page.metadata.resource_version, versions })
    }

    /// What happens after `version`, a line an event.
    pub(super) async fn watch(&self, kind: Kind, version: &str) -> Result<Lines, Trouble> {
        let seconds = Duration::from_secs_f64(WATCH_S * (1.0 + chance())).as_secs();
        let query = Serializer::new(String::new())
            .append_pair("watch", "true")
            .append_pair("allowWatchBookmarks", "true")
            .append_pair("resourceVersion", version)
            .append_pair("timeoutSeconds", &seconds.to_string())
            .finish();
        let uri = format!("{}?{query}", path(kind));
        let body =
            timeout(ANSWER, self.send(&uri, "application/json")).await.map_err(|_| silent(ANSWER))??;
        Ok(Lines { body, whole: VecDeque::new(), begun: Vec::new(), arrived: Instant::now() })
    }

    async fn get(&self, uri: &str, accept: &str) -> Result<Bytes, Trouble> {
        let answer = async {
            let body = self.send(uri, accept).await?;
            Ok(body.collect().await.map_err(broken)?.to_bytes())
        };
        timeout(ANSWER, answer).await.map_err(|_| silent(ANSWER))?
    }

    async fn send(&self, uri: &str, accept: &str) -> Result<Body, Trouble> {
        let request = Request::get(uri).header(header::ACCEPT, accept).body(Body::empty());
        let request = request.map_err(|error| Trouble::Other(error.to_string()))?;
        let response = self.client.send(request).await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let text = response.into_body().collect().await.map_err(broken)?.to_bytes();
        Err(refusal(status, &text))
    }
}

/// The lines of an answer that goes on.
pub(super) struct Lines {
    body: Body,
    whole: VecDeque<Vec<u8>>,
    begun: Vec<u8>,
    /// When the last of it came.
    arrived: Instant,
}

impl Lines {
    /// With when it arrived, which for a line of many is before its turn. `None`: the server has ended it, as it does now
    /// and then. A line that was cut off is no line.
    pub(super) async fn next(&mut self) -> Result<Option<(Vec<u8>, Instant)>, Trouble> {
        loop {
            if let Some(line) = self.whole.pop_front() {
                return Ok(Some((line, self.arrived)));
            }
            let frame = timeout(SILENCE, self.body.frame()).await.map_err(|_| silent(SILENCE))?;
            let Some(frame) = frame else { return Ok(None) };
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            self.arrived = Instant::now();
            let mut parts = data.split(|byte| *byte == b'\n');
            self.begun.extend_from_slice(parts.next().unwrap_or_default());
            for part in parts {
                self.whole.push_back(std::mem::replace(&mut self.begun, part.to_vec()));
            }
        }
    }
}

/// What a `Status` object says, or whoever answered in the server's place.
pub(super) fn refusal(status: StatusCode, text: &[u8]) -> Trouble {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    if status == StatusCode::GONE {
        return Trouble::Gone;
    }
    let message = serde_json::from_slice(text).map(|status: Status| status.message);
    Trouble::Other(format!("{status}: {}", message.unwrap_or_else(|_| "no reason given".to_owned())))
}

fn silent(limit: Duration) -> Trouble {
    Trouble::Other(format!("no word for {} s", limit.as_secs()))
}

pub(super) fn unreadable(error: serde_json::Error) -> Trouble {
    Trouble::Other(format!("the answer cannot be read: {error}"))
}

fn broken(error: kube::Error) -> Trouble {
    Trouble::Other(innermost(&error))
}

/// What happened. The errors around it only say that something did, and repeat it.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => innermost(cause),
        None => error.to_string(),
    }
}
