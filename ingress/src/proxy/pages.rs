//! Pages for errors: what another backend has to say in the place of a response.

use std::rc::Rc;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Response, StatusCode};
use tracing::debug;

use super::answer::Download;
use super::ask::{self, Question, Whom};
use super::headers;
use super::live::Snapshot;
use super::worker::Worker;
use crate::compile::{BasicLimits, ErrorPages};

/// What is kept of a request until it is known whether a page is needed.
pub(super) struct Kept {
    method: Method,
    headers: HeaderMap,
}

impl Kept {
    pub(super) fn new(
        pages: &ErrorPages,
        method: &Method,
        uri: &hyper::Uri,
        from: &HeaderMap,
        id: &str,
    ) -> Self {
        let mut headers = HeaderMap::new();
        let accept = from.get(header::ACCEPT).cloned();
        let host = uri.authority().and_then(|it| HeaderValue::from_str(it.as_str()).ok());
        let host = host.or_else(|| from.get(header::HOST).cloned());
        let request_uri = uri.path_and_query().map_or("/", |it| it.as_str());
        for (name, value) in [
            ("host", host.or(Some(HeaderValue::from_static("localhost")))),
            ("accept", accept.clone()),
            ("x-format", accept),
            ("x-original-uri", HeaderValue::from_str(request_uri).ok()),
            ("x-namespace", Some(pages.namespace.clone())),
            ("x-ingress-name", Some(pages.ingress.clone())),
            ("x-service-name", Some(pages.service.clone())),
            ("x-service-port", Some(pages.port.clone())),
            ("x-request-id", HeaderValue::from_str(id).ok()),
        ] {
            headers.extend(value.map(|value| (HeaderName::from_static(name), value)));
        }
        let method = if *method == Method::HEAD { Method::HEAD } else { Method::GET };
        Self { method, headers }
    }
}

/// The response, or the page in its place. Where there is no page to be had the response stays what it was.
pub(super) async fn instead(
    mut response: Response<Download>,
    pages: &ErrorPages,
    mut kept: Kept,
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    limits: &BasicLimits,
) -> Response<Download> {
    let status = response.status();
    let nobody = pages.when_empty && status == StatusCode::SERVICE_UNAVAILABLE && response.body().untried();
    let Some(cluster) = snapshot.clusters.get(pages.cluster) else { return response };
    if !nobody && !pages.statuses.contains(&status) {
        return response;
    }
    kept.headers.insert("x-code", HeaderValue::from(status.as_u16()));
    let path = PathAndQuery::from_static("/");
    let question = Question { method: kept.method, path, headers: kept.headers };
    match ask::ask(worker, &Whom::Cluster(cluster), question, limits).await {
        Ok(answered) => {
            let mut head = answered.head;
            headers::strip_hop_by_hop(&mut head.headers);
            *response.status_mut() = head.status;
            *response.headers_mut() = head.headers;
            response.body_mut().instead(
                head.status,
                answered.body,
                limits.read,
                answered.lent,
                answered.in_flight,
            );
        }
        Err(why) => debug!(page = %cluster.name, %status, why, "no page for an error"),
    }
    response
}
