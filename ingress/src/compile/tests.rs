//! Ingress v1 line by line: objects as people write them, and where requests then go.

use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::object::Object;
use crate::route::Asked;

mod access;
mod annotations;
mod backends;
mod rules;

/// Service `web` (80, named `http`; 8080, `admin`) of `shop` with two endpoints, `api` with one, `old` with none.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { ports: [{ port: 80, name: http }, { port: 8080, name: admin }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, namespace: shop, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [{ name: http, port: 8000 }, { name: admin, port: 9000 }]
endpoints: [{ addresses: [10.0.0.1] }, { addresses: [10.0.0.2] }]
---
apiVersion: v1
kind: Service
metadata: { name: api, namespace: shop }
spec: { ports: [{ port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: api-1, namespace: shop, labels: { kubernetes.io/service-name: api } }
addressType: IPv4
ports: [{ port: 8000 }]
endpoints: [{ addresses: [10.0.1.1] }]
---
apiVersion: v1
kind: Service
metadata: { name: old, namespace: shop }
spec: { ports: [{ port: 80 }] }
";

fn world(text: &str) -> World {
    let mut world = World::default();
    for document in policy::manifest::documents("test", text).unwrap() {
        let (object, warnings) = Object::read(&document).unwrap().expect("a kind that we look at");
        assert!(warnings.is_empty(), "{warnings:?}");
        world.apply(object);
    }
    world
}

struct Served {
    compiled: Compiled,
}

impl Served {
    /// [`SERVICES`] and these objects.
    fn new(text: &str) -> Self {
        Self::with(text, &Settings::default())
    }

    fn with(text: &str, settings: &Settings) -> Self {
        Self { compiled: compile(&world(&format!("{SERVICES}---\n{text}")), settings) }
    }

    fn route(&self, url: &str, headers: &[(&str, &str)]) -> Option<&Route> {
        let (host, path) = url.split_at(url.find('/').unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let asked = Asked { host, path, query: None, method: &Method::GET, headers: &map };
        self.compiled.table.find(&asked).map(|route| &**route)
    }

    /// `shop/web:80`, `shop/web:80*9 shop/api:80*1`, `503`, or `404`.
    fn to(&self, url: &str) -> String {
        self.to_with(url, &[])
    }

    fn to_with(&self, url: &str, headers: &[(&str, &str)]) -> String {
        match self.route(url, headers).map(|route| &route.action) {
            None => "404".into(),
            Some(Action::Refuse { status, .. }) => status.as_u16().to_string(),
            Some(Action::Forward(shares)) if shares.len() == 1 => self.cluster(&shares[0]).name.clone(),
            Some(Action::Forward(shares)) => shares
                .iter()
                .map(|share| format!("{}*{}", self.cluster(share).name, share.weight))
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    fn cluster(&self, share: &Share) -> &Cluster {
        &self.compiled.clusters[share.cluster]
    }

    fn warnings(&self) -> Vec<String> {
        self.compiled.warnings.iter().map(Warning::to_string).collect()
    }

    #[track_caller]
    fn warns(&self, expected: &[&str]) {
        let warnings = self.warnings();
        assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.contains(expected), "{warning:?} does not say {expected:?}");
        }
    }
}

/// An Ingress `shop/NAME` with this rest of it.
fn ingress(name: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{ name: {name}, namespace: shop }}\n{rest}\n"
    )
}

/// One with annotations (without their prefix) and paths `HOST PATHTYPE PATH SERVICE`.
fn annotated(name: &str, annotations: &[(&str, &str)], paths: &[&str]) -> String {
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
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  namespace: shop\n  annotations: {{ {} }}\nspec: {{ rules: [{}] }}\n",
        annotations.join(", "),
        rules.join(", ")
    )
}

/// One without annotations.
fn plain(name: &str, paths: &[&str]) -> String {
    annotated(name, &[], paths)
}
