//! Who may come, by name and password or because somebody else says so, and how often.
//!
//! What of this cannot be read closes the object: served without it, it would be open to everyone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use k8s_openapi::api::core::v1::Secret;

use super::annotation::source;
use super::password::Password;
use super::reader::Reader;
use super::{Authority, Sources, Template};
use crate::object::{Name, World};

/// What a request must pass that no filter has answered. In this order: limits, then the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guard {
    /// Index into [`super::Compiled::limits`].
    pub limits: Option<usize>,
    /// One of those that follow is enough.
    pub any: bool,
    /// With `any`, addresses that need nothing else.
    pub sources: Option<Sources>,
    pub basic: Option<Basic>,
    pub external: Option<External>,
}

/// Name and password (RFC 7617).
#[derive(Clone, Debug, PartialEq)]
pub struct Basic {
    /// What `WWW-Authenticate` says.
    pub challenge: HeaderValue,
    pub users: BTreeMap<String, Password>,
}

/// A service that says who may come: asked with each request's head.
#[derive(Clone, Debug, PartialEq)]
pub struct External {
    pub url: Template,
    /// The cluster behind the URL, where it names a Service.
    pub cluster: Option<usize>,
    pub method: Option<Method>,
    /// Where those are sent who may not come yet.
    pub signin: Option<Template>,
    /// What of its answer the upstream learns.
    pub response_headers: Vec<HeaderName>,
    /// What it learns as the place to go back to.
    pub redirect: Option<Template>,
    /// Its cookies are set whatever the upstream's status.
    pub always_set_cookie: bool,
}

/// How often each client may come, and with how many requests at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub object: Arc<str>,
    pub rates: Vec<Rate>,
    pub requests_at_a_time: Option<u32>,
    /// Whom nobody counts.
    pub exempt: Sources,
}

/// One request each `interval`, and `burst` beyond that at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub interval: Duration,
    pub burst: u32,
}

impl Basic {
    pub(super) fn read(reader: &mut Reader<'_, '_>, around: &Surroundings<'_>) -> Option<Self> {
        let namespace = around.namespace;
        let kind = reader.take("auth-type");
        let secret = reader.take("auth-secret");
        let layout = reader.take("auth-secret-type");
        let realm = reader.take("auth-realm");
        let Some((kind_name, kind)) = kind else {
            if let Some((name, _)) = secret {
                let why = "it has an auth-secret without auth-type";
                reader.close(&name, "without auth-type: expected `auth-type: basic` beside it", why);
            } else if let Some((name, _)) = realm.or(layout) {
                reader
                    .wrong(&name, "without auth-type: expected `auth-type: basic` beside it; it is left out");
            }
            return None;
        };
        if kind != "basic" {
            let why = format!("it asks for auth-type {kind}, which is not supported");
            reader.close(&kind_name, format!("{kind:?}: expected \"basic\""), why);
            return None;
        }
        let Some((secret_name, secret)) = secret else {
            let message = "without auth-secret: expected `auth-secret: NAME` beside it";
            reader.close(&kind_name, message, "it asks for passwords, and has no auth-secret");
            return None;
        };
        let name = match secret.split_once('/') {
            None => Name::new(namespace, &secret),
            Some((other, name)) if other == namespace => Name::new(namespace, name),
            Some(_) => {
                let message = format!(
                    "{secret:?} is in another namespace: expected the name of a Secret in {namespace}"
                );
                reader.close(&secret_name, message, "its auth-secret is in another namespace");
                return None;
            }
        };
        let is_map = match &layout {
            None => false,
            Some((_, layout)) if layout == "auth-file" => false,
            Some((_, layout)) if layout == "auth-map" => true,
            Some((layout_name, layout)) => {
                let message = format!("{layout:?}: expected \"auth-file\" or \"auth-map\"");
                reader.close(layout_name, message, "its auth-secret-type cannot be read");
                return None;
            }
        };
        let realm = realm.map_or("Authentication Required".to_owned(), |(_, realm)| realm);
        let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", realm.replace(['"', '\\'], ""));
        let Ok(challenge) = HeaderValue::from_str(&challenge) else {
            reader.close(&secret_name, "the auth-realm is no text that a header can hold", "its auth-realm");
            return None;
        };
        let users = match around.secrets.map(|world| world.secrets.get(&name)) {
            // Nobody has the Secrets: it is left open what they say.
            None => BTreeMap::new(),
            Some(None) => {
                let why = format!("there is no Secret {name} with its passwords");
                reader.close(&secret_name, format!("there is no Secret {name}"), why);
                return None;
            }
            Some(Some(secret)) => match users(secret, is_map) {
                Err(error) => {
                    let why = format!("Secret {name} has no passwords");
                    reader.close(&secret_name, format!("Secret {name}: {error}"), why);
                    return None;
                }
                Ok((users, wrong)) => {
                    for message in wrong {
                        reader.wrong(&secret_name, format!("Secret {name}: {message}"));
                    }
                    users
                }
            },
        };
        Some(Self { challenge, users })
    }
}

/// What counts beside an object's annotations.
pub(super) struct Surroundings<'a> {
    pub(super) namespace: &'a str,
    /// Whose Secrets are known; none where objects are looked at without them.
    pub(super) secrets: Option<&'a World>,
    /// Every host of the object is one name: no wildcard, none that takes any.
    pub(super) hosts_are_named: bool,
}

type Users = BTreeMap<String, Password>;

/// Users, and what is wrong with those who are left out.
fn users(secret: &Secret, is_map: bool) -> Result<(Users, Vec<String>), String> {
    let mut entries: BTreeMap<&str, String> = BTreeMap::new();
    for (key, bytes) in secret.data.iter().flatten() {
        entries.insert(key, String::from_utf8_lossy(&bytes.0).into_owned());
    }
    entries.extend(secret.string_data.iter().flatten().map(|(key, text)| (key.as_str(), text.clone())));
    let pairs: Vec<(String, String)> = if is_map {
        entries.iter().map(|(user, hash)| ((*user).to_owned(), hash.trim().to_owned())).collect()
    } else {
        let text = entries
            .get("auth")
            .ok_or("data has no `auth`: expected lines of htpasswd there, or `auth-secret-type: auth-map`")?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        // A third field is a remark.
        lines
            .map(|line| {
                let (user, rest) = line.split_once(':').unwrap_or((line, ""));
                (user.to_owned(), rest.split(':').next().unwrap_or_default().to_owned())
            })
            .collect()
    };
    let (mut users, mut wrong) = (Users::new(), Vec::new());
    for (user, hash) in pairs {
        match Password::parse(&hash) {
            Ok(password) => drop(users.insert(user, password)),
            Err(error) => wrong.push(format!("the password of {user:?} {error}; {user:?} cannot come in")),
        }
    }
    if users.is_empty() && wrong.is_empty() {
        return Err("it has no users: expected for example `ann:$2y$10$...`".into());
    }
    Ok((users, wrong))
}

impl External {
    pub(super) fn read(reader: &mut Reader<'_, '_>, around: &Surroundings<'_>) -> Option<Self> {
        let url = reader.take("auth-url");
        let method = reader.strict("auth-method", "a method such as GET", |text| {
            Method::from_bytes(text.as_bytes())
                .ok()
                .filter(|_| text.bytes().all(|it| it.is_ascii_uppercase()))
        });
        let signin = reader.template("auth-signin");
        let parameter = reader.text(
            "auth-signin-redirect-param",
            |text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
            "the name of a parameter, such as rd",
        );
        let redirect = reader.template("auth-request-redirect");
        let response_headers = reader.strict("auth-response-headers", "names of headers", |text| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            names.map(|name| HeaderName::try_from(name).ok()).collect::<Option<Vec<_>>>()
        });
        let always_set_cookie = reader.flag("auth-always-set-cookie").unwrap_or(false);
        // A cache would only save requests.
        for key in [
            "auth-cache-key",
            "auth-cache-duration",
            "auth-keepalive",
            "auth-keepalive-requests",
            "auth-keepalive-timeout",
            "auth-keepalive-share-vars",
        ] {
            reader.take(key);
        }
        let (name, text) = url?;
        let valid = Template::parse(&text).and_then(|url| {
            let is_url = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
            let expected = "expected a URL such as http://auth.default.svc.cluster.local/check";
            is_url.then_some(url).ok_or(expected.to_owned())
        });
        let url = match valid {
            Ok(url) => url,
            Err(error) => {
                reader.close(&name, format!("{text:?}: {error}"), "its auth-url cannot be read");
                return None;
            }
        };
        // Whoever asked for a host of his own choice would be asked whether he may come.
        let whose = match url.authority() {
            Authority::Anyones => Some("its host is what clients write in their requests"),
            Authority::OfRequest if !around.hosts_are_named => {
                Some("its host is the request's, and a rule without host, or with a wildcard, takes any")
            }
            Authority::OfRequest | Authority::Fixed => None,
        };
        if let Some(whose) = whose {
            let message =
                format!("{text:?}: {whose}: expected a host by name, or $host where every host is one name");
            reader.close(&name, message, "whom its auth-url asks is up to the client");
            return None;
        }
        let signin =
            signin.and_then(Result::ok).map(|url| with_return(url, parameter.as_deref().unwrap_or("rd")));
        Some(Self {
            url,
            cluster: None,
            method,
            signin,
            response_headers: response_headers.unwrap_or_default(),
            redirect: redirect.and_then(Result::ok),
            always_set_cookie,
        })
    }
}

/// The page to sign in learns where to go back to, unless its URL says so already.
fn with_return(url: Template, parameter: &str) -> Template {
    let says = |mark: char| url.contains(&format!("{mark}{parameter}="));
    if says('?') || says('&') {
        return url;
    }
    let mark = if url.contains("?") { '&' } else { '?' };
    let back = format!("{mark}{parameter}=$pass_access_scheme://$http_host$escaped_request_uri");
    match Template::parse(&back) {
        Ok(back) => url.followed_by(back),
        Err(_) => url,
    }
}

impl Limits {
    pub(super) fn read(reader: &mut Reader<'_, '_>, object: &str) -> Option<Self> {
        let per = |second: u32| move |count: u32| (Duration::from_secs(second.into()), count);
        let multiplier = reader.number("limit-burst-multiplier", 1).unwrap_or(5);
        let rps = reader.number("limit-rps", 1).map(per(1));
        let rpm = reader.number("limit-rpm", 1).map(per(60));
        let requests_at_a_time = reader.number("limit-connections", 1);
        let exempt = ["limit-whitelist", "limit-allowlist"].map(|key| {
            reader.value(key, "blocks of addresses such as 10.0.0.0/8", |text| {
                text.split(',').map(|part| source(part.trim())).collect::<Option<Sources>>()
            })
        });
        let rates: Vec<Rate> = [rps, rpm]
            .into_iter()
            .flatten()
            .map(|(per, count)| Rate { interval: per / count, burst: count.saturating_mul(multiplier) })
            .collect();
        if rates.is_empty() && requests_at_a_time.is_none() {
            return None;
        }
        let exempt = exempt.into_iter().flatten().flatten().collect();
        Some(Self { object: object.into(), rates, requests_at_a_time, exempt })
    }
}
