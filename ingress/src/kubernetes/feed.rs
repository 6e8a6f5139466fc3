//! The kinds that are watched, and what is kept of their objects.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kubernetes::{News, Resource, Sink};
use policy::Warning;
use policy::manifest::Document;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

use crate::object::{Kind, Name, Object};

/// Secrets that no Ingress can mean, and that are large or many: releases of Helm, tokens, pull secrets.
const SECRETS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockercfg,\
                       type!=kubernetes.io/dockerconfigjson,type!=bootstrap.kubernetes.io/token";

/// Where a kind's objects are.
pub(super) fn resource(kind: Kind) -> Resource {
    let (path, fields) = match kind {
        Kind::Ingress => ("/apis/networking.k8s.io/v1/ingresses", ""),
        Kind::IngressClass => ("/apis/networking.k8s.io/v1/ingressclasses", ""),
        Kind::Service => ("/api/v1/services", ""),
        Kind::EndpointSlice => ("/apis/discovery.k8s.io/v1/endpointslices", ""),
        Kind::Secret => ("/api/v1/secrets", SECRETS),
    };
    Resource { path, is_namespaced: kind != Kind::IngressClass, fields }
}

/// What has come of one kind.
pub(super) struct Told {
    pub(super) kind: Kind,
    pub(super) changes: Vec<Change>,
    /// With this, the first list of the kind has come whole.
    pub(super) whole: bool,
    /// All that is wrong with the kind now, if that has changed.
    pub(super) complaints: Option<Vec<String>>,
}

pub(super) enum Change {
    Apply(Object, Vec<Warning>),
    Delete(Kind, Name),
}

/// Tells the source of what a feed learns.
pub(super) struct Teller {
    pub(super) kind: Kind,
    pub(super) told: mpsc::Sender<Told>,
}

impl Sink for Teller {
    type Object = (Object, Vec<Warning>);

    fn kind(&self) -> &'static str {
        self.kind.as_str()
    }

    fn read(&self, text: &str) -> Result<Self::Object, String> {
        read(self.kind, text)
    }

    async fn tell(&mut self, news: Vec<News<Self::Object>>, whole: bool) -> bool {
        if news.is_empty() && !whole {
            return true;
        }
        let changes = news.into_iter().map(|it| match it.object {
            Some((object, warnings)) => Change::Apply(object, warnings),
            None => Change::Delete(self.kind, Name::new(it.name.0, it.name.1)),
        });
        let told = Told { kind: self.kind, changes: changes.collect(), whole, complaints: None };
        self.told.send(told).await.is_ok()
    }

    async fn complain(&mut self, complaints: Vec<String>) {
        let complaints = Some(complaints);
        let told = Told { kind: self.kind, changes: Vec::new(), whole: false, complaints };
        // Nobody to tell: the proxy is ending.
        drop(self.told.send(told).await);
    }
}

fn read(kind: Kind, text: &str) -> Result<(Object, Vec<Warning>), String> {
    let unread = |error: serde_json::Error| error.to_string();
    match kind {
        // There are many of these, they change often, and little of them matters.
        Kind::EndpointSlice => {
            let slice: AnySlice = serde_json::from_str(text).map_err(unread)?;
            Ok((Object::EndpointSlice(Arc::new(slice.into())), Vec::new()))
        }
        Kind::Service => {
            let service: AnyService = serde_json::from_str(text).map_err(unread)?;
            Ok((Object::Service(Arc::new(service.into())), Vec::new()))
        }
        // What people write is read as that in files is: a field that is not understood is told.
        Kind::Ingress | Kind::IngressClass | Kind::Secret => {
            let document =
                Document::of_api_server(kind.as_str(), kind.api_version(), text).map_err(unread)?;
            match Object::read(&document) {
                Ok(read) => read.ok_or_else(|| format!("no {}", kind.as_str())),
                Err(warning) => Err(format!("{}: {}", warning.field, warning.message)),
            }
        }
    }
}

#[derive(Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct AnyService {
    metadata: Metadata,
    #[serde(default)]
    spec: AnyServiceSpec,
    #[serde(default)]
    status: Option<k8s_openapi::api::core::v1::ServiceStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyServiceSpec {
    #[serde(rename = "type")]
    type_: Option<String>,
    external_name: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    ports: Option<Vec<ServicePort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnySlice {
    metadata: Metadata,
    address_type: String,
    endpoints: Option<Vec<AnyEndpoint>>,
    ports: Option<Vec<EndpointPort>>,
}

#[derive(Deserialize)]
struct AnyEndpoint {
    addresses: Vec<String>,
    conditions: Option<EndpointConditions>,
}

impl From<Metadata> for ObjectMeta {
    fn from(Metadata { name, namespace, labels }: Metadata) -> Self {
        Self { name, namespace, labels, ..Self::default() }
    }
}

impl From<AnyService> for Service {
    fn from(any: AnyService) -> Self {
        // Services are found by their names.
        let metadata = Metadata { labels: None, ..any.metadata };
        let AnyServiceSpec { type_, external_name, cluster_ip, cluster_ips, external_ips, ports } = any.spec;
        let spec = ServiceSpec {
            type_,
            external_name,
            cluster_ip,
            cluster_ips,
            external_ips,
            ports,
            ..ServiceSpec::default()
        };
        // Of the status only the addresses of a load balancer are asked for.
        let status = any.status.filter(|status| status.load_balancer.is_some());
        Self { metadata: metadata.into(), spec: Some(spec), status }
    }
}

impl From<AnySlice> for EndpointSlice {
    fn from(any: AnySlice) -> Self {
        let mut metadata = any.metadata;
        if let Some(labels) = &mut metadata.labels {
            labels.retain(|name, _| name == "kubernetes.io/service-name");
        }
        let endpoints = any.endpoints.map(|endpoints| {
            let endpoint = |it: AnyEndpoint| Endpoint {
                addresses: it.addresses,
                conditions: it.conditions,
                ..Endpoint::default()
            };
            endpoints.into_iter().map(endpoint).collect()
        });
        Self { metadata: metadata.into(), address_type: any.address_type, endpoints, ports: any.ports }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_not_asked_for_nothing_is_kept() {
        let text = r#"{"metadata": {"name": "web", "namespace": "shop", "uid": "1", "managedFields": [{}],
            "labels": {"kubernetes.io/service-name": "web", "app": "web"}},
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "nodeName": "n", "targetRef": {"name": "p"}}]}"#;
        let (Object::EndpointSlice(slice), _) = read(Kind::EndpointSlice, text).unwrap() else { panic!() };
        let labels: Vec<_> = slice.metadata.labels.iter().flatten().collect();
        assert_eq!(labels.len(), 1, "{labels:?}");
        let endpoint = &slice.endpoints.as_ref().unwrap()[0];
        assert_eq!((endpoint.node_name.as_ref(), endpoint.target_ref.as_ref()), (None, None));
        assert_eq!(endpoint.conditions.as_ref().unwrap().ready, Some(true));
    }

    #[test]
    fn an_ingress_with_a_field_that_nobody_knows_is_told_so_and_one_that_is_none_why() {
        let text = r#"{"metadata": {"name": "web", "namespace": "shop", "managedFields": [{}]},
            "spec": {"rulez": []}}"#;
        let (object, warnings) = read(Kind::Ingress, text).unwrap();
        assert_eq!(
            (object.name().to_string().as_str(), object.metadata().managed_fields.as_ref()),
            ("shop/web", None)
        );
        assert!(warnings[0].to_string().starts_with("Ingress shop/web: spec.rulez"), "{}", warnings[0]);
        let error =
            read(Kind::Ingress, r#"{"metadata": {"name": "web"}, "spec": {"rules": 1}}"#).unwrap_err();
        assert!(error.starts_with("spec.rules"), "{error}");
    }
}
