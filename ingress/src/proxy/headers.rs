//! Headers that belong to one connection, and those that say where a request came from.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use hyper::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Takes out what is between two neighbours only (RFC 9110 §7.6.1). The answer is whether `TE: trailers` was among it.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) -> bool {
    let mut named: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        let names = value.to_str().unwrap_or_default().split(',').map(str::trim);
        // What decides about route and framing is not the client's to remove.
        named.extend(
            names
                .filter_map(|name| HeaderName::try_from(name).ok())
                .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH),
        );
    }
    let trailers = headers.get_all(header::TE).iter().any(|value| {
        value
            .to_str()
            .unwrap_or_default()
            .split(',')
            .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    });
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    trailers
}

/// The protocol that the client wants to go over to, if it says so as it must.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get_all(header::CONNECTION).iter().any(|value| {
        value.to_str().unwrap_or_default().split(',').any(|it| it.trim().eq_ignore_ascii_case("upgrade"))
    });
    headers.get(header::UPGRADE).filter(|_| wanted).cloned()
}

/// Who sends on a connection, in the words of the headers: written once for all its requests.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) address: SocketAddr,
    ip: HeaderValue,
    port: HeaderValue,
    /// The last `Forwarded`, with the host and the scheme that it is for.
    forwarded: RefCell<Option<(HeaderValue, &'static str, HeaderValue)>>,
}

impl Sender {
    /// `local`: where it connected to.
    pub(super) fn new(address: SocketAddr, local: SocketAddr) -> Self {
        let ip = address.ip().to_canonical().to_string();
        // Digits, letters, dots and colons.
        let ip = HeaderValue::try_from(ip).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { address, ip, port: HeaderValue::from(local.port()), forwarded: RefCell::default() }
    }

    /// The element of `Forwarded` for a request to `host`.
    fn forwarded(&self, host: &HeaderValue, proto: &'static str) -> Option<HeaderValue> {
        let mut last = self.forwarded.borrow_mut();
        if let Some((_, _, value)) = last.as_ref().filter(|(of, with, _)| of == host && *with == proto) {
            return Some(value.clone());
        }
        let node = match self.address.ip().to_canonical() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let host_text = host.to_str().unwrap_or_default();
        let value = HeaderValue::try_from(format!("for={node};host=\"{host_text}\";proto={proto}")).ok()?;
        *last = Some((host.clone(), proto, value.clone()));
        Some(value)
    }
}

/// Where a request came from, by the connection and by those who are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) client: IpAddr,
    /// Over TLS, as far as the client is concerned.
    pub(super) secure: bool,
    trusted: bool,
}

impl Origin {
    /// `X-Forwarded-For` is read from its end for as long as those who wrote it are trusted.
    pub(super) fn new(peer: IpAddr, tls: bool, trusted: &[IpNet], headers: &HeaderMap) -> Self {
        let peer = peer.to_canonical();
        let believes = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
        if !believes(peer) {
            return Self { client: peer, secure: tls, trusted: false };
        }
        let mut client = peer;
        let hops: Vec<&str> = headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        for hop in hops.iter().rev() {
            let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
            client = address.to_canonical();
            if !believes(client) {
                break;
            }
        }
        let said = headers.get(X_FORWARDED_PROTO).and_then(|value| value.to_str().ok());
        let secure = match said.map(|said| said.trim().to_ascii_lowercase()).as_deref() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            _ => tls,
        };
        Self { client, secure, trusted: true }
    }

    /// Writes it for the upstream. What strangers say about themselves is overwritten.
    pub(super) fn write(&self, headers: &mut HeaderMap, sender: &Sender, host: &HeaderValue) {
        let proto = if self.secure { "https" } else { "http" };
        self.append(headers, X_FORWARDED_FOR, sender.ip.clone());
        if let Some(element) = sender.forwarded(host, proto) {
            self.append(headers, FORWARDED, element);
        }
        self.set(headers, X_FORWARDED_PROTO, HeaderValue::from_static(proto));
        self.set(headers, X_FORWARDED_HOST, host.clone());
        self.set(headers, X_FORWARDED_PORT, sender.port.clone());
        let client = if self.trusted { HeaderValue::try_from(self.client.to_string()).ok() } else { None };
        headers.insert(X_REAL_IP, client.unwrap_or_else(|| sender.ip.clone()));
    }

    fn append(&self, headers: &mut HeaderMap, name: HeaderName, element: HeaderValue) {
        if !self.trusted {
            headers.insert(name, element);
            return;
        }
        let said = headers.get_all(&name).iter().chain([&element]);
        let list: Vec<&str> = said.filter_map(|value| value.to_str().ok()).collect();
        if let Ok(value) = HeaderValue::try_from(list.join(", ")) {
            headers.insert(name, value);
        }
    }

    fn set(&self, headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
        if !self.trusted {
            headers.insert(name, value);
        } else if let Entry::Vacant(free) = headers.entry(name) {
            free.insert(value);
        }
    }
}

/// The id that the request has already, if it is fit to be written down.
pub(super) fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    let id = headers.get(X_REQUEST_ID)?;
    Some(id).filter(|id| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(fit))
}

/// A new one: 128 bits in hexadecimal digits.
pub(super) fn new_request_id(bits: [u64; 2]) -> HeaderValue {
    let mut digits = [0; 32];
    for (number, digit) in digits.iter_mut().enumerate() {
        let nibble = bits[number / 16] >> (60 - number % 16 * 4) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    HeaderValue::from_bytes(&digits).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// HTTP/2 may have cookies in several headers, HTTP/1.1 has them in one.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn what_belongs_to_a_connection_stays_on_it() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Own"),
            ("connection", "host, content-length"),
            ("x-own", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, Trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-connection", "close"),
            ("host", "a.b"),
            ("content-length", "3"),
            ("x-kept", "1"),
        ]);
        assert!(strip_hop_by_hop(&mut map));
        assert_eq!(names(&map), ["host", "content-length", "x-kept"]);
        assert!(!strip_hop_by_hop(&mut headers(&[("te", "gzip")])));
    }

    #[test]
    fn an_upgrade_must_be_named_twice() {
        assert!(
            upgrade(&headers(&[("connection", "Keep-Alive, Upgrade"), ("upgrade", "websocket")])).is_some()
        );
        assert!(upgrade(&headers(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade(&headers(&[("connection", "upgrade")])).is_none());
    }

    fn written(peer: &str, trusted: &str, pairs: &[(&str, &str)]) -> (Origin, HeaderMap) {
        let mut map = headers(pairs);
        let trusted: Vec<IpNet> = trusted.split(' ').filter_map(|net| net.parse().ok()).collect();
        let origin = Origin::new(peer.parse().unwrap(), false, &trusted, &map);
        let host = HeaderValue::from_static("a.b");
        let address = SocketAddr::new(peer.parse().unwrap(), 40_000);
        origin.write(&mut map, &Sender::new(address, "10.9.9.9:8080".parse().unwrap()), &host);
        (origin, map)
    }

    #[test]
    fn a_stranger_is_who_his_connection_says_he_is() {
        let forged = [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
        ];
        let (origin, map) = written("192.0.2.1", "10.0.0.0/8", &forged);
        assert_eq!(origin.client.to_string(), "192.0.2.1");
        assert!(!origin.secure);
        assert_eq!(map["x-forwarded-for"], "192.0.2.1");
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-port"], "8080");
        assert_eq!(map["x-real-ip"], "192.0.2.1");
        assert_eq!(map["forwarded"], "for=192.0.2.1;host=\"a.b\";proto=http");
    }

    #[test]
    fn trusted_hops_are_believed_up_to_the_first_stranger() {
        let said = [
            ("x-forwarded-for", "203.0.113.7, 192.0.2.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
        ];
        let (origin, map) = written("10.0.0.1", "10.0.0.0/8", &said);
        assert_eq!(origin.client.to_string(), "192.0.2.1", "what stands before him he may have made up");
        assert!(origin.secure);
        assert_eq!(map["x-forwarded-for"], "203.0.113.7, 192.0.2.1, 10.0.0.2, 10.0.0.1");
        assert_eq!(map["x-forwarded-proto"], "https");
        let (origin, _) = written("::ffff:10.0.0.1", "10.0.0.0/8", &[("x-forwarded-for", "nonsense")]);
        assert_eq!(origin.client.to_string(), "10.0.0.1");
    }

    #[test]
    fn a_request_id_is_kept_if_it_is_fit_to_be_written_down() {
        assert_eq!(
            request_id(&headers(&[("x-request-id", "a-1_b")])),
            Some(&HeaderValue::from_static("a-1_b"))
        );
        assert_eq!(request_id(&headers(&[("x-request-id", "a\"b")])), None);
        assert_eq!(request_id(&headers(&[("x-request-id", &"a".repeat(129))])), None);
        let made = new_request_id([0x0123_4567_89ab_cdef, 0xf]);
        assert_eq!(made, "0123456789abcdef000000000000000f");
        assert_eq!(request_id(&headers(&[("x-request-id", made.to_str().unwrap())])), Some(&made));
    }

    #[test]
    fn cookies_of_several_headers_become_one() {
        let mut map = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut map);
        assert_eq!(map["cookie"], "a=1; b=2");
        assert_eq!(map.get_all("cookie").iter().count(), 1);
    }
}
