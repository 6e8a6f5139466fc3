//! The annotations of one object as they are read: each taken out once, so that what is left was not honoured.

use std::collections::BTreeMap;

use hyper::header::HeaderValue;

use super::{Template, Warner};

/// Ours go before ingress-nginx's of the same name; what nginx has no word for is written with ours alone.
const PREFIXES: [&str; 2] = ["nginx.ingress.kubernetes.io/", "weir.dev/"];

pub(super) struct Reader<'a, 'w> {
    /// By the name without its prefix: the whole name, and the value.
    values: BTreeMap<&'a str, (&'a str, &'a str)>,
    warner: &'a mut Warner<'w>,
    closed: Option<String>,
}

impl<'a, 'w> Reader<'a, 'w> {
    pub(super) fn new(annotations: &'a BTreeMap<String, String>, warner: &'a mut Warner<'w>) -> Self {
        let mut values = BTreeMap::new();
        for prefix in PREFIXES {
            values.extend(annotations.iter().filter_map(|(name, value)| {
                Some((name.strip_prefix(prefix)?, (name.as_str(), value.trim())))
            }));
        }
        Self { values, warner, closed: None }
    }

    /// Takes one out: its whole name and its value.
    pub(super) fn take(&mut self, key: &str) -> Option<(String, String)> {
        self.values.remove(key).map(|(name, value)| (name.to_owned(), value.to_owned()))
    }

    /// Takes one out if it is this.
    pub(super) fn take_if(&mut self, key: &str, value: &str) {
        if self.values.get(key).is_some_and(|(_, it)| *it == value) {
            self.values.remove(key);
        }
    }

    /// As most people write it.
    pub(super) fn name(key: &str) -> String {
        format!("{}{key}", PREFIXES[0])
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// What nobody has taken.
    pub(super) fn take_rest(&mut self) -> Vec<(&'a str, &'a str)> {
        std::mem::take(&mut self.values).into_iter().map(|(key, (name, _))| (key, name)).collect()
    }

    /// `name` is the whole one.
    pub(super) fn wrong(&mut self, name: &str, message: impl Into<String>) {
        self.warner.warn(name, message);
    }

    /// Nothing of the object may be served: `why` is for the log.
    pub(super) fn close(&mut self, name: &str, message: impl std::fmt::Display, why: impl Into<String>) {
        self.wrong(name, format!("{message}; the object is refused to everyone"));
        self.closed.get_or_insert(why.into());
    }

    pub(super) fn closed(self) -> Option<String> {
        self.closed
    }

    /// A value that `parse` understands; a wrong one is warned of and as good as absent.
    pub(super) fn value<T>(
        &mut self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let (name, text) = self.take(key)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.wrong(&name, format!("{text:?}: expected {expected}; it is left out"));
        }
        parsed
    }

    /// The same for those that keep people out: a wrong one closes the object.
    pub(super) fn strict<T>(
        &mut self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let (name, text) = self.take(key)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            let why = format!("its {key} cannot be read");
            self.close(&name, format!("{text:?}: expected {expected}"), why);
        }
        parsed
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        self.value(key, "\"true\" or \"false\"", |text| text.parse().ok())
    }

    /// A number, `least` or more.
    pub(super) fn number(&mut self, key: &str, least: u32) -> Option<u32> {
        self.value(key, &format!("a number, {least} or more"), |text| {
            text.parse().ok().filter(|number| *number >= least)
        })
    }

    pub(super) fn text(&mut self, key: &str, valid: impl Fn(&str) -> bool, expected: &str) -> Option<String> {
        self.value(key, expected, |text| valid(text).then(|| text.to_owned()))
    }

    pub(super) fn header(&mut self, key: &str) -> Option<HeaderValue> {
        self.value(key, "text that a header can hold", |text| {
            HeaderValue::from_str(text).ok().filter(|value| !value.is_empty())
        })
    }

    /// Text with nginx's variables. The error says which one is not known.
    pub(super) fn template(&mut self, key: &str) -> Option<Result<Template, String>> {
        let (name, text) = self.take(key)?;
        let parsed = Template::parse(&text);
        if let Err(error) = &parsed {
            self.wrong(&name, format!("{text:?}: {error}"));
        }
        Some(parsed)
    }
}
