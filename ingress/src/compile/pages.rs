//! Pages for errors, and hosts with and without `www.`.

use hyper::StatusCode;
use hyper::header::HeaderValue;
use k8s_openapi::api::networking::v1::IngressBackend;

use super::reader::Reader;
use super::{Action, BasicLimits, Filter, Route, Template};
use crate::route::Host;

/// Responses of these statuses are replaced by what another backend has for them.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorPages {
    pub statuses: Vec<StatusCode>,
    /// Also where no endpoint serves.
    pub when_empty: bool,
    /// Index into [`super::Compiled::clusters`].
    pub cluster: usize,
    /// Of the object and the backend that failed.
    pub namespace: HeaderValue,
    pub ingress: HeaderValue,
    pub service: HeaderValue,
    pub port: HeaderValue,
}

/// What the annotations say of it.
#[derive(Clone, Debug, Default)]
pub(super) struct PageOptions {
    pub(super) statuses: Vec<StatusCode>,
    /// A Service of the object's namespace.
    pub(super) backend: Option<String>,
}

impl PageOptions {
    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Self {
        let statuses =
            reader.value("custom-http-errors", "statuses from 300 to 599 such as 404,503", |text| {
                let one = |text: &str| text.trim().parse().ok().filter(|code| (300..600).contains(code));
                let parts = text.split(',').filter(|part| !part.trim().is_empty());
                parts.map(|text| StatusCode::from_u16(one(text)?).ok()).collect::<Option<Vec<_>>>()
            });
        let is_name = |text: &str| matches!(Host::parse(text), Ok(Host::Exact(_))) && !text.contains('.');
        let backend = reader.text("default-backend", is_name, "the name of a Service");
        Self { statuses: statuses.unwrap_or_default(), backend }
    }
}

/// What the backend of an error learns of the one that failed: its name and port as they are written.
pub(super) fn written(backend: &IngressBackend) -> (HeaderValue, HeaderValue) {
    let service = backend.service.as_ref();
    let port = service.and_then(|service| service.port.as_ref());
    let port = port.and_then(|port| port.name.clone().or(port.number.map(|number| number.to_string())));
    let header = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    (header(service.map_or("", |service| &service.name)), header(&port.unwrap_or_default()))
}

/// `www.example.com` of `example.com`, and the other way round.
pub(super) fn other(host: &Host) -> Option<Host> {
    let Host::Exact(name) = host else { return None };
    Some(Host::Exact(match name.strip_prefix("www.") {
        Some(bare) => bare.to_owned(),
        None => format!("www.{name}"),
    }))
}

/// Everything is sent to the same place on this host.
pub(super) fn to_host(object: std::sync::Arc<str>, host: &Host) -> Option<Route> {
    let location = Template::parse(&format!("$scheme://{host}$request_uri")).ok()?;
    Some(Route {
        object,
        filters: vec![Filter::Redirect { status: StatusCode::PERMANENT_REDIRECT, location }],
        guard: None,
        action: Action::Forward(Vec::new()),
        limits: BasicLimits::default(),
        retries: None,
        pages: None,
        affinity: None,
        client_auth: None,
    })
}
