//! An API server in a few lines, with the faults of real ones: it loses its history, breaks off, is slow, refuses, is gone.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;

/// Kind, namespace (empty for none) and name.
type Key = (String, String, String);

/// Reached at its URL for as long as the `LocalSet` is that started it.
#[derive(Clone)]
pub struct FakeApi {
    pub url: String,
    cluster: Rc<RefCell<Cluster>>,
    /// Something happened, or a fault was set.
    news: Rc<Notify>,
    /// How often all watches were cut off.
    cuts: Rc<Cell<usize>>,
}

/// What it holds, and its faults.
#[derive(Default)]
pub struct Cluster {
    version: u64,
    objects: BTreeMap<Key, Value>,
    history: Vec<(u64, String, &'static str, Value)>,
    /// Watches from before this version are refused.
    oldest: u64,
    /// Every request, as `GET PATH?QUERY`.
    pub requests: Vec<String>,
    /// Everything written, with its request.
    pub written: Vec<(String, Value)>,
    /// Objects a page, if fewer than asked for.
    pub page: Option<usize>,
    /// Connections are dropped unanswered.
    pub gone: bool,
    /// Every second page breaks off in the middle.
    pub half_lists: bool,
    /// Watches of these kinds say nothing.
    pub mute: BTreeSet<&'static str>,
    /// Requests for this are forbidden.
    pub forbidden: Option<&'static str>,
}

impl FakeApi {
    /// Listens on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = Self { url, cluster: Rc::default(), news: Rc::default(), cuts: Rc::default() };
        let served = api.clone();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = served.clone();
                // A client that hangs up is no failure of the server.
                spawn_local(async move { drop(api.serve(stream).await) });
            }
        });
        api
    }

    /// Changes it, and lets everybody know that waits.
    pub fn set(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.cluster.borrow_mut());
        self.news.notify_waiters();
    }

    /// What it holds now. Not over an `await`.
    pub fn cluster(&self) -> RefMut<'_, Cluster> {
        self.cluster.borrow_mut()
    }

    /// Creates or changes an object, written as YAML.
    pub fn put(&self, yaml: &str) {
        let document = policy::manifest::documents("test.yaml", yaml).unwrap().remove(0);
        let text = |field: &str| document.value["metadata"][field].as_str().unwrap_or_default().to_owned();
        let namespace = match text("namespace") {
            none if none.is_empty() && is_namespaced(&document.kind) => "default".to_owned(),
            namespace => namespace,
        };
        let key = (document.kind.clone(), namespace, text("name"));
        self.set(|cluster| {
            let what = if cluster.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
            cluster.happens(what, key, document.value);
        });
    }

    /// Changes an object as only a server that is broken, or of another time, would have it.
    pub fn corrupt(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.set(|cluster| {
            let mut objects = cluster.objects.iter();
            let found = objects.find(|(key, _)| key.0 == kind && key.2 == name).unwrap();
            let (key, mut value) = (found.0.clone(), found.1.clone());
            change(&mut value);
            cluster.happens("MODIFIED", key, value);
        });
    }

    /// Deletes an object; `namespace` is empty for what is in none.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        self.set(|cluster| {
            let value = cluster.objects.get(&key).unwrap().clone();
            cluster.happens("DELETED", key, value);
        });
    }

    /// From now on the watches of these kinds say nothing.
    pub fn mute(&self, kinds: &[&'static str]) {
        self.set(|cluster| cluster.mute.extend(kinds));
    }

    /// What a watch has held back comes, at once.
    pub fn unmute(&self, kind: &str) {
        self.set(|cluster| cluster.mute.retain(|muted| *muted != kind));
    }

    /// Cuts every watch off, in the middle of a line.
    pub fn cut(&self) {
        self.cuts.set(self.cuts.get() + 1);
        self.news.notify_waiters();
    }

    /// Forgets what happened before now, so that watches that were cut off cannot be taken up.
    pub fn compact(&self) {
        self.set(|cluster| {
            cluster.version += 1;
            cluster.oldest = cluster.version;
        });
    }

    async fn serve(self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let uri = head.split(' ').nth(1).unwrap().to_owned();
        if !head.starts_with("GET ") {
            return self.take_write(stream, &head).await;
        }
        let (path, query) = uri.split_once('?').unwrap_or((&uri, ""));
        let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        self.set(|cluster| cluster.requests.push(uri.clone()));
        if self.cluster().gone {
            return Ok(());
        }
        let forbidden = self.cluster().forbidden;
        if let Some(resource) = forbidden.filter(|resource| path.ends_with(resource)) {
            let body =
                json!({ "kind": "Status", "message": format!("{resource} is forbidden"), "code": 403 });
            return answer(&mut stream, "403 Forbidden", &body.to_string(), false).await;
        }
        let Place { kind, namespace, name } = Place::of(path);
        if let Some(name) = name {
            let key = (kind.to_owned(), namespace.unwrap_or_default(), name);
            let (status, body) = match self.cluster().objects.get(&key) {
                Some(object) => ("200 OK", object.to_string()),
                None => ("404 Not Found", json!({ "kind": "Status", "message": "not found" }).to_string()),
            };
            return answer(&mut stream, status, &body, false).await;
        }
        if query.contains_key("watch") {
            return self.watch(stream, kind, query["resourceVersion"].parse().unwrap()).await;
        }
        let (body, half) = self.cluster().list(kind, namespace.as_deref(), &query);
        answer(&mut stream, "200 OK", &body, half).await
    }

    async fn take_write(self, mut stream: TcpStream, head: &str) -> std::io::Result<()> {
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap()];
        stream.read_exact(&mut body).await?;
        let request = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        let value: Value = serde_json::from_slice(&body).unwrap();
        if self.cluster().gone {
            return Ok(());
        }
        let mut status = "201 Created";
        self.set(|cluster| {
            status = cluster.write(&request, value.clone());
            cluster.written.push((request, value));
        });
        answer(&mut stream, status, "{}", false).await
    }

    async fn watch(self, mut stream: TcpStream, kind: &'static str, mut version: u64) -> std::io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        if version < self.cluster().oldest {
            let status = json!({ "kind": "Status", "message": "too old resource version", "code": 410 });
            chunk(&mut stream, &json!({ "type": "ERROR", "object": status })).await?;
            return stream.write_all(b"0\r\n\r\n").await;
        }
        let cuts = self.cuts.get();
        loop {
            let notified = self.news.notified();
            if self.cuts.get() > cuts {
                return stream.write_all(b"20\r\n{\"type\":\"ADDED\",\"ob").await;
            }
            let next = {
                let cluster = self.cluster();
                let mut later = cluster.history.iter().filter(|(at, of, ..)| *at > version && *of == kind);
                let next = later.next().filter(|_| !cluster.mute.contains(kind));
                next.map(|(at, _, what, object)| (*at, json!({ "type": what, "object": object })))
            };
            match next {
                Some((at, line)) => {
                    chunk(&mut stream, &line).await?;
                    version = at;
                }
                None => notified.await,
            }
        }
    }
}

/// What a path leads to.
struct Place {
    kind: &'static str,
    namespace: Option<String>,
    name: Option<String>,
}

impl Place {
    fn of(path: &str) -> Self {
        let mut parts: Vec<&str> = path.split('/').filter(|part| *part != "status").collect();
        let mut name = None;
        if !KINDS.iter().any(|(plural, ..)| Some(plural) == parts.last()) {
            name = parts.pop().map(str::to_owned);
        }
        let kind = kind_of(parts.pop().unwrap());
        let namespace =
            parts.iter().position(|part| *part == "namespaces").map(|at| parts[at + 1].to_owned());
        Self { kind, namespace, name }
    }
}

impl Cluster {
    /// An object of this name, if there is one.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// Does what is asked with an object, and answers with the status. Events are taken, and not kept.
    fn write(&mut self, request: &str, value: Value) -> &'static str {
        let (method, path) = request.split_once(' ').unwrap();
        if path.contains("/events") {
            return "201 Created";
        }
        let Place { kind, namespace, name } = Place::of(path);
        if self.forbidden.is_some_and(|plural| path.contains(plural)) {
            return "403 Forbidden";
        }
        let name = name.or_else(|| value["metadata"]["name"].as_str().map(str::to_owned)).unwrap();
        let key = (kind.to_owned(), namespace.unwrap_or_default(), name);
        let known = self.objects.get(&key).cloned();
        match (method, known) {
            ("POST", None) => self.happens("ADDED", key, value),
            ("POST", Some(_)) => return "409 Conflict",
            (_, None) => return "404 Not Found",
            ("PUT", Some(known)) => {
                let version = |value: &Value| value["metadata"]["resourceVersion"].clone();
                if version(&known) != version(&value) {
                    return "409 Conflict";
                }
                self.happens("MODIFIED", key, value);
            }
            (_, Some(mut known)) => {
                for (field, value) in value.as_object().unwrap() {
                    known[field] = value.clone();
                }
                self.happens("MODIFIED", key, known);
            }
        }
        "200 OK"
    }

    fn happens(&mut self, what: &'static str, key: Key, mut value: Value) {
        self.version += 1;
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        value["metadata"]["managedFields"] = json!([{ "manager": "kubectl", "fieldsV1": { "f:spec": {} } }]);
        self.history.push((self.version, key.0.clone(), what, value.clone()));
        if what == "DELETED" {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, value);
        }
    }

    fn list(&self, kind: &str, namespace: Option<&str>, query: &BTreeMap<String, String>) -> (String, bool) {
        let all = self
            .objects
            .iter()
            .filter(|(key, _)| key.0 == kind && namespace.is_none_or(|namespace| key.1 == namespace));
        let all: Vec<Value> = all
            .map(|(_, value)| {
                // Items of a list do not say what they are.
                let mut value = value.clone();
                value.as_object_mut().unwrap().retain(|field, _| field != "kind" && field != "apiVersion");
                value
            })
            .collect();
        let from: usize = query.get("continue").map_or(0, |next| next.parse().unwrap());
        let limit = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let to = from.saturating_add(limit.min(self.page.unwrap_or(limit))).min(all.len());
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        if to < all.len() {
            metadata["continue"] = to.to_string().into();
        }
        let half = self.half_lists && from > 0;
        (json!({ "kind": "List", "metadata": metadata, "items": all[from..to] }).to_string(), half)
    }
}

/// Plural, kind, and whether its objects are in a namespace.
const KINDS: &[(&str, &str, bool)] = &[
    ("endpointslices", "EndpointSlice", true),
    ("ingressclasses", "IngressClass", false),
    ("ingresses", "Ingress", true),
    ("leases", "Lease", true),
    ("namespaces", "Namespace", false),
    ("networkpolicies", "NetworkPolicy", true),
    ("nodes", "Node", false),
    ("pods", "Pod", true),
    ("secrets", "Secret", true),
    ("services", "Service", true),
];

fn kind_of(plural: &str) -> &'static str {
    let known = KINDS.iter().find(|(known, ..)| *known == plural);
    known.unwrap_or_else(|| panic!("request for {plural}")).1
}

fn is_namespaced(kind: &str) -> bool {
    KINDS.iter().find(|(_, known, _)| *known == kind).unwrap_or_else(|| panic!("a {kind}")).2
}

async fn answer(stream: &mut TcpStream, status: &str, body: &str, half: bool) -> std::io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body.as_bytes()[..if half { length / 2 } else { length }]).await
}

async fn chunk(stream: &mut TcpStream, line: &Value) -> std::io::Result<()> {
    let line = format!("{line}\n");
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await
}
