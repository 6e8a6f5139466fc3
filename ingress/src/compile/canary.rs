//! Canaries: an object that takes a part of the requests of another one's paths.

use hyper::header::HeaderName;
use regex::Regex;

use super::reader::Reader;
use crate::route::{Conditions, Value};

/// What part, from the `canary-*` annotations.
#[derive(Debug)]
pub(super) struct Canary {
    pub(super) weight: u32,
    /// Of how many; at least 1.
    pub(super) total: u32,
    /// Requests that are always its own.
    pub(super) always: Vec<Conditions>,
    /// Requests that are never its own.
    pub(super) never: Vec<Conditions>,
}

impl Canary {
    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let is_canary = reader.flag("canary").unwrap_or(false);
        let number = |text: &str| text.parse::<u32>().ok();
        let total = reader.value("canary-weight-total", "a number, 1 or more", |text| {
            number(text).filter(|total| *total > 0)
        });
        let total = total.unwrap_or(100);
        let weight = reader.value("canary-weight", &format!("a number from 0 to {total}"), |text| {
            number(text).filter(|weight| *weight <= total)
        });
        let header =
            reader.value("canary-by-header", "a header's name", |text| HeaderName::try_from(text).ok());
        let exact = reader.text("canary-by-header-value", |_| true, "text");
        let pattern =
            reader.value("canary-by-header-pattern", "a regular expression without look-around", |text| {
                Regex::new(&format!("^(?:{text})$")).ok()
            });
        let cookie = reader.text("canary-by-cookie", |text| !text.is_empty(), "a cookie's name");
        if !is_canary {
            return None;
        }
        let (mut always, mut never) = (Vec::new(), Vec::new());
        if let Some(name) = header {
            let on = |value| Conditions { headers: vec![(name.clone(), value)], ..Conditions::default() };
            match (exact, pattern) {
                (Some(exact), _) => always.push(on(Value::Exact(exact))),
                (None, Some(pattern)) => always.push(on(Value::Pattern(pattern))),
                (None, None) => {
                    always.push(on(Value::Exact("always".into())));
                    never.push(on(Value::Exact("never".into())));
                }
            }
        }
        if let Some(name) = cookie {
            let on = |value: &str| Conditions {
                cookies: vec![(name.clone(), Value::Exact(value.into()))],
                ..Conditions::default()
            };
            always.push(on("always"));
            never.push(on("never"));
        }
        Some(Self { weight: weight.unwrap_or(0), total, always, never })
    }
}
