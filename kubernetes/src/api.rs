//! The requests that are made: a page of a list, the names and versions of a list, a watch; and a write.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use form_urlencoded::Serializer;
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use crate::access::Access;
use crate::patience::chance;

/// Objects a page: few enough that a page of large Pods stays a few megabytes.
const PAGE: usize = 250;
/// A page that takes longer will not come.
const ANSWER: Duration = Duration::from_secs(30);
/// So does the answer about one object.
const WRITTEN: Duration = Duration::from_secs(10);
/// The server ends a watch after this, or up to twice as long, so that not all of them end together.
const WATCH_S: f64 = 300.0;
/// It sends a bookmark each minute at least; one that is silent for longer is dead.
const SILENCE: Duration = Duration::from_secs(100);

/// The API server, as something to be asked.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

impl Resource {
    fn select(&self, query: &mut Serializer<'_, String>) {
        if !self.fields.is_empty() {
            query.append_pair("fieldSelector", self.fields);
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    /// The version asked for is no longer kept: everything has to be listed again.
    Gone,
    Other(String),
}

/// Of any object, what tells which it is.
#[derive(Deserialize)]
pub struct Head {
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
pub type Name = (String, String);

impl Head {
    /// Which it is, and in which version.
    pub fn into_parts(self) -> (Name, String) {
        let HeadMetadata { namespace, name, resource_version } = self.metadata;
        ((namespace, name), resource_version)
    }
}

/// One page of a list, its objects still as text.
#[derive(Deserialize)]
pub(crate) struct Page<'a> {
    pub metadata: PageMetadata,
    #[serde(borrow)]
    pub items: Option<Vec<&'a RawValue>>,
}

/// Of a page, where the next one is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageMetadata {
    pub resource_version: String,
    #[serde(rename = "continue", default)]
    pub next: String,
}

/// The objects that there are, and the version as of which.
pub struct Listing {
    pub version: String,
    pub versions: BTreeMap<Name, String>,
}

/// The objects of one kind, and where they are.
#[derive(Clone, Copy, Debug)]
pub struct Resource {
    /// `/api/v1/pods`.
    pub path: &'static str,
    pub is_namespaced: bool,
    /// Only those of which this holds (`type!=Opaque`); empty: all.
    pub fields: &'static str,
}

impl Api {
    pub fn new(access: Access) -> Self {
        Self { client: access.client }
    }

    /// One object, or whatever else is at this path.
    pub async fn read(&self, path: &str) -> Result<(StatusCode, Bytes), Trouble> {
        self.ask(Method::GET, path, "application/json", Bytes::new()).await
    }

    /// Creates, changes or removes what is at this path, and gives back what the server says of it.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Trouble> {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, content_type);
        let request = request.body(Body::from(body)).map_err(|error| Trouble::Other(error.to_string()))?;
        let answer = async {
            let response = self.client.send(request).await.map_err(broken)?;
            let status = response.status();
            Ok((status, response.into_body().collect().await.map_err(broken)?.to_bytes()))
        };
        timeout(WRITTEN, answer).await.map_err(|_| silent(WRITTEN))?
    }

    /// One page of all namespaces, as of now; `next` is what the page before said. It is to be read as a [`Page`].
    pub async fn page(&self, resource: Resource, next: &str) -> Result<Bytes, Trouble> {
        let mut query = Serializer::new(String::new());
        query.append_pair("limit", &PAGE.to_string());
        if !next.is_empty() {
            query.append_pair("continue", next);
        }
        resource.select(&mut query);
        self.get(&format!("{}?{}", resource.path, query.finish()), "application/json").await
    }

    /// All names, as of now. Of a kind in namespaces, those in `namespace`.
    pub async fn names(&self, resource: Resource, namespace: &str) -> Result<Listing, Trouble> {
        let path = match resource.path.rsplit_once('/') {
            Some((group, plural)) if resource.is_namespaced => {
                format!("{group}/namespaces/{namespace}/{plural}")
            }
            _ => resource.path.to_owned(),
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
    pub async fn watch(&self, resource: Resource, version: &str) -> Result<Lines, Trouble> {
        let seconds = Duration::from_secs_f64(WATCH_S * (1.0 + chance())).as_secs();
        let mut query = Serializer::new(String::new());
        query
            .append_pair("watch", "true")
            .append_pair("allowWatchBookmarks", "true")
            .append_pair("resourceVersion", version)
            .append_pair("timeoutSeconds", &seconds.to_string());
        resource.select(&mut query);
        let uri = format!("{}?{}", resource.path, query.finish());
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
pub struct Lines {
    body: Body,
    whole: VecDeque<Vec<u8>>,
    begun: Vec<u8>,
    /// When the last of it came.
    arrived: Instant,
}

impl Lines {
    /// With when it arrived, which for a line of many is before its turn. `None`: the server has ended it, as it does now
    /// and then. A line that was cut off is no line.
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Instant)>, Trouble> {
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
pub(crate) fn refusal(status: StatusCode, text: &[u8]) -> Trouble {
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

pub(crate) fn unreadable(error: serde_json::Error) -> Trouble {
    Trouble::Other(format!("the answer cannot be read: {error}"))
}

fn broken(error: kube::Error) -> Trouble {
    Trouble::Other(innermost(&error))
}

/// What happened. The errors around it only say that something did, and repeat it.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => innermost(cause),
        None => error.to_string(),
    }
}
