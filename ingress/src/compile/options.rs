//! What is done to requests and responses on a route, in the words of the table, not of an annotation.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use regex::Regex;

use super::{Sources, Template};

/// One step. They are taken in the order in which they stand; the first that answers ends the request.
#[derive(Clone, Debug)]
pub enum Filter {
    /// 403 to everyone else.
    AllowSources(Sources),
    /// 403 to these.
    DenySources(Sources),
    /// Requests in the clear are sent to the same place over TLS.
    ToHttps(StatusCode),
    /// Everything is sent elsewhere.
    Redirect {
        status: StatusCode,
        location: Template,
    },
    /// The bare root is sent to this path.
    AppRoot(String),
    Cors(Cors),
    Rewrite(Rewrite),
    /// `Host` as the upstream sees it.
    UpstreamHost(HeaderValue),
    /// What else the upstream learns.
    RequestHeader(HeaderName, HeaderValue),
    /// Which endpoint: requests for which this is the same go to the same one.
    HashBy(Template),
    /// Which endpoint: the one with fewer requests, however fast it is.
    LeastRequests,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        // For tests and for the report of conflicts; patterns are equal when their text is.
        format!("{self:?}") == format!("{other:?}")
    }
}

/// A new path: the template with the groups of the pattern filled in.
#[derive(Clone, Debug)]
pub struct Rewrite {
    pub pattern: Regex,
    /// `$1` to `$9` stand for groups.
    pub template: String,
}

impl Rewrite {
    /// The path that the upstream sees, or `None` where the pattern does not match and the path stays.
    pub fn apply(&self, path: &str) -> Option<String> {
        let groups = self.pattern.captures(path)?;
        let mut out = String::with_capacity(self.template.len() + path.len());
        let mut rest = self.template.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            match after.bytes().next() {
                Some(digit @ b'0'..=b'9') => {
                    out.push_str(groups.get(usize::from(digit - b'0')).map_or("", |group| group.as_str()));
                    rest = &after[1..];
                }
                _ => {
                    out.push('$');
                    rest = after;
                }
            }
        }
        out.push_str(rest);
        if !out.starts_with('/') {
            out.insert(0, '/');
        }
        Some(out)
    }
}

/// Cross-origin sharing: preflights are answered here, and responses carry the headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `*`, `https://shop.example.com` or `https://*.example.com`.
    pub origins: Vec<String>,
    pub methods: HeaderValue,
    pub headers: HeaderValue,
    pub expose: Option<HeaderValue>,
    pub credentials: bool,
    pub max_age: HeaderValue,
}

impl Cors {
    /// What `Access-Control-Allow-Origin` says to this origin, if it may.
    pub fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        if self.origins.iter().any(|allowed| allowed == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let text = origin.to_str().ok()?;
        let matches = |allowed: &String| match allowed.split_once('*') {
            None => allowed.eq_ignore_ascii_case(text),
            Some((before, after)) => {
                text.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(|label| {
                    !label.is_empty()
                        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                })
            }
        };
        self.origins.iter().any(matches).then(|| origin.clone())
    }
}

/// Bounds on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BasicLimits {
    /// Bytes of a request's body; none: no bound, bodies are never held.
    pub body: Option<u64>,
    pub connect: Duration,
    /// The longest pause in what the upstream sends, its head included.
    pub read: Duration,
    /// The longest pause in what the client sends of its body.
    pub send: Duration,
}

impl Default for BasicLimits {
    fn default() -> Self {
        Self {
            body: None,
            connect: Duration::from_secs(5),
            read: Duration::from_secs(60),
            send: Duration::from_secs(60),
        }
    }
}

/// A cookie that leads a client back to its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    pub cookie: String,
    /// What follows `NAME=VALUE` in `Set-Cookie`: `; Path=/; HttpOnly`.
    pub attributes: String,
}
