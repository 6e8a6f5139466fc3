//! The rules of precedence, one by one, and the table beside the oracle over random tables and requests.

use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use regex::Regex;

use super::*;

/// `HOST PATHTYPE PATH`, host `-` for any; targets are the lines' numbers.
fn rules(text: &str) -> Vec<Rule<usize>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .enumerate()
        .map(|(target, line)| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let path = match words[1..] {
                ["exact", path] => PathMatch::Exact(path.into()),
                ["prefix", path] => PathMatch::Prefix(path.into()),
                ["regex", path] => PathMatch::Regex(Regex::new(&format!("^{path}")).unwrap()),
                ["otherwise"] => PathMatch::Otherwise,
                _ => panic!("{line}"),
            };
            let host = Host::parse(words[0].strip_prefix('-').unwrap_or(words[0])).unwrap();
            Rule { host, path, conditions: Conditions::default(), target }
        })
        .collect()
}

#[track_caller]
fn check(text: &str, requests: &[(&str, &str, Option<usize>)]) {
    let rules = rules(text);
    let table = Table::new(rules.clone());
    let headers = HeaderMap::new();
    for (host, path, expected) in requests {
        let asked = Asked { host, path, query: None, method: &Method::GET, headers: &headers };
        assert_eq!(table.find(&asked).copied(), *expected, "{host}{path}");
        assert_eq!(oracle::find(&rules, &asked), *expected, "the oracle on {host}{path}");
    }
}

#[test]
fn an_exact_path_matches_itself_alone() {
    check(
        "- exact /foo",
        &[("a", "/foo", Some(0)), ("a", "/foo/", None), ("a", "/foo/bar", None), ("a", "/FOO", None)],
    );
}

#[test]
fn a_prefix_matches_by_path_element() {
    let requests: &[_] = &[
        ("a", "/foo", Some(0)),
        ("a", "/foo/", Some(0)),
        ("a", "/foo/bar", Some(0)),
        ("a", "/foobar", None),
        ("a", "/", None),
    ];
    check("- prefix /foo", requests);
    check("- prefix /foo/", requests);
}

#[test]
fn the_root_as_a_prefix_matches_every_path() {
    check("- prefix /", &[("a", "/", Some(0)), ("a", "/x", Some(0)), ("a", "//", Some(0)), ("a", "*", None)]);
}

#[test]
fn the_longest_path_wins_whichever_stands_first() {
    let requests: &[_] = &[("a", "/a/b/c", Some(1)), ("a", "/a/c", Some(0)), ("a", "/c", Some(2))];
    check("- prefix /a \n - prefix /a/b \n - prefix /", requests);
}

#[test]
fn exact_goes_before_prefix() {
    check("- prefix /foo \n - exact /foo", &[("a", "/foo", Some(1)), ("a", "/foo/", Some(0))]);
    check("- prefix /foo/ \n - exact /foo/", &[("a", "/foo/", Some(1)), ("a", "/foo", Some(0))]);
}

#[test]
fn an_exact_host_goes_before_a_wildcard_and_a_wildcard_before_no_host() {
    check(
        "- prefix / \n *.b.c prefix / \n a.b.c prefix /",
        &[
            ("a.b.c", "/", Some(2)),
            ("x.b.c", "/", Some(1)),
            ("b.c", "/", Some(0)),
            ("x.y.b.c", "/", Some(0)),
            ("", "/", Some(0)),
        ],
    );
}

#[test]
fn a_close_host_without_the_path_leaves_the_request_to_the_next() {
    check(
        "- prefix /x \n *.b.c prefix /y \n a.b.c prefix /z",
        &[("a.b.c", "/z", Some(2)), ("a.b.c", "/y", Some(1)), ("a.b.c", "/x", Some(0)), ("a.b.c", "/", None)],
    );
}

#[test]
fn a_default_takes_what_no_rule_of_any_host_matches() {
    check(
        "- otherwise \n a.b.c otherwise \n - prefix /x \n a.b.c prefix /z",
        &[
            ("a.b.c", "/z", Some(3)),
            ("a.b.c", "/x", Some(2)),
            ("a.b.c", "/", Some(1)),
            ("other", "/", Some(0)),
            ("a.b.c", "*", Some(1)),
        ],
    );
}

#[test]
fn of_two_rules_that_ask_for_the_same_the_older_wins() {
    check("a.b prefix /x \n a.b prefix /x/", &[("a.b", "/x", Some(0))]);
    check("- otherwise \n - otherwise", &[("a.b", "/x", Some(0))]);
}

#[test]
fn patterns_stand_among_prefixes_by_length() {
    check(
        "- prefix /api \n - regex /api/v[0-9]+ \n - prefix /api/v1/very/long/path",
        &[
            ("a", "/api/v2/x", Some(1)),
            ("a", "/api/x", Some(0)),
            ("a", "/api/v1/very/long/path/x", Some(2)),
            ("a", "/other", None),
        ],
    );
}

#[test]
fn more_conditions_go_before_fewer_and_all_must_hold() {
    let header = |name: &str, value: &str| (HeaderName::try_from(name).unwrap(), Value::Exact(value.into()));
    let rule = |conditions, target| Rule {
        host: Host::Any,
        path: PathMatch::Prefix("/".into()),
        conditions,
        target,
    };
    let table = Table::new([
        rule(Conditions::default(), "plain"),
        rule(
            Conditions { cookies: vec![("c".into(), Value::Exact("1".into()))], ..Default::default() },
            "cookie",
        ),
        rule(
            Conditions { query: vec![("q".into(), Value::Exact("1".into()))], ..Default::default() },
            "query",
        ),
        rule(Conditions { headers: vec![header("x", "1")], ..Default::default() }, "header"),
        rule(
            Conditions { headers: vec![header("x", "1"), header("y", "1")], ..Default::default() },
            "headers",
        ),
        rule(Conditions { method: Some(Method::POST), ..Default::default() }, "method"),
    ]);
    let find = |method: Method, query: Option<&str>, pairs: &[(&str, &str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        *table.find(&Asked { host: "a", path: "/x", query, method: &method, headers: &headers }).unwrap()
    };
    assert_eq!(find(Method::GET, None, &[]), "plain");
    assert_eq!(find(Method::GET, None, &[("cookie", "b=2; c=1")]), "cookie");
    assert_eq!(find(Method::GET, Some("a=b&q=1&q=2"), &[("cookie", "c=1")]), "query");
    assert_eq!(find(Method::GET, Some("q=2&q=1"), &[]), "plain", "the first parameter counts");
    assert_eq!(find(Method::GET, Some("q=1"), &[("x", "1")]), "header");
    assert_eq!(find(Method::GET, None, &[("x", "1"), ("y", "1")]), "headers");
    assert_eq!(find(Method::GET, None, &[("x", "1"), ("x", "2")]), "plain", "twice is a list");
    assert_eq!(find(Method::POST, None, &[("x", "1")]), "method");
}

fn host_of_rule() -> impl Strategy<Value = Host> {
    prop_oneof![
        "(a|b)\\.(a|b)".prop_map(Host::Exact),
        "(a|b)".prop_map(Host::Wildcard),
        "(a|b)\\.(a|b)".prop_map(Host::Wildcard),
        Just(Host::Any),
    ]
}

fn path_of_rule() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        4 => "(/|(/(a|ab|)){1,3})".prop_map(PathMatch::Exact),
        8 => "(/|(/(a|ab|)){1,3})".prop_map(PathMatch::Prefix),
        2 => "\\^(/a\\+|/\\[ab\\]/|/ab/a)".prop_map(|text| PathMatch::Regex(Regex::new(&text).unwrap())),
        1 => Just(PathMatch::Otherwise),
    ]
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let header = prop::sample::select(vec!["x-a", "x-b"]);
    let method = prop::option::weighted(0.2, prop::sample::select(vec![Method::GET, Method::POST]));
    (method, prop::collection::vec((header, "[12]"), 0..2)).prop_map(|(method, headers)| Conditions {
        method,
        headers: headers
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), Value::Exact(value)))
            .collect(),
        ..Default::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_table_answers_as_the_specification_read_aloud(
        rules in prop::collection::vec((host_of_rule(), path_of_rule(), conditions()), 0..12),
        requests in prop::collection::vec(
            ("(a|b)(\\.(a|b)){0,2}", "(/(a|ab|)){1,4}", "[12]", "[12]", any::<bool>()), 1..12),
    ) {
        let rules: Vec<Rule<usize>> = rules
            .into_iter()
            .enumerate()
            .map(|(target, (host, path, conditions))| Rule { host, path, conditions, target })
            .collect();
        let table = Table::new(rules.clone());
        for (host, path, a, b, post) in &requests {
            let mut headers = HeaderMap::new();
            headers.insert("x-a", HeaderValue::from_str(a).unwrap());
            headers.insert("x-b", HeaderValue::from_str(b).unwrap());
            let method = if *post { Method::POST } else { Method::GET };
            let asked = Asked { host, path, query: None, method: &method, headers: &headers };
            prop_assert_eq!(table.find(&asked).copied(), oracle::find(&rules, &asked), "{}{}", host, path);
        }
    }
}
