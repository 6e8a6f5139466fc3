//! Certificates that clients must show, from the `auth-tls-*` annotations.
//!
//! They keep people out: what of them cannot be read closes the object.

use std::collections::HashMap;
use std::sync::Arc;

use hyper::header::HeaderValue;
use policy::Warning;
use regex::Regex;

use super::reader::Reader;
use crate::object::Name;
use crate::route::Host;

/// Whom a host lets in over TLS.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// The Secret whose `ca.crt` must have signed them, and whose `ca.crl` may call them back.
    pub secret: Name,
    pub verify: Verify,
    /// So many certificates may stand between the client's and one of `ca.crt`.
    pub depth: usize,
    /// Where those are sent who show none that is good.
    pub error_page: Option<HeaderValue>,
    /// The upstream learns the certificate itself, not only its names.
    pub pass_certificate: bool,
    /// Matched from each `CN=` of the subject (RFC 2253) to the end of an attribute.
    pub subject: Option<Regex>,
}

/// What becomes of a client without a good certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    Required,
    /// None is good, a bad one is not.
    Optional,
    /// All are let in, and the upstream is told.
    Never,
}

/// What one host of the rules asks of its clients.
#[derive(Clone, Debug)]
pub struct HostAuth {
    pub host: Host,
    /// None: nothing, though a wider host may.
    pub auth: Option<Arc<ClientAuth>>,
    /// The object that wants it.
    pub object: String,
}

impl PartialEq for ClientAuth {
    fn eq(&self, other: &Self) -> bool {
        let all =
            |it: &Self| (it.secret.clone(), it.verify, it.depth, it.error_page.clone(), it.pass_certificate);
        let subject = |it: &Self| it.subject.as_ref().map(|pattern| pattern.as_str().to_owned());
        all(self) == all(other) && subject(self) == subject(other)
    }
}

impl ClientAuth {
    /// The annotation that all of it hangs on.
    pub const FIELD: &str = "nginx.ingress.kubernetes.io/auth-tls-secret";

    pub(super) fn read(reader: &mut Reader<'_, '_>, namespace: &str) -> Option<Arc<Self>> {
        let asked = ["auth-tls-secret", "auth-tls-verify-client", "auth-tls-match-cn"];
        let asked = asked.into_iter().find(|key| reader.has(key));
        let expected =
            format!("{namespace}/NAME of a Secret with ca.crt: one of another namespace is not read");
        let has_secret = reader.has("auth-tls-secret");
        let secret = reader.strict("auth-tls-secret", &expected, |text| match text.split_once('/') {
            None if !text.is_empty() => Some(Name::new(namespace, text)),
            Some((own, name)) if own == namespace && !name.is_empty() => Some(Name::new(own, name)),
            _ => None,
        });
        let verify = reader.strict("auth-tls-verify-client", "on, off, optional or optional_no_ca", |text| {
            Some(match text {
                "on" => Some(Verify::Required),
                "optional" => Some(Verify::Optional),
                "optional_no_ca" => Some(Verify::Never),
                "off" => None,
                _ => return None,
            })
        });
        let depth =
            reader.strict("auth-tls-verify-depth", "a number of certificates between, 0 or more", |text| {
                text.parse().ok()
            });
        let error_page = reader.value("auth-tls-error-page", "a URL or a path", |text| {
            text.parse::<hyper::Uri>().ok()?;
            HeaderValue::from_str(text).ok()
        });
        let pass_certificate = reader.flag("auth-tls-pass-certificate-to-upstream").unwrap_or(false);
        let subject = reader.strict(
            "auth-tls-match-cn",
            "a regular expression that begins with CN=, without look-around",
            |text| {
                let text = text.strip_prefix('^').unwrap_or(text);
                text.starts_with("CN=").then_some(())?;
                let text = text.strip_suffix('$').unwrap_or(text);
                Regex::new(&format!("^(?:{text})(?:$|[,+])")).ok()
            },
        );
        if verify == Some(None) {
            return None;
        }
        let Some(secret) = secret else {
            if let (Some(key), false) = (asked, has_secret) {
                let why = format!("it asks for {key}, and names no auth-tls-secret");
                let message =
                    "without auth-tls-secret there is nothing to verify by: expected it beside this";
                reader.close(&Reader::name(key), message, why);
            }
            return None;
        };
        Some(Arc::new(Self {
            secret,
            verify: verify.flatten().unwrap_or(Verify::Required),
            depth: depth.unwrap_or(1),
            error_page,
            pass_certificate,
            subject,
        }))
    }
}

/// One answer for each host; `wants` are the objects' hosts, the oldest object first.
pub(super) fn of_each_host(
    wants: impl Iterator<Item = (Host, Option<Arc<ClientAuth>>, Arc<str>)>,
    warnings: &mut Vec<Warning>,
) -> Vec<HostAuth> {
    let mut hosts: Vec<HostAuth> = Vec::new();
    let mut known: HashMap<Host, usize> = HashMap::new();
    for (host, auth, object) in wants {
        let index = *known.entry(host.clone()).or_insert(hosts.len());
        let Some(first) = hosts.get_mut(index) else {
            hosts.push(HostAuth { host, auth, object: object.to_string() });
            continue;
        };
        match (&first.auth, &auth) {
            (_, None) => {}
            (None, Some(_)) => {
                first.object = object.to_string();
                first.auth = auth;
            }
            (Some(of_first), Some(own)) if of_first != own => warnings.push(Warning {
                object: object.to_string(),
                field: ClientAuth::FIELD.into(),
                message: format!(
                    "{host} asks its clients for certificates as the older {} wants already: expected the same; requests \
                     for what this object serves there are answered 403",
                    first.object
                ),
            }),
            (Some(_), Some(_)) => {}
        }
    }
    if hosts.iter().all(|host| host.auth.is_none()) {
        hosts.clear();
    }
    hosts
}
