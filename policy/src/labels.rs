//! The labels of an object, as small as they can be kept: a node keeps those of every pod in the cluster.
//!
//! One text, in which a unique label costs what it is long and two bytes more. Labels are looked at when something changes,
//! a dozen at a time: nothing is gained by a tree of them.

use std::collections::BTreeMap;
use std::fmt;

/// Keys and values, in order of key.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    /// For each: the length of the key, the length of the value, both themselves.
    text: Box<str>,
}

impl Labels {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(other, _)| *other == key).map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.text }
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        let mut text = String::new();
        for (key, value) in labels {
            put_length(&mut text, key.len());
            put_length(&mut text, value.len());
            text.push_str(&key);
            text.push_str(&value);
        }
        Self { text: text.into_boxed_str() }
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(labels: I) -> Self {
        Self::from(labels.into_iter().collect::<BTreeMap<_, _>>())
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

pub(crate) struct Iter<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = take_length(self.rest)?;
        let (value, rest) = take_length(rest)?;
        let (key, rest) = rest.split_at_checked(key)?;
        let (value, rest) = rest.split_at_checked(value)?;
        self.rest = rest;
        Some((key, value))
    }
}

/// Six bits a character, the lowest first; this one says that there are more.
const MORE: u8 = 0x40;

fn put_length(text: &mut String, length: usize) {
    let mut rest = length;
    loop {
        let digit = (rest % usize::from(MORE)) as u8;
        rest /= usize::from(MORE);
        text.push(char::from(if rest > 0 { digit | MORE } else { digit }));
        if rest == 0 {
            return;
        }
    }
}

fn take_length(text: &str) -> Option<(usize, &str)> {
    let digits = 1 + text.bytes().position(|byte| byte & MORE == 0)?;
    let (digits, rest) = text.split_at_checked(digits)?;
    let length =
        digits.bytes().rev().fold(0, |length, byte| length * usize::from(MORE) + usize::from(byte % MORE));
    Some((length, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::arbitrary::config;

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn labels_are_what_they_were_made_of(
            labels in prop::collection::btree_map(".{0,80}", ".{0,5000}", 0..6), other in ".{0,3}",
        ) {
            let kept = Labels::from(labels.clone());
            let read: BTreeMap<String, String> =
                kept.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            prop_assert_eq!(&read, &labels);
            for (key, value) in &labels {
                prop_assert_eq!(kept.get(key), Some(value.as_str()));
            }
            prop_assert_eq!(kept.get(&other), labels.get(&other).map(String::as_str));
        }
    }
}
