//! Paths: what rules match, and the one spelling in which requests are compared with them.

use std::borrow::Cow;

use regex::Regex;

/// The paths of a rule.
#[derive(Clone, Debug)]
pub enum PathMatch {
    Exact(String),
    /// By path element: `/foo` and `/foo/` match `/foo`, `/foo/` and `/foo/bar`, not `/foobar`.
    Prefix(String),
    /// Anchored by whoever made it; precedence goes by the pattern's length.
    Regex(Regex),
    /// What no other rule matches, of any host: a default backend.
    Otherwise,
}

/// A prefix as it is kept and compared: without its closing slash, so the root is the empty one.
pub(super) fn trimmed(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// The path, and what is left of it at each of its slashes, the longest first: all that a prefix may be.
pub(super) fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let cuts = path.rmatch_indices('/').map(|(at, _)| &path[..at]);
    std::iter::once(path).chain(cuts)
}

/// The path as it is compared: unreserved characters unescaped, `.` and `..` resolved (RFC 3986 §6.2.2).
///
/// Without this `/%61dmin` and `/x/../admin` would pass by what is said about `/admin`. `None`: it leads above the root,
/// or an escape is no escape.
pub fn normal(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') && !path.contains("/.") {
        return Some(Cow::Borrowed(path));
    }
    let unescaped = unescape(path)?;
    if !unescaped.contains("/.") {
        return Some(Cow::Owned(unescaped));
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut elements = unescaped.split('/').skip(1).peekable();
    while let Some(element) = elements.next() {
        let last = elements.peek().is_none();
        match element {
            "." | ".." => {
                if element == ".." {
                    kept.pop()?;
                }
                if last {
                    kept.push("");
                }
            }
            element => kept.push(element),
        }
    }
    Some(Cow::Owned(format!("/{}", kept.join("/"))))
}

fn unescape(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, escape)) = rest.split_once('%') {
        out.push_str(before);
        let digits = escape.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&digits.to_ascii_uppercase());
        }
        rest = &escape[2..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_in_one_spelling() {
        for (written, compared) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/%61dmin", Some("/admin")),
            ("/a/./b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/%2e%2E/b", Some("/b")),
            ("/a/b/..", Some("/a/")),
            ("/a/.", Some("/a/")),
            ("/.well-known/x", Some("/.well-known/x")),
            ("/a%2fb", Some("/a%2Fb")),
            ("/a//b", Some("/a//b")),
            ("/..", None),
            ("/a/../../b", None),
            ("/%zz", None),
            ("/%6", None),
            ("/%é", None),
        ] {
            assert_eq!(normal(written).as_deref(), compared, "{written}");
        }
    }

    #[test]
    fn a_prefix_may_end_at_every_slash() {
        assert_eq!(prefixes("/a/b/").collect::<Vec<_>>(), ["/a/b/", "/a/b", "/a", ""]);
        assert_eq!(prefixes("/").collect::<Vec<_>>(), ["/", ""]);
        assert_eq!(prefixes("*").collect::<Vec<_>>(), ["*"]);
    }
}
