//! Asks a service whether a request may come: with its head, as nginx's `auth_request` does.

use std::rc::Rc;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri};

use super::ask::{self, Question, Whom};
use super::filter::{Reply, Subject};
use super::guard::{self, Admitted, refuse};
use super::headers;
use super::live::{LiveCluster, Snapshot};
use super::record::Fault;
use super::worker::Worker;
use crate::compile::{Action, Authority, BasicLimits, External, Filter};
use crate::route::{Asked, of_authority};

pub(super) async fn pass(
    external: &External,
    subject: &Subject<'_>,
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    limits: &BasicLimits,
) -> Result<Admitted, Reply> {
    let failed = |why: String| {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, Fault::Upstream, format!("its auth-url: {why}"))
    };
    let url = external.url.fill(&subject.variables());
    let url: Uri = url.parse().map_err(|error| failed(format!("{url:?} is no URL: {error}")))?;
    let authority = url.authority().ok_or_else(|| failed(format!("{url} has no host")))?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|error| failed(error.to_string()))?;
    let question = Question {
        method: external.method.clone().unwrap_or(Method::GET),
        path: url.path_and_query().cloned().unwrap_or_else(|| "/".parse().expect("the root is a path")),
        headers: head(external, subject, host),
    };
    let is_tls = url.scheme_str() == Some("https");
    let whom = match external.cluster.and_then(|index| snapshot.clusters.get(index)).or_else(|| {
        let own = external.url.authority() == Authority::OfRequest;
        own.then(|| served_here(&url, snapshot)).flatten()
    }) {
        Some(cluster) => Whom::Cluster(cluster),
        None => Whom::Host {
            host: authority.host(),
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            is_tls,
        },
    };
    let answer = ask::ask(worker, &whom, question, limits).await.map_err(failed)?;
    let status = answer.head.status;
    let found = answer.head.headers.clone();
    ask::put_back(worker, answer);
    let cookies: Vec<HeaderValue> = found.get_all(header::SET_COOKIE).iter().cloned().collect();
    match status {
        status if status.is_success() => {
            let request =
                external.response_headers.iter().map(|name| (name.clone(), found.get(name).cloned()));
            Ok(Admitted { request: request.collect(), cookies, held: None })
        }
        StatusCode::UNAUTHORIZED => Err(match &external.signin {
            Some(signin) => to_sign_in(&signin.fill(&subject.variables()), cookies),
            None => {
                let challenge = found.get(header::WWW_AUTHENTICATE).cloned();
                let mut reply = refuse(status, Fault::Client, "its auth-url says that it may not come");
                reply.headers.extend(challenge.map(|it| (header::WWW_AUTHENTICATE, it)));
                reply
            }
        }),
        StatusCode::FORBIDDEN => Err(refuse(status, Fault::Client, "its auth-url says that it may not come")),
        status => Err(failed(format!("answered {status}: expected 2xx, 401 or 403"))),
    }
}

fn to_sign_in(location: &str, cookies: Vec<HeaderValue>) -> Reply {
    match HeaderValue::from_str(location) {
        Ok(location) => {
            let mut headers = vec![(header::LOCATION, location)];
            headers.extend(cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie)));
            Reply { status: StatusCode::FOUND, headers, fault: None }
        }
        Err(_) => refuse(StatusCode::BAD_REQUEST, Fault::Client, "there is no place to send it to sign in"),
    }
}

/// The request's own head, and what is said of it.
fn head(external: &External, subject: &Subject<'_>, host: HeaderValue) -> HeaderMap {
    let mut headers = subject.headers.clone();
    headers::strip_hop_by_hop(&mut headers);
    headers::join_cookies(&mut headers);
    for gone in [header::CONTENT_LENGTH, header::EXPECT, HeaderName::from_static("x-forwarded-proto")] {
        headers.remove(gone);
    }
    headers.insert(header::HOST, host);
    let variables = subject.variables();
    let authority = subject.uri.authority().map(|it| it.as_str());
    let authority =
        authority.or_else(|| subject.headers.get(header::HOST)?.to_str().ok()).unwrap_or(subject.host);
    let request_uri = subject.uri.path_and_query().map_or("/", |it| it.as_str());
    let scheme = if subject.origin.secure { "https" } else { "http" };
    let client = subject.origin.client.to_string();
    let back = external.redirect.as_ref().map(|it| it.fill(&variables));
    let whole = format!("{scheme}://{authority}{request_uri}");
    let said = [
        ("x-original-url", whole.as_str()),
        ("x-original-uri", request_uri),
        ("x-original-method", subject.method.as_str()),
        ("x-scheme", scheme),
        ("x-sent-from", "weir-ingress"),
        ("x-real-ip", &client),
        ("x-forwarded-for", &client),
        ("x-auth-request-redirect", back.as_deref().unwrap_or(request_uri)),
        ("x-request-id", subject.id),
    ];
    let said = said.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).ok()));
    guard::write(said.into(), &mut headers);
    headers
}

/// A URL of the request's own host is most often served by this proxy, too: asked without the way around through DNS
/// and somebody's load balancer. Only where its route would pass the question on as it is.
fn served_here<'a>(url: &Uri, snapshot: &'a Snapshot) -> Option<&'a LiveCluster> {
    let host = of_authority(url.authority()?.as_str())?;
    let headers = HeaderMap::new();
    let asked =
        Asked { host: &host, path: url.path(), query: url.query(), method: &Method::GET, headers: &headers };
    let route = snapshot.table.find(&asked)?;
    let passes = |filter: &Filter| matches!(filter, Filter::ToHttps(_) | Filter::Cors(_));
    match &route.action {
        Action::Forward(shares) if route.guard.is_none() && route.filters.iter().all(passes) => {
            let cluster = snapshot.clusters.get(shares.iter().find(|share| share.weight > 0)?.cluster)?;
            (!cluster.protocol.is_http2()).then_some(cluster)
        }
        _ => None,
    }
}
