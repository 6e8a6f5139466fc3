//! An API server in a few lines, with the faults of real ones: it loses its history, breaks off, is slow, refuses, is gone.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use policy::{Kind, ObjectKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;

#[derive(Clone)]
pub(super) struct FakeApi {
    pub(super) url: String,
    cluster: Rc<RefCell<Cluster>>,
    /// Something happened, or a fault was set.
    news: Rc<Notify>,
    /// How often all watches were cut off.
    cuts: Rc<Cell<usize>>,
}

#[derive(Default)]
pub(super) struct Cluster {
    version: u64,
    objects: BTreeMap<ObjectKey, Value>,
    history: Vec<(u64, Kind, &'static str, Value)>,
    /// Watches from before this version are refused.
    oldest: u64,
    /// Every request, as `GET PATH?QUERY`.
    pub(super) requests: Vec<String>,
    /// Every Event written, with its request.
    pub(super) events: Vec<(String, Value)>,
    /// Objects a page, if fewer than asked for.
    pub(super) page: Option<usize>,
    /// Connections are dropped unanswered.
    pub(super) gone: bool,
    /// Every second page breaks off in the middle.
    pub(super) half_lists: bool,
    /// Watches of these kinds say nothing.
    pub(super) mute: BTreeSet<Kind>,
    /// Requests for this are forbidden.
    pub(super) forbidden: Option<&'static str>,
}

impl FakeApi {
    pub(super) async fn start() -> Self {
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

    pub(super) fn set(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.cluster.borrow_mut());
        self.news.notify_waiters();
    }

    pub(super) fn cluster(&self) -> RefMut<'_, Cluster> {
        self.cluster.borrow_mut()
    }

    /// Creates or changes an object, written as YAML.
    pub(super) fn put(&self, yaml: &str) {
        let document = policy::manifest::documents("test.yaml", yaml).unwrap().remove(0);
        let (object, _) = policy::manifest::object(&document).unwrap().unwrap();
        let key = object.key();
        self.set(|cluster| {
            let what = if cluster.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
            cluster.happens(what, key, document.value);
        });
    }

    /// Changes an object as only a server that is broken, or of another time, would have it.
    pub(super) fn corrupt(&self, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) {
        self.set(|cluster| {
            let mut objects = cluster.objects.iter();
            let found = objects.find(|(key, _)| key.kind == kind && key.name == name).unwrap();
            let (key, mut value) = (found.0.clone(), found.1.clone());
            change(&mut value);
            cluster.happens("MODIFIED", key, value);
        });
    }

    pub(super) fn delete(&self, kind: Kind, namespace: Option<&str>, name: &str) {
        let key = ObjectKey { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() };
        self.set(|cluster| {
            let value = cluster.objects.get(&key).unwrap().clone();
            cluster.happens("DELETED", key, value);
        });
    }

    /// From now on the watches of these kinds say nothing.
    pub(super) fn mute(&self, kinds: &[Kind]) {
        self.set(|cluster| cluster.mute.extend(kinds));
    }

    /// What a watch has held back comes, at once.
    pub(super) fn unmute(&self, kind: Kind) {
        self.set(|cluster| cluster.mute.retain(|muted| *muted != kind));
    }

    /// Cuts every watch off, in the middle of a line.
    pub(super) fn cut(&self) {
        self.cuts.set(self.cuts.get() + 1);
        self.news.notify_waiters();
    }

    /// Forgets what happened before now, so that watches that were cut off cannot be taken up.
    pub(super) fn compact(&self) {
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
            return self.take_event(stream, &head).await;
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
        let mut parts: Vec<&str> = path.split('/').collect();
        let kind = match parts.pop().unwrap() {
            "namespaces" => Kind::Namespace,
            "nodes" => Kind::Node,
            "pods" => Kind::Pod,
            "services" => Kind::Service,
            "networkpolicies" => Kind::NetworkPolicy,
            "endpointslices" => Kind::EndpointSlice,
            other => panic!("request for {other}"),
        };
        let namespace = parts.iter().position(|part| *part == "namespaces").map(|at| parts[at + 1]);
        if query.contains_key("watch") {
            return self.watch(stream, kind, query["resourceVersion"].parse().unwrap()).await;
        }
        let (body, half) = self.cluster().list(kind, namespace, &query);
        answer(&mut stream, "200 OK", &body, half).await
    }

    async fn take_event(self, mut stream: TcpStream, head: &str) -> std::io::Result<()> {
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap()];
        stream.read_exact(&mut body).await?;
        let request = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        self.set(|cluster| cluster.events.push((request, serde_json::from_slice(&body).unwrap())));
        answer(&mut stream, "201 Created", "{}", false).await
    }

    async fn watch(self, mut stream: TcpStream, kind: Kind, mut version: u64) -> std::io::Result<()> {
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
                let next = later.next().filter(|_| !cluster.mute.contains(&kind));
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

impl Cluster {
    fn happens(&mut self, what: &'static str, key: ObjectKey, mut value: Value) {
        self.version += 1;
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        value["metadata"]["managedFields"] = json!([{ "manager": "kubectl", "fieldsV1": { "f:spec": {} } }]);
        self.history.push((self.version, key.kind, what, value.clone()));
        if what == "DELETED" {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, value);
        }
    }

    fn list(&self, kind: Kind, namespace: Option<&str>, query: &BTreeMap<String, String>) -> (String, bool) {
        let all = self.objects.iter().filter(|(key, _)| {
            key.kind == kind && namespace.is_none_or(|namespace| key.namespace.as_deref() == Some(namespace))
        });
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
