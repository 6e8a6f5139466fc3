//! Hosts: as rules name them, and as requests do.

use std::borrow::Cow;
use std::fmt;

/// The hosts of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// One name, in lower case.
    Exact(String),
    /// `*.example.com`, kept as `example.com`: names of exactly one label more.
    Wildcard(String),
    Any,
}

impl Host {
    /// As `spec.rules[].host` and `spec.tls[].hosts[]` have it. The error says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Err(format!("{text:?} is an address: expected a DNS name such as shop.example.com"));
        }
        let lower = text.to_ascii_lowercase();
        let (wildcard, name) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, lower.as_str()),
        };
        if !is_dns_name(name) {
            return Err(format!(
                "{text:?} is no DNS name: expected for example shop.example.com, or *.example.com for all names of one \
                 label more, without scheme, port and path"
            ));
        }
        Ok(if wildcard { Self::Wildcard(name.to_owned()) } else { Self::Exact(name.to_owned()) })
    }

    /// Whether a request for `host` is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => parent(host) == Some(suffix),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// `example.com` of `shop.example.com`.
pub(super) fn parent(host: &str) -> Option<&str> {
    host.split_once('.').filter(|(label, rest)| !label.is_empty() && !rest.is_empty()).map(|(_, rest)| rest)
}

/// The host of a `Host` header or of a URI's authority: lower case, no port, no closing dot. `None`: not a host.
pub fn of_authority(authority: &str) -> Option<Cow<'_, str>> {
    let host = if authority.starts_with('[') {
        let (host, port) = authority.split_at(authority.find(']')? + 1);
        host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().ok()?;
        port.strip_prefix(':').or(port.is_empty().then_some("")).filter(|port| is_port(port))?;
        host
    } else {
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        let host = host.strip_suffix('.').unwrap_or(host);
        if !is_port(port) || host.is_empty() || !host.bytes().all(is_host_byte) {
            return None;
        }
        host
    };
    Some(if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Letters of DNS names and addresses; the low line is used though no standard has it.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let host = Host::parse("*.Example.com").unwrap();
        assert_eq!(host, Host::Wildcard("example.com".into()));
        for (asked, matches) in [
            ("a.example.com", true),
            ("a.b.example.com", false),
            ("example.com", false),
            (".example.com", false),
        ] {
            assert_eq!(host.matches(asked), matches, "{asked}");
        }
    }

    #[test]
    fn what_is_no_dns_name_is_refused_with_what_would_be_right() {
        for text in [
            "https://a.b",
            "a.b:80",
            "a..b",
            "*",
            "*.*.b",
            "a.*.b",
            "-a.b",
            "a_b.c",
            "a.b/c",
            "10.0.0.1",
            "::1",
        ] {
            let error = Host::parse(text).unwrap_err();
            assert!(error.contains("expected") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn the_host_of_a_request_has_no_port_no_closing_dot_and_no_capitals() {
        for (authority, host) in [
            ("Shop.example.com:8080", Some("shop.example.com")),
            ("shop.example.com.", Some("shop.example.com")),
            ("shop.example.com:", Some("shop.example.com")),
            ("10.0.0.1:80", Some("10.0.0.1")),
            ("[2001:DB8::1]:443", Some("[2001:db8::1]")),
            ("[2001:db8::1]", Some("[2001:db8::1]")),
            ("a_b.c", Some("a_b.c")),
            ("", None),
            (":80", None),
            ("a:b", None),
            ("a:123456", None),
            ("user@a", None),
            ("a/b", None),
            ("a b", None),
            ("[::1", None),
            ("[x]", None),
            ("[::1]x", None),
            ("::1", None),
        ] {
            assert_eq!(of_authority(authority).as_deref(), host, "{authority:?}");
        }
    }
}
