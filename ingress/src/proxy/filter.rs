//! A route's filters, applied to one request.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri};

use super::balance::Choice;
use super::headers::Origin;
use super::live::hash;
use super::record::Fault;
use crate::compile::{Cors, Filter, Variables};

/// Whoever hands out certificates asks here before there is one: never sent to TLS, as with nginx.
pub(super) const CHALLENGE: &str = "/.well-known/acme-challenge/";

/// What the filters look at.
pub(super) struct Subject<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    /// In the spelling of the table.
    pub(super) path: &'a str,
    pub(super) host: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) origin: &'a Origin,
    pub(super) https_port: u16,
    /// The request's id.
    pub(super) id: &'a str,
}

impl Subject<'_> {
    pub(super) fn variables(&self) -> Variables<'_> {
        Variables {
            method: self.method,
            uri: self.uri,
            path: self.path,
            host: self.host,
            headers: self.headers,
            client: self.origin.client,
            secure: self.origin.secure,
            id: self.id,
        }
    }
}

/// What is to change on the way to the upstream and back.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Effects {
    pub(super) path: Option<String>,
    pub(super) host: Option<HeaderValue>,
    pub(super) choice: Choice,
    /// Put into the upstream's request, or taken out of it.
    pub(super) request: Vec<(HeaderName, Option<HeaderValue>)>,
    /// Set beside the upstream's own cookies; `cookies_always`: whatever its status.
    pub(super) cookies: Vec<HeaderValue>,
    pub(super) cookies_always: bool,
    /// Put into the response in the place of what it has of these names.
    pub(super) response: Vec<(HeaderName, HeaderValue)>,
}

/// The answer of a filter, without a body.
#[derive(Debug, PartialEq)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) fault: Option<(Fault, String)>,
}

/// Applies them in order; the first that answers ends the request.
pub(super) fn run(filters: &[Filter], subject: &Subject<'_>) -> Result<Effects, Reply> {
    let mut effects = Effects::default();
    for filter in filters {
        match filter {
            Filter::AllowSources(sources) => {
                if !sources.iter().any(|net| net.contains(&subject.origin.client)) {
                    return Err(forbidden(subject));
                }
            }
            Filter::DenySources(sources) => {
                if sources.iter().any(|net| net.contains(&subject.origin.client)) {
                    return Err(forbidden(subject));
                }
            }
            Filter::ToHttps(status) if !subject.origin.secure && !subject.path.starts_with(CHALLENGE) => {
                return Err(redirect(*status, to_https(subject)));
            }
            Filter::ToHttps(_) => {}
            Filter::Redirect { status, location } => {
                let location = HeaderValue::from_str(&location.fill(&subject.variables())).ok();
                return Err(redirect(*status, location));
            }
            Filter::AppRoot(path) if subject.path == "/" => {
                return Err(redirect(StatusCode::FOUND, HeaderValue::from_str(path).ok()));
            }
            Filter::AppRoot(_) => {}
            Filter::Cors(cors) => share(cors, subject, &mut effects)?,
            Filter::Rewrite(rewrite) => effects.path = rewrite.apply(subject.path),
            Filter::RequestHeader(name, value) => effects.request.push((name.clone(), Some(value.clone()))),
            Filter::HashBy(template) => {
                effects.choice = Choice::Hash(hash(template.fill(&subject.variables()).as_bytes()));
            }
            Filter::LeastRequests => effects.choice = Choice::Requests,
            Filter::UpstreamHost(host) => effects.host = Some(host.clone()),
        }
    }
    Ok(effects)
}

fn forbidden(subject: &Subject<'_>) -> Reply {
    let reason = format!("{} is not among the sources that may come", subject.origin.client);
    Reply { status: StatusCode::FORBIDDEN, headers: Vec::new(), fault: Some((Fault::Client, reason)) }
}

fn redirect(status: StatusCode, location: Option<HeaderValue>) -> Reply {
    match location {
        Some(location) => Reply { status, headers: vec![(header::LOCATION, location)], fault: None },
        None => Reply {
            status: StatusCode::BAD_REQUEST,
            headers: Vec::new(),
            fault: Some((Fault::Client, "there is no place to redirect it to".into())),
        },
    }
}

fn to_https(subject: &Subject<'_>) -> Option<HeaderValue> {
    if subject.host.is_empty() {
        return None;
    }
    let rest = subject.uri.path_and_query().map_or("/", |rest| rest.as_str());
    let port = match subject.https_port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    HeaderValue::from_str(&format!("https://{}{port}{rest}", subject.host)).ok()
}

fn share(cors: &Cors, subject: &Subject<'_>, effects: &mut Effects) -> Result<(), Reply> {
    let Some(origin) = subject.headers.get(header::ORIGIN) else { return Ok(()) };
    let allowed = cors.allowed(origin);
    let preflight = subject.method == Method::OPTIONS
        && subject.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut headers = Vec::new();
    if let Some(allowed) = allowed {
        if allowed != "*" {
            headers.push((header::VARY, HeaderValue::from_static("Origin")));
        }
        headers.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed));
        if cors.credentials {
            headers.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        headers.extend(cors.expose.clone().map(|it| (header::ACCESS_CONTROL_EXPOSE_HEADERS, it)));
        if preflight {
            headers.push((header::ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone()));
            headers.push((header::ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone()));
            headers.push((header::ACCESS_CONTROL_MAX_AGE, cors.max_age.clone()));
        }
    }
    if preflight {
        return Err(Reply { status: StatusCode::NO_CONTENT, headers, fault: None });
    }
    effects.response.extend(headers);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_on(
        filters: &[Filter],
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<Effects, Reply> {
        let uri: Uri = url.parse().unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let origin = Origin::new("192.0.2.1".parse().unwrap(), uri.scheme_str() == Some("https"), &[], &map);
        run(
            filters,
            &Subject {
                method: &method,
                uri: &uri,
                path: uri.path(),
                host: uri.host().unwrap(),
                headers: &map,
                origin: &origin,
                https_port: 443,
                id: "id",
            },
        )
    }

    fn location(reply: Result<Effects, Reply>) -> (u16, String) {
        let reply = reply.unwrap_err();
        (reply.status.as_u16(), reply.headers[0].1.to_str().unwrap().to_owned())
    }

    #[test]
    fn sources_are_let_in_or_kept_out_by_the_clients_address() {
        let nets = |text: &str| vec![text.parse().unwrap()];
        let allowed = |filter| run_on(&[filter], Method::GET, "http://a.b/", &[]).is_ok();
        assert!(allowed(Filter::AllowSources(nets("192.0.2.0/24"))));
        assert!(!allowed(Filter::AllowSources(nets("198.51.100.0/24"))));
        assert!(!allowed(Filter::DenySources(nets("192.0.2.0/24"))));
        assert!(allowed(Filter::DenySources(nets("198.51.100.0/24"))));
    }

    #[test]
    fn redirects_keep_path_and_query() {
        let filter = [Filter::ToHttps(StatusCode::PERMANENT_REDIRECT)];
        let reply = run_on(&filter, Method::GET, "http://a.b/x?y=1", &[]);
        assert_eq!(location(reply), (308, "https://a.b/x?y=1".into()));
        assert_eq!(run_on(&filter, Method::GET, "https://a.b/x", &[]), Ok(Effects::default()));
        let challenge = "http://a.b/.well-known/acme-challenge/x";
        assert_eq!(run_on(&filter, Method::GET, challenge, &[]), Ok(Effects::default()));
        let filter = [Filter::AppRoot("/app".into())];
        assert_eq!(location(run_on(&filter, Method::GET, "http://a.b/", &[])), (302, "/app".into()));
        assert!(run_on(&filter, Method::GET, "http://a.b/x", &[]).is_ok());
    }

    #[test]
    fn a_preflight_is_answered_and_other_requests_carry_the_headers() {
        let cors = Cors {
            origins: vec!["https://*.c.d".into()],
            methods: HeaderValue::from_static("GET"),
            headers: HeaderValue::from_static("X-A"),
            expose: None,
            credentials: true,
            max_age: HeaderValue::from(60),
        };
        let filter = [Filter::Cors(cors)];
        let names = |headers: &[(HeaderName, HeaderValue)]| -> Vec<String> {
            headers.iter().map(|(name, _)| name.to_string()).collect()
        };
        let asks = [("origin", "https://x.c.d"), ("access-control-request-method", "PUT")];
        let reply = run_on(&filter, Method::OPTIONS, "http://a.b/", &asks).unwrap_err();
        assert_eq!(reply.status, 204);
        assert!(names(&reply.headers).contains(&"access-control-allow-methods".to_owned()));
        let effects = run_on(&filter, Method::GET, "http://a.b/", &asks[..1]).unwrap();
        assert_eq!(
            names(&effects.response),
            ["vary", "access-control-allow-origin", "access-control-allow-credentials"]
        );
        for stranger in ["https://c.d", "https://x.y.c.d", "http://x.c.d", "https://evil/.c.d"] {
            let effects = run_on(&filter, Method::GET, "http://a.b/", &[("origin", stranger)]).unwrap();
            assert_eq!(effects, Effects::default(), "{stranger}");
        }
        assert_eq!(run_on(&filter, Method::GET, "http://a.b/", &[]), Ok(Effects::default()));
    }
}
