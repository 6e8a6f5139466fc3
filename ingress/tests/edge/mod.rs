//! What the tests stand on: a proxy with the objects they write, upstreams that say what they saw, and a client that
//! sends exactly the bytes it is told.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod client;
pub(crate) mod local;
pub(crate) mod running;
pub(crate) mod tls;
pub(crate) mod upstream;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ingress::compile::{Settings, compile};
use ingress::object::{Object, World};
use ingress::proxy::{Listen, Proxy, Shared, Tuning};
use ingress::tls::Certificates;

pub(crate) use client::{Answer, Client};
pub(crate) use upstream::Upstream;

/// Nothing that is waited for takes so long, on however busy a machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy in this process, on ports of its own.
pub(crate) struct Edge {
    pub(crate) proxy: Option<Proxy>,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    log: Arc<Mutex<Vec<u8>>>,
    pub(crate) warnings: Mutex<Vec<String>>,
    shared: Arc<Shared>,
    settings: Settings,
}

struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Edge {
    pub(crate) fn new(objects: &str) -> Self {
        Self::with(objects, Tuning::default(), Settings::default())
    }

    pub(crate) fn tuned(objects: &str, tuning: Tuning) -> Self {
        Self::with(objects, tuning, Settings::default())
    }

    pub(crate) fn with(objects: &str, tuning: Tuning, settings: Settings) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new(Shared::new(tuning, Some(Box::new(Log(Arc::clone(&log))))));
        let local = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listen = Listen { http: local, https: local, workers: 2 };
        let proxy = Proxy::start(Arc::clone(&shared), listen).unwrap();
        let (http, https) = (proxy.http().unwrap(), proxy.https().unwrap());
        let edge =
            Self { proxy: Some(proxy), http, https, log, warnings: Mutex::default(), shared, settings };
        edge.apply(objects);
        edge
    }

    /// Serves these objects from now on.
    pub(crate) fn apply(&self, objects: &str) {
        let mut world = World::default();
        for document in policy::manifest::documents("test", objects).unwrap() {
            let (object, _) = Object::read(&document).unwrap().expect("a kind that we look at");
            world.apply(object);
        }
        let mut compiled = compile(&world, &self.settings);
        let mut warnings = std::mem::take(&mut compiled.warnings);
        let (certificates, more) = Certificates::new(&compiled, &world, &self.settings);
        warnings.extend(more);
        *self.warnings.lock().unwrap() = warnings.iter().map(ToString::to_string).collect();
        self.shared.serve(compiled, certificates);
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.http)
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, host: &str, path: &str) -> Answer {
        self.client().get(host, path, "")
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The access log, as far as it is written.
    pub(crate) fn log_text(&self) -> String {
        String::from_utf8(self.log.lock().unwrap().clone()).unwrap()
    }

    /// Ends the proxy, and with it every request. All lines of the access log.
    pub(crate) fn ended(mut self) -> Vec<serde_json::Value> {
        drop(self.proxy.take());
        let text = String::from_utf8(self.log.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The lines of the access log that say this, once there is one.
    pub(crate) fn logged(&self, what: &str) -> Vec<serde_json::Value> {
        eventually(|| {
            let text = String::from_utf8(self.log.lock().unwrap().clone()).unwrap();
            let lines: Vec<_> = text
                .lines()
                .filter(|line| line.contains(what))
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            (!lines.is_empty()).then_some(lines)
        })
    }
}

/// Waits until there is something.
#[track_caller]
pub(crate) fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not come about within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Service `default/NAME`, port 80, with these endpoints.
pub(crate) fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n"
    );
    for (index, endpoint) in endpoints.iter().enumerate() {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}-{index}, labels: {{ kubernetes.io/service-name: {name} }} }}\naddressType: IPv4\nports: [{{ port: {} }}]\nendpoints: [{{ addresses: [{}] }}]\n",
            endpoint.port(),
            endpoint.ip()
        );
    }
    text
}

/// Ingress `default/NAME` with annotations of nginx and paths `HOST PATHTYPE PATH SERVICE`.
pub(crate) fn ingress(name: &str, annotations: &[(&str, &str)], paths: &[&str]) -> String {
    ingress_with(name, annotations, paths, "")
}

/// The same with more in its `spec`.
pub(crate) fn ingress_with(name: &str, annotations: &[(&str, &str)], paths: &[&str], spec: &str) -> String {
    let annotations: Vec<String> = annotations
        .iter()
        .map(|(key, value)| format!("{:?}: {value:?}", format!("nginx.ingress.kubernetes.io/{key}")))
        .collect();
    let rules: Vec<String> = paths
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let host = if words[0] == "-" { String::new() } else { format!("host: {:?}, ", words[0]) };
            format!(
                "{{ {host}http: {{ paths: [{{ pathType: {}, path: {:?}, backend: {{ service: {{ name: {}, port: {{ number: 80 }} }} }} }}] }} }}",
                words[1], words[2], words[3]
            )
        })
        .collect();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{ name: {name}, annotations: {{ {} }} }}\nspec: {{ {spec} rules: [{}] }}\n",
        annotations.join(", "),
        rules.join(", ")
    )
}

/// Everything of every host to these endpoints, with these annotations.
pub(crate) fn everything(annotations: &[(&str, &str)], endpoints: &[SocketAddr]) -> String {
    service("web", endpoints) + &ingress("all", annotations, &["- Prefix / web"])
}
