//! Text with nginx's variables, as annotations have it: `https://$host/oauth2/start?rd=$escaped_request_uri`.

use std::fmt::Write as _;
use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, Uri};

use crate::route::cookie;

/// Text, and what of a request is put between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    Host,
    HttpHost,
    RequestUri,
    EscapedRequestUri,
    Uri,
    Args,
    Scheme,
    Method,
    Client,
    RequestId,
    Header(HeaderName),
    Cookie(String),
    Argument(String),
}

/// What variables stand for.
#[derive(Clone, Copy, Debug)]
pub struct Variables<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    /// In the spelling of the table.
    pub path: &'a str,
    pub host: &'a str,
    pub headers: &'a HeaderMap,
    pub client: IpAddr,
    /// Over TLS, as far as the client is concerned.
    pub secure: bool,
    pub id: &'a str,
}

/// Whose word the authority of a URL is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The object's.
    Fixed,
    /// The host that the request asks for.
    OfRequest,
    /// Whatever a client writes elsewhere in its request.
    Anyones,
}

impl Template {
    /// The error says which variable is not known here.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            let (name, left) = match after.strip_prefix('{') {
                Some(braced) => {
                    braced.split_once('}').ok_or("a `${` without its `}`: expected for example ${host}")?
                }
                None => {
                    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
                    after.split_at(after.bytes().take_while(is_name).count())
                }
            };
            parts.push(Part::Variable(Variable::parse(name)?));
            rest = left;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Self { parts })
    }

    /// Whether it begins with this text, whatever the request.
    pub fn starts_with(&self, text: &str) -> bool {
        matches!(self.parts.first(), Some(Part::Text(first)) if first.starts_with(text))
    }

    /// Whether its own text, without what is put between, has this in one piece.
    pub fn contains(&self, text: &str) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Text(own) if own.contains(text)))
    }

    /// The text, if it has no variables.
    pub fn constant(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Who decides about the authority of the URL that it is.
    pub fn authority(&self) -> Authority {
        let mut found = Authority::Fixed;
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                Part::Text(text) => {
                    let rest =
                        if index == 0 { text.split_once("://").map_or("", |(_, rest)| rest) } else { text };
                    if rest.contains(['/', '?', '#']) {
                        break;
                    }
                }
                Part::Variable(Variable::Host) => found = Authority::OfRequest,
                Part::Variable(_) => return Authority::Anyones,
            }
        }
        found
    }

    /// `http://auth.shop.svc:8080` of a URL whose authority is fixed.
    pub fn origin(&self) -> Option<&str> {
        let Some(Part::Text(text)) = self.parts.first().filter(|_| self.authority() == Authority::Fixed)
        else {
            return None;
        };
        let begin = text.find("://")? + 3;
        let end = text[begin..].find(['/', '?', '#']).map_or(text.len(), |at| begin + at);
        Some(&text[..end])
    }

    /// The text for one request.
    pub fn fill(&self, of: &Variables<'_>) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variable(variable) => variable.write(of, &mut out),
            }
        }
        out
    }

    /// The same with more text behind it.
    #[must_use]
    pub fn followed_by(mut self, more: Self) -> Self {
        self.parts.extend(more.parts);
        self
    }
}

impl Variable {
    fn parse(name: &str) -> Result<Self, String> {
        let header = |name: &str| {
            HeaderName::try_from(name.replace('_', "-"))
                .map(Self::Header)
                .map_err(|_| format!("$http_{name} names no header"))
        };
        Ok(match name {
            "host" | "best_http_host" | "server_name" => Self::Host,
            "http_host" => Self::HttpHost,
            "request_uri" => Self::RequestUri,
            "escaped_request_uri" => Self::EscapedRequestUri,
            "uri" | "document_uri" => Self::Uri,
            "args" | "query_string" => Self::Args,
            "scheme" | "pass_access_scheme" => Self::Scheme,
            "request_method" => Self::Method,
            "remote_addr" | "binary_remote_addr" | "the_real_ip" => Self::Client,
            "req_id" | "request_id" => Self::RequestId,
            _ => match name.split_once('_') {
                Some(("http", name)) if !name.is_empty() => return header(name),
                Some(("cookie", name)) if !name.is_empty() => Self::Cookie(name.into()),
                Some(("arg", name)) if !name.is_empty() => Self::Argument(name.into()),
                _ => {
                    return Err(format!(
                        "there is no variable ${name}: expected $host, $http_host, $request_uri, $escaped_request_uri, $uri, \
                         $args, $scheme, $request_method, $remote_addr, $request_id, $http_NAME, $cookie_NAME or $arg_NAME"
                    ));
                }
            },
        })
    }

    fn write(&self, of: &Variables<'_>, out: &mut String) {
        let request_uri = || of.uri.path_and_query().map_or("/", |uri| uri.as_str());
        let header = |name: &HeaderName| of.headers.get(name).and_then(|value| value.to_str().ok());
        let text = match self {
            Self::Host => of.host,
            Self::HttpHost => {
                of.uri.authority().map(|it| it.as_str()).or_else(|| header(&header::HOST)).unwrap_or(of.host)
            }
            Self::RequestUri => request_uri(),
            Self::EscapedRequestUri => return escape(request_uri(), out),
            Self::Uri => of.path,
            Self::Args => of.uri.query().unwrap_or_default(),
            Self::Scheme => {
                if of.secure {
                    "https"
                } else {
                    "http"
                }
            }
            Self::Method => of.method.as_str(),
            // Writing to a string does not fail.
            Self::Client => return write!(out, "{}", of.client).unwrap_or_default(),
            Self::RequestId => of.id,
            Self::Header(name) => header(name).unwrap_or_default(),
            Self::Cookie(name) => cookie(of.headers, name).unwrap_or_default(),
            Self::Argument(name) => {
                let mut pairs = of.uri.query().unwrap_or_default().split('&');
                let found = pairs.find_map(|pair| pair.strip_prefix(name.as_str())?.strip_prefix('='));
                found.unwrap_or_default()
            }
        };
        out.push_str(text);
    }
}

/// Everything but unreserved characters becomes `%XX`.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn filled(text: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("A.b:8080"));
        headers.insert("x-user", HeaderValue::from_static("ann"));
        headers.insert("cookie", HeaderValue::from_static("a=1; b=2"));
        let uri: Uri = "/x%20y/./z?q=1&r=2".parse().unwrap();
        Template::parse(text).unwrap().fill(&Variables {
            method: &Method::GET,
            uri: &uri,
            path: "/x%20y/z",
            host: "a.b",
            headers: &headers,
            client: "192.0.2.1".parse().unwrap(),
            secure: true,
            id: "id-1",
        })
    }

    #[test]
    fn variables_are_filled_in() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("$scheme://$http_host$request_uri", "https://A.b:8080/x%20y/./z?q=1&r=2"),
            (
                "https://${host}x?rd=$escaped_request_uri",
                "https://a.bx?rd=%2Fx%2520y%2F.%2Fz%3Fq%3D1%26r%3D2",
            ),
            ("$uri $args $request_method $remote_addr $req_id", "/x%20y/z q=1&r=2 GET 192.0.2.1 id-1"),
            ("$http_x_user/$http_x_none/$cookie_b/$arg_r/$arg_s", "ann//2/2/"),
        ] {
            assert_eq!(filled(text), expected, "{text}");
        }
    }

    #[test]
    fn whose_word_an_authority_is_is_known() {
        for (text, authority) in [
            ("http://auth.default.svc/check?u=$http_x", Authority::Fixed),
            ("https://$host/oauth2/auth", Authority::OfRequest),
            ("https://auth.${host}:8443/$uri", Authority::OfRequest),
            // With a port that is the client's to choose.
            ("https://$http_host/oauth2/auth", Authority::Anyones),
            ("http://$http_x_auth/", Authority::Anyones),
            ("http://auth$arg_x", Authority::Anyones),
        ] {
            assert_eq!(Template::parse(text).unwrap().authority(), authority, "{text}");
        }
    }

    #[test]
    fn a_variable_that_is_not_known_is_named() {
        for (text, said) in
            [("$geoip_city", "$geoip_city"), ("a$", "variable $:"), ("${host", "without its `}`")]
        {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(said) && error.contains("expected"), "{error}");
        }
    }
}
