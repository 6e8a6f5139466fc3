//! What a selector that matches nothing was probably meant to be.

use std::collections::BTreeSet;

use crate::selector::{Labels, Selector, Test};
use crate::spelling;

/// The requirement that keeps a selector from matching, and what would be right.
pub(super) struct Hint {
    /// The label's key; absent where all requirements are to blame together.
    pub key: Option<String>,
    /// `no pod of namespace shop has app=wbe`.
    pub wrong: String,
    pub right: String,
    /// Another spelling would match.
    pub is_slip: bool,
}

/// Why `selector` matches none of these; `who` is what they are: `pod of namespace shop`.
pub(super) fn hint(selector: &Selector, labels: &[&Labels], who: &str) -> Hint {
    for requirement in &selector.requirements {
        if labels.iter().any(|labels| requirement.holds(labels)) {
            continue;
        }
        let key = &requirement.key;
        let wrong = format!("no {who} has {}", crate::explain::requirement(requirement));
        let seen: BTreeSet<&str> = labels.iter().filter_map(|labels| labels.get(key)).collect();
        let wanted: Vec<&str> = match &requirement.test {
            Test::In(values) => values.iter().map(String::as_str).collect(),
            Test::NotIn(_) | Test::Exists | Test::DoesNotExist => Vec::new(),
        };
        let near = |value: &&&str| wanted.iter().any(|wanted| spelling::is_near(wanted, value));
        let slip = seen.iter().find(near).map(|value| format!("{key}={value}"));
        let slip = slip.or_else(|| if seen.is_empty() { other_key(key, &wanted, labels) } else { None });
        let is_slip = slip.is_some();
        let right = slip.map(|slip| format!("did you mean {slip}?")).unwrap_or_else(|| {
            let values = shown(seen.iter().map(|value| format!("{key}={value}")).collect());
            match (seen.is_empty(), keys(labels)) {
                (false, _) => format!("expected one of {values}"),
                (true, keys) if keys.is_empty() => "they have no labels at all".to_owned(),
                (true, keys) => format!("their labels are {}", shown(keys)),
            }
        });
        return Hint { key: Some(key.clone()), wrong, right, is_slip };
    }
    Hint {
        key: None,
        wrong: format!("no {who} has all of {}", crate::explain::selector(selector)),
        right: "each of these labels is there, but not on one and the same: leave out what is not meant"
            .to_owned(),
        is_slip: false,
    }
}

/// A label whose key is another spelling, or another key's label with the value that was wanted.
fn other_key(key: &str, wanted: &[&str], labels: &[&Labels]) -> Option<String> {
    let all = || labels.iter().flat_map(|labels| labels.iter());
    let has_value = |value: &str| wanted.contains(&value);
    let near =
        all().find(|(other, value)| spelling::is_near(other, key) && (wanted.is_empty() || has_value(value)));
    let same_value = || all().find(|(_, value)| has_value(value));
    near.or_else(same_value).map(|(other, value)| format!("{other}={value}"))
}

fn keys(labels: &[&Labels]) -> Vec<String> {
    let keys: BTreeSet<&str> = labels.iter().flat_map(|labels| labels.iter()).map(|(key, _)| key).collect();
    keys.into_iter().map(str::to_owned).collect()
}

/// The first few.
pub(super) fn shown(mut texts: Vec<String>) -> String {
    const MOST: usize = 6;
    let more = texts.len().saturating_sub(MOST);
    texts.truncate(MOST);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", texts.join(", "))
}
