//! The annotations of ingress-nginx that people use.
//!
//! Every one that is not honoured is a warning. One that keeps people out (authentication, lists of sources) and cannot be
//! honoured closes the object: its requests are refused, for served without it they would be open to everyone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::access::{Basic, External, Guard, Limits, Surroundings};
use super::canary::Canary;
use super::client_auth::ClientAuth;
use super::pages::PageOptions;
use super::reader::Reader;
use super::retries::Retries;
use super::{Affinity, BasicLimits, Cors, Filter, Protocol, Sources, Warner};
use crate::route::Host;

/// Annotations that keep somebody out, which we cannot do.
const CLOSING: &[&str] = &["enable-modsecurity"];

/// All that the annotations of one object ask for.
#[derive(Debug)]
pub(super) struct Options {
    /// Without those that depend on the path or on TLS.
    pub(super) filters: Vec<Filter>,
    pub(super) limits: BasicLimits,
    pub(super) affinity: Option<Affinity>,
    pub(super) protocol: Protocol,
    pub(super) ssl_redirect: bool,
    pub(super) force_ssl_redirect: bool,
    pub(super) rewrite_target: Option<String>,
    pub(super) use_regex: bool,
    pub(super) aliases: Vec<Host>,
    pub(super) canary: Option<Canary>,
    pub(super) client_auth: Option<Arc<ClientAuth>>,
    /// TLS is not ended here.
    pub(super) passthrough: bool,
    pub(super) guard: Option<Guard>,
    pub(super) rates: Option<Limits>,
    pub(super) retries: Option<Arc<Retries>>,
    pub(super) pages: PageOptions,
    pub(super) from_to_www: bool,
    /// Requests go to the Service's own address.
    pub(super) through_service: bool,
    /// Why nothing may be served.
    pub(super) closed: Option<String>,
}

/// Reads them; what is read is taken out, so that what is left was not honoured.
pub(super) fn options(
    annotations: &BTreeMap<String, String>,
    around: &Surroundings<'_>,
    warner: &mut Warner<'_>,
) -> Options {
    let object = warner.object;
    let mut reader = Reader::new(annotations, warner);
    let mut filters = Vec::new();
    reader.sources(&mut filters);
    reader.redirects(&mut filters);
    if let Some(path) = reader.text("app-root", |text| text.starts_with('/'), "a path such as /app") {
        filters.push(Filter::AppRoot(path));
    }
    filters.extend(reader.cors().map(Filter::Cors));
    filters.extend(reader.header("upstream-vhost").map(Filter::UpstreamHost));
    let prefix = HeaderName::from_static("x-forwarded-prefix");
    filters.extend(reader.header("x-forwarded-prefix").map(|value| Filter::RequestHeader(prefix, value)));
    filters.extend(balance(&mut reader));
    let aliases = reader.aliases();
    let hosts_are_named = around.hosts_are_named && aliases.iter().all(|host| matches!(host, Host::Exact(_)));
    let around = &Surroundings { hosts_are_named, ..*around };
    let options = Options {
        limits: reader.limits(),
        affinity: reader.affinity(),
        protocol: reader.protocol(),
        ssl_redirect: reader.flag("ssl-redirect").unwrap_or(true),
        force_ssl_redirect: reader.flag("force-ssl-redirect").unwrap_or(false),
        rewrite_target: reader.text("rewrite-target", |text| text.starts_with('/'), "a path such as /$2"),
        use_regex: reader.flag("use-regex").unwrap_or(false),
        aliases,
        canary: Canary::read(&mut reader),
        client_auth: ClientAuth::read(&mut reader, around.namespace),
        passthrough: reader.flag("ssl-passthrough").unwrap_or(false),
        guard: guard(&mut reader, around, &mut filters),
        rates: Limits::read(&mut reader, object),
        retries: Retries::read(&mut reader).map(Arc::new),
        pages: PageOptions::read(&mut reader),
        from_to_www: reader.flag("from-to-www-redirect").unwrap_or(false),
        through_service: reader.flag("service-upstream").unwrap_or(false),
        filters,
        closed: None,
    };
    reader.harmless();
    let closed = reader.rest();
    Options { closed, ..options }
}

/// Which endpoint, if not the better of two.
fn balance(reader: &mut Reader<'_, '_>) -> Option<Filter> {
    let expected = "round_robin, ewma or least_request";
    // Of two drawn by chance the better one: no worse than a round, and what ewma stands for there, too.
    let least = reader.value("load-balance", expected, |text| match text {
        "round_robin" | "ewma" => Some(false),
        "least_request" | "least_conn" => Some(true),
        _ => None,
    });
    let hash = reader.template("upstream-hash-by").and_then(Result::ok);
    hash.map(Filter::HashBy).or((least == Some(true)).then_some(Filter::LeastRequests))
}

fn guard(reader: &mut Reader<'_, '_>, around: &Surroundings<'_>, filters: &mut Vec<Filter>) -> Option<Guard> {
    let basic = Basic::read(reader, around);
    let external = External::read(reader, around);
    let any = reader.strict("satisfy", "\"any\" or \"all\"", |text| match text {
        "any" => Some(true),
        "all" => Some(false),
        _ => None,
    });
    let mut guard = Guard { any: any.unwrap_or(false), basic, external, ..Guard::default() };
    if guard.basic.is_none() && guard.external.is_none() {
        return None;
    }
    if guard.any {
        // A list of sources is one of the ways in now, and no filter.
        filters.retain(|filter| match filter {
            Filter::AllowSources(sources) => {
                guard.sources.get_or_insert_default().extend(sources);
                false
            }
            _ => true,
        });
    }
    Some(guard)
}

impl Reader<'_, '_> {
    fn sources(&mut self, filters: &mut Vec<Filter>) {
        for key in ["denylist-source-range", "whitelist-source-range", "allowlist-source-range"] {
            let expected = "blocks of addresses such as 10.0.0.0/8,2001:db8::/32";
            let sources: Option<Sources> =
                self.strict(key, expected, |text| text.split(',').map(|part| source(part.trim())).collect());
            filters.extend(sources.map(|sources| {
                if key.starts_with("deny") {
                    Filter::DenySources(sources)
                } else {
                    Filter::AllowSources(sources)
                }
            }));
        }
    }

    fn redirects(&mut self, filters: &mut Vec<Filter>) {
        for (key, code_key, default) in [
            ("permanent-redirect", "permanent-redirect-code", StatusCode::MOVED_PERMANENTLY),
            ("temporal-redirect", "temporal-redirect-code", StatusCode::FOUND),
        ] {
            let status = self.value(code_key, "a status from 300 to 308", |text| {
                let code = text.parse().ok().filter(|code| (300..=308).contains(code))?;
                StatusCode::from_u16(code).ok()
            });
            let location = self.template(key).and_then(Result::ok);
            filters.extend(
                location.map(|location| Filter::Redirect { status: status.unwrap_or(default), location }),
            );
        }
    }

    fn cors(&mut self) -> Option<Cors> {
        let enabled = self.flag("enable-cors").unwrap_or(false);
        let list = |text: &str| text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>();
        let origins = self.value("cors-allow-origin", "* or origins such as https://*.example.com", |text| {
            let origins = list(text);
            let valid = |it: &String| it == "*" || (it.contains("://") && it.matches('*').count() <= 1);
            origins.iter().all(valid).then_some(origins)
        });
        let methods = self.header("cors-allow-methods");
        let headers = self.header("cors-allow-headers");
        let expose = self.header("cors-expose-headers");
        let credentials = self.flag("cors-allow-credentials");
        let max_age = self.value("cors-max-age", "seconds", |text| text.parse::<u64>().ok());
        enabled.then(|| Cors {
            origins: origins.unwrap_or_else(|| vec!["*".into()]),
            methods: methods
                .unwrap_or(HeaderValue::from_static("GET, PUT, POST, DELETE, PATCH, OPTIONS")),
            headers: headers.unwrap_or(HeaderValue::from_static(
                "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
            )),
            expose,
            credentials: credentials.unwrap_or(true),
            max_age: HeaderValue::from(max_age.unwrap_or(1_728_000)),
        })
    }

    fn limits(&mut self) -> BasicLimits {
        let default = BasicLimits::default();
        let mut seconds = |key: &str, default: Duration| {
            let parse =
                |text: &str| text.parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
            self.value(key, "seconds, 1 or more, without a unit", parse).unwrap_or(default)
        };
        BasicLimits {
            connect: seconds("proxy-connect-timeout", default.connect),
            read: seconds("proxy-read-timeout", default.read),
            send: seconds("proxy-send-timeout", default.send),
            body: self
                .value("proxy-body-size", "bytes such as 8m, or 0 for no bound", size)
                .filter(|bytes| *bytes > 0),
        }
    }

    fn affinity(&mut self) -> Option<Affinity> {
        let kind = self.text("affinity", |text| text == "cookie", "\"cookie\"");
        let is_token = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let is_attribute = |text: &str| HeaderValue::from_str(text).is_ok() && !text.contains([';', ',']);
        let name = self.text("session-cookie-name", is_token, "a cookie's name");
        let path =
            self.text("session-cookie-path", |text| text.starts_with('/') && is_attribute(text), "a path");
        let domain = self.text("session-cookie-domain", is_token, "a domain");
        let seconds = |text: &str| text.parse::<u64>().ok();
        let max_age = self.value("session-cookie-max-age", "seconds", seconds);
        // Every browser of today knows Max-Age.
        let expires = self.value("session-cookie-expires", "seconds", seconds);
        let max_age = max_age.or(expires);
        let same_site = self.text(
            "session-cookie-samesite",
            |text| matches!(text, "Strict" | "Lax" | "None"),
            "Strict, Lax or None",
        );
        let secure = self.flag("session-cookie-secure").unwrap_or(false);
        kind?;
        let mut attributes = format!("; Path={}; HttpOnly", path.as_deref().unwrap_or("/"));
        let pairs =
            [("Domain", domain), ("Max-Age", max_age.map(|age| age.to_string())), ("SameSite", same_site)];
        for (key, value) in pairs {
            if let Some(value) = value {
                attributes.push_str(&format!("; {key}={value}"));
            }
        }
        if secure {
            attributes.push_str("; Secure");
        }
        Some(Affinity { cookie: name.unwrap_or_else(|| "INGRESSCOOKIE".into()), attributes })
    }

    fn protocol(&mut self) -> Protocol {
        let parse = |text: &str| match text.to_ascii_uppercase().as_str() {
            "HTTP" => Some(Protocol::Http),
            "HTTPS" => Some(Protocol::Https),
            "GRPC" | "H2C" => Some(Protocol::H2c),
            "GRPCS" => Some(Protocol::Grpcs),
            _ => None,
        };
        self.value("backend-protocol", "HTTP, HTTPS, GRPC, GRPCS or H2C", parse).unwrap_or(Protocol::Http)
    }

    fn aliases(&mut self) -> Vec<Host> {
        let parse = |text: &str| {
            let hosts = text.split([',', ' ']).filter(|part| !part.is_empty()).map(Host::parse);
            hosts.collect::<Result<Vec<_>, _>>().ok().filter(|hosts| !hosts.contains(&Host::Any))
        };
        self.value("server-alias", "hosts such as www.example.com,*.example.org", parse).unwrap_or_default()
    }

    /// Those that ask for what we do anyway, and those that say how nginx is to hold what is never held here.
    fn harmless(&mut self) {
        for (key, ours) in [
            ("enable-access-log", "true"),
            ("enable-rewrite-log", "false"),
            ("proxy-http-version", "1.1"),
            ("connection-proxy-header", "keep-alive"),
            ("proxy-redirect-from", "off"),
            ("proxy-cookie-domain", "off"),
            ("proxy-cookie-path", "off"),
            ("proxy-ssl-verify", "off"),
            ("session-cookie-conditional-samesite-none", "false"),
            ("session-cookie-change-on-failure", "false"),
        ] {
            self.take_if(key, ours);
        }
        for key in [
            "affinity-mode",
            "client-body-buffer-size",
            "http2-push-preload",
            "proxy-buffer-size",
            "proxy-buffering",
            "proxy-buffers-number",
            "proxy-busy-buffers-size",
            "proxy-max-temp-file-size",
            "proxy-request-buffering",
        ] {
            self.take(key);
        }
    }

    /// Warns of what is left. The answer is why nothing may be served, if so.
    fn rest(mut self) -> Option<String> {
        for (key, name) in self.take_rest() {
            if CLOSING.contains(&key) {
                let why = format!("it asks for {key}, which is not supported");
                self.close(name, "not supported: without it the object would be open", why);
            } else if key.ends_with("-snippet") {
                self.wrong(name, "not honoured: snippets of nginx's configuration never are");
            } else {
                self.wrong(name, "not honoured: there is nothing like it here");
            }
        }
        self.closed()
    }
}

/// A block of addresses, or one address.
pub(super) fn source(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// `8m` as nginx reads it.
fn size(text: &str) -> Option<u64> {
    let (digits, factor) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}
