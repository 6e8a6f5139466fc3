//! The specification's matching rules, read aloud: every rule is looked at, and the best of those that match wins.
//!
//! Shares nothing with the table but the types of its input.

use super::{Asked, Host, PathMatch, Rule};

/// Which rule takes the request, as its place in `rules`.
pub(super) fn find<R>(rules: &[Rule<R>], asked: &Asked<'_>) -> Option<usize> {
    let mut best: Option<(Rank, usize)> = None;
    for (index, rule) in rules.iter().enumerate() {
        let Some(rank) = rank(rule, asked) else { continue };
        // Of equals the older one stays.
        if best.as_ref().is_none_or(|(other, _)| rank > *other) {
            best = Some((rank, index));
        }
    }
    best.map(|(_, index)| index)
}

/// Greater is better: a rule before a default, the closer host, exact, the longer path, the pattern, more conditions.
type Rank = (bool, u8, bool, usize, bool, (bool, usize, usize, usize));

fn rank<R>(rule: &Rule<R>, asked: &Asked<'_>) -> Option<Rank> {
    let host = match &rule.host {
        Host::Exact(name) if name == asked.host => 2,
        Host::Wildcard(suffix) => {
            let (label, rest) = asked.host.split_once('.')?;
            if label.is_empty() || rest != suffix {
                return None;
            }
            1
        }
        Host::Any => 0,
        Host::Exact(_) => return None,
    };
    let (is_rule, exact, len, pattern) = match &rule.path {
        PathMatch::Exact(path) if path == asked.path => (true, true, path.len(), false),
        PathMatch::Exact(_) => return None,
        PathMatch::Prefix(prefix) => {
            let wanted = elements(prefix.strip_suffix('/').unwrap_or(prefix));
            let given = elements(asked.path);
            if !asked.path.starts_with('/') || !given.starts_with(&wanted) {
                return None;
            }
            (true, false, prefix.strip_suffix('/').unwrap_or(prefix).len(), false)
        }
        PathMatch::Regex(pattern) => {
            let found = pattern.find(asked.path).is_some_and(|found| found.start() == 0);
            if !found {
                return None;
            }
            (true, false, pattern.as_str().len(), true)
        }
        PathMatch::Otherwise => (false, false, 0, false),
    };
    let conditions = &rule.conditions;
    if is_rule {
        if conditions.method.as_ref().is_some_and(|method| method != asked.method) {
            return None;
        }
        for (name, value) in &conditions.headers {
            let super::Value::Exact(text) = value else { return None };
            if asked.headers.get(name).is_none_or(|given| given != text.as_str()) {
                return None;
            }
        }
    }
    let more = (
        conditions.method.is_some(),
        conditions.headers.len(),
        conditions.query.len(),
        conditions.cookies.len(),
    );
    let more = if is_rule { more } else { (false, 0, 0, 0) };
    Some((is_rule, host, exact, len, pattern, more))
}

/// `/a/b` is `a`, `b`; the root is none.
fn elements(path: &str) -> Vec<&str> {
    path.split('/').skip(1).collect()
}
