//! What a request must be before it is looked at any further.
//!
//! hyper has refused what it cannot parse: two lengths that differ, white space before a colon, folded lines, a chunked
//! request of HTTP/1.0. Here is what it leaves to its users, and what two parsers could read in two ways.

use std::borrow::Cow;

use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Version};

use crate::route;

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
}

fn refuse<T>(status: StatusCode, reason: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, reason })
}

/// The host that the request is for, in the spelling of the table.
pub(super) fn check(parts: &Parts) -> Result<String, Refusal> {
    if parts.method == Method::CONNECT {
        let reason = "CONNECT: this is no forward proxy, and of RFC 8441 it knows WebSocket";
        return refuse(StatusCode::METHOD_NOT_ALLOWED, reason);
    }
    framing(parts.version, &parts.headers)?;
    host(parts)
}

fn framing(version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        if !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") || encodings.next().is_some() {
            return refuse(StatusCode::NOT_IMPLEMENTED, "a transfer coding other than chunked, once");
        }
        if headers.contains_key(header::CONTENT_LENGTH) {
            return refuse(StatusCode::BAD_REQUEST, "both Content-Length and Transfer-Encoding");
        }
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (!length.as_bytes().iter().all(u8::is_ascii_digit) || lengths.next().is_some())
    {
        return refuse(StatusCode::BAD_REQUEST, "a Content-Length that is not one number");
    }
    // Names with a low line become the same variable as those with a hyphen in many an upstream: X_Forwarded_For.
    let forged = |name: &str| name.contains('_') && is_ours(&name.replace('_', "-"));
    if headers.keys().any(|name| forged(name.as_str())) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "a header with a low line that could be taken for one that counts",
        );
    }
    debug_assert!(version <= Version::HTTP_2, "no other version is served");
    Ok(())
}

/// What says how long a request is or where it came from.
fn is_ours(name: &str) -> bool {
    matches!(name, "content-length" | "transfer-encoding" | "x-real-ip")
        || name.starts_with("x-forwarded")
        || name.starts_with("ssl-client")
}

fn host(parts: &Parts) -> Result<String, Refusal> {
    let mut headers = parts.headers.get_all(header::HOST).iter();
    let header = match (headers.next(), headers.next()) {
        (_, Some(_)) => return refuse(StatusCode::BAD_REQUEST, "more than one Host"),
        (header, None) => header.map(|value| value.to_str().ok().and_then(route::of_authority)),
    };
    let authority = parts.uri.authority().map(|authority| route::of_authority(authority.as_str()));
    let host = match (authority, header) {
        (Some(None), _) | (_, Some(None)) => {
            return refuse(StatusCode::BAD_REQUEST, "a Host that is no host");
        }
        // RFC 9112 §3.2.2 lets the URI win; but who says two things may mean either.
        (Some(Some(authority)), Some(Some(header))) if authority != header => {
            return refuse(StatusCode::BAD_REQUEST, "a Host that is not the URI's");
        }
        (Some(Some(host)), _) | (None, Some(Some(host))) => host,
        (None, None) if parts.version <= Version::HTTP_10 => Cow::Borrowed(""),
        (None, None) => return refuse(StatusCode::BAD_REQUEST, "no Host"),
    };
    Ok(host.into_owned())
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    /// A URI, headers, and the host or the status of the refusal.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Result<&'a str, u16>);

    #[track_caller]
    fn check_all(cases: &[Case<'_>]) {
        for (uri, headers, expected) in cases {
            let mut request = Request::builder().uri(*uri);
            for (name, value) in *headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let found = check(&parts).map_err(|refusal| refusal.status.as_u16());
            assert_eq!(found.as_deref(), expected.as_deref(), "{uri} {headers:?}");
        }
    }

    #[test]
    fn the_host_is_one_and_the_same_wherever_it_is_written() {
        check_all(&[
            ("/", &[("host", "A.b:80")], Ok("a.b")),
            ("http://a.b/", &[], Ok("a.b")),
            ("http://a.b/", &[("host", "a.b:80")], Ok("a.b")),
            ("http://a.b/", &[("host", "c.d")], Err(400)),
            ("/", &[("host", "a.b"), ("host", "a.b")], Err(400)),
            ("/", &[("host", "a b")], Err(400)),
            ("/", &[("host", "")], Err(400)),
            ("/", &[], Err(400)),
        ]);
    }

    #[test]
    fn a_request_has_one_framing() {
        let host = ("host", "a.b");
        check_all(&[
            ("/", &[host, ("transfer-encoding", "Chunked")], Ok("a.b")),
            ("/", &[host, ("transfer-encoding", "gzip, chunked")], Err(501)),
            ("/", &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], Err(501)),
            ("/", &[host, ("transfer-encoding", "chunked"), ("content-length", "3")], Err(400)),
            ("/", &[host, ("content-length", "3")], Ok("a.b")),
            ("/", &[host, ("content-length", "+3")], Err(400)),
            ("/", &[host, ("content-length", "3, 3")], Err(400)),
            ("/", &[host, ("x_forwarded_for", "10.0.0.1")], Err(400)),
            ("/", &[host, ("transfer_encoding", "chunked")], Err(400)),
            ("/", &[host, ("content-length", "3"), ("content_length", "0")], Err(400)),
            ("/", &[host, ("x_own", "1")], Ok("a.b")),
        ]);
    }
}
