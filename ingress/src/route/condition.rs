//! What a rule asks of a request beside host and path.

use hyper::header::{self, HeaderName};
use hyper::{HeaderMap, Method};
use regex::Regex;

use super::Asked;

/// All of them must hold; none: any request will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    pub method: Option<Method>,
    pub headers: Vec<(HeaderName, Value)>,
    /// The first parameter of that name counts.
    pub query: Vec<(String, Value)>,
    pub cookies: Vec<(String, Value)>,
}

/// What a header, a parameter or a cookie must be.
#[derive(Clone, Debug)]
pub enum Value {
    Exact(String),
    /// Anchored by whoever made it.
    Pattern(Regex),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Pattern(one), Self::Pattern(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl Value {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Pattern(pattern) => pattern.is_match(text),
        }
    }
}

impl Conditions {
    /// Orders rules of one path: a method, then more headers, more parameters, more cookies.
    pub(super) fn specificity(&self) -> (bool, usize, usize, usize) {
        (self.method.is_some(), self.headers.len(), self.query.len(), self.cookies.len())
    }

    pub(super) fn hold(&self, asked: &Asked<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == asked.method)
            && self.headers.iter().all(|(name, value)| header_is(asked.headers, name, value))
            && self.query.iter().all(|(name, value)| {
                let mut pairs =
                    asked.query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
                pairs.find(|(key, _)| key == name).is_some_and(|(_, text)| value.matches(text))
            })
            && self
                .cookies
                .iter()
                .all(|(name, value)| cookie(asked.headers, name).is_some_and(|text| value.matches(text)))
    }
}

/// A header written several times counts as one list.
fn header_is(headers: &HeaderMap, name: &HeaderName, value: &Value) -> bool {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let Some(first) = values.next() else { return false };
    match values.next() {
        None => value.matches(first),
        Some(second) => {
            let all: Vec<&str> = [first, second].into_iter().chain(values).collect();
            value.matches(&all.join(", "))
        }
    }
}

/// The value of a cookie that the request brings.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}
