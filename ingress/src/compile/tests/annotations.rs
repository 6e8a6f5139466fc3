//! ingress-nginx's annotations: honoured, or warned of, and never open by mistake.

use std::time::Duration;

use super::*;

fn one(key: &str, value: &str) -> Served {
    Served::new(&annotated("a", &[(key, value)], &["a.b Prefix / web"]))
}

fn filters(served: &Served) -> &[Filter] {
    &served.route("a.b/", &[]).unwrap().filters
}

#[test]
fn an_annotation_that_keeps_people_out_and_is_not_supported_closes_the_object() {
    let served = one("enable-modsecurity", "true");
    assert_eq!(served.to("a.b/"), "503");
    served.warns(&["Ingress shop/a: nginx.ingress.kubernetes.io/enable-modsecurity: not supported"]);
}

#[test]
fn snippets_and_unknown_annotations_are_warned_of() {
    one("configuration-snippet", "deny all;").warns(&["configuration-snippet: not honoured: snippets"]);
    one("proxy-buffering", "on").warns(&[]);
}

#[test]
fn a_list_of_sources_that_cannot_be_read_closes_the_object() {
    let served = one("whitelist-source-range", "10.0.0.0/8, 192.0.2.1");
    let expected = ["10.0.0.0/8", "192.0.2.1/32"].map(|net| net.parse().unwrap()).to_vec();
    assert_eq!(filters(&served), [Filter::AllowSources(expected)]);
    for key in ["whitelist-source-range", "allowlist-source-range", "denylist-source-range"] {
        let served = one(key, "10.0.0.0/8, office");
        assert_eq!(served.to("a.b/"), "503");
        served.warns(&["expected blocks of addresses such as 10.0.0.0/8"]);
    }
}

#[test]
fn a_host_with_tls_is_redirected_to_it_unless_told_otherwise() {
    let to_https = Filter::ToHttps(StatusCode::PERMANENT_REDIRECT);
    let tls = |text: String| text.replace("spec: {", "spec: { tls: [{ hosts: [a.b], secretName: s }],");
    let redirects =
        |text: &str, url: &str| Served::new(text).route(url, &[]).unwrap().filters.contains(&to_https);
    let both = ["a.b Prefix / web", "c.d Prefix / web"];
    assert!(redirects(&tls(plain("a", &both)), "a.b/"));
    assert!(!redirects(&tls(plain("a", &both)), "c.d/"));
    assert!(!redirects(&tls(annotated("a", &[("ssl-redirect", "false")], &both)), "a.b/"));
    assert!(redirects(&annotated("a", &[("force-ssl-redirect", "true")], &both), "c.d/"));
    let elsewhere = tls(plain("a", &["a.b Prefix / web"])) + &plain("b", &["a.b Prefix /x web"]);
    assert!(redirects(&elsewhere, "a.b/x"), "the host has a certificate, whoever asked for it");
}

#[test]
fn a_rewrite_fills_in_the_groups_of_the_path() {
    let served = Served::new(&annotated(
        "a",
        &[("rewrite-target", "/$2")],
        &["a.b ImplementationSpecific /api(/|$)(.*) api"],
    ));
    let rewritten = |path: &str| match &served.route(&format!("a.b{path}"), &[])?.filters[..] {
        [Filter::Rewrite(rewrite)] => rewrite.apply(path),
        other => panic!("{other:?}"),
    };
    assert_eq!(rewritten("/api/v1/x").as_deref(), Some("/v1/x"));
    assert_eq!(rewritten("/API").as_deref(), Some("/"));
    assert_eq!(rewritten("/apis"), None);
    let served = Served::new(&annotated("a", &[("rewrite-target", "/new")], &["a.b Prefix /old web"]));
    match filters_of(&served, "a.b/old/x") {
        [Filter::Rewrite(rewrite)] => assert_eq!(rewrite.apply("/old/x").as_deref(), Some("/new")),
        other => panic!("{other:?}"),
    }
}

fn filters_of<'a>(served: &'a Served, url: &str) -> &'a [Filter] {
    &served.route(url, &[]).unwrap().filters
}

#[test]
fn a_pattern_that_is_none_is_left_out_with_its_reason() {
    let served = Served::new(&annotated(
        "a",
        &[("use-regex", "true")],
        &["a.b ImplementationSpecific /x(?!y) web", "a.b ImplementationSpecific /[0-9]+/z web"],
    ));
    assert_eq!(served.to("a.b/12/z/more"), "shop/web:80");
    assert_eq!(served.to("a.b/xz"), "404");
    served.warns(&["spec.rules[0].http.paths[0].path: \"/x(?!y)\" is no regular expression of linear time"]);
}

#[test]
fn time_outs_sizes_and_protocols_have_their_units() {
    let limits = |key: &str, value: &str| one(key, value).route("a.b/", &[]).unwrap().limits;
    assert_eq!(limits("proxy-connect-timeout", "7").connect, Duration::from_secs(7));
    assert_eq!(limits("proxy-read-timeout", "3600").read, Duration::from_secs(3600));
    assert_eq!(limits("proxy-send-timeout", "3").send, Duration::from_secs(3));
    assert_eq!(limits("proxy-body-size", "8m").body, Some(8 << 20));
    assert_eq!(limits("proxy-body-size", "0").body, None);
    one("proxy-body-size", "8 MB").warns(&["proxy-body-size: \"8 MB\": expected bytes such as 8m"]);
    one("proxy-read-timeout", "60s").warns(&["expected seconds, 1 or more, without a unit"]);
    for (value, protocol) in [
        ("HTTP", Protocol::Http),
        ("https", Protocol::Https),
        ("GRPC", Protocol::H2c),
        ("H2C", Protocol::H2c),
        ("GRPCS", Protocol::Grpcs),
    ] {
        assert_eq!(one("backend-protocol", value).compiled.clusters[0].protocol, protocol);
    }
    one("backend-protocol", "FCGI").warns(&["\"FCGI\": expected HTTP, HTTPS, GRPC, GRPCS or H2C"]);
}

#[test]
fn redirects_and_the_apps_root_have_their_own_status() {
    let status = |annotations: &[(&str, &str)]| {
        let served = Served::new(&annotated("a", annotations, &["a.b Prefix / web"]));
        match filters(&served) {
            [Filter::Redirect { status, location }] => {
                (status.as_u16(), location.constant().unwrap().to_owned())
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(status(&[("permanent-redirect", "https://c.d/")]), (301, "https://c.d/".into()));
    assert_eq!(status(&[("permanent-redirect", "https://c.d/"), ("permanent-redirect-code", "308")]).0, 308);
    assert_eq!(status(&[("temporal-redirect", "https://c.d/")]).0, 302);
    one("permanent-redirect", "https://c.d$request")
        .warns(&["permanent-redirect: \"https://c.d$request\": there is no variable $request"]);
    assert_eq!(filters(&one("app-root", "/app")), [Filter::AppRoot("/app".into())]);
    one("app-root", "app").warns(&["app-root: \"app\": expected a path such as /app"]);
}

#[test]
fn an_alias_is_another_host_of_every_rule() {
    let served = one("server-alias", "www.a.b, *.c");
    for url in ["a.b/", "www.a.b/", "x.c/"] {
        assert_eq!(served.to(url), "shop/web:80", "{url}");
    }
    assert_eq!(served.to("other/"), "404");
}

#[test]
fn a_canary_takes_its_part_of_the_paths_that_it_shares() {
    let main = plain("main", &["a.b Prefix / web"]);
    let canary = |annotations: &[(&str, &str)]| {
        let all = [&[("canary", "true")], annotations].concat();
        Served::new(&(main.clone() + &annotated("canary", &all, &["a.b Prefix / api"])))
    };
    assert_eq!(canary(&[("canary-weight", "10")]).to("a.b/"), "shop/web:80*90 shop/api:80*10");

    let served = canary(&[("canary-by-header", "x-canary"), ("canary-by-cookie", "canary")]);
    for (header, value, to) in [
        ("x-canary", "always", "shop/api:80"),
        ("x-canary", "never", "shop/web:80"),
        ("x-canary", "other", "shop/web:80*100 shop/api:80*0"),
        ("cookie", "canary=always", "shop/api:80"),
        ("cookie", "canary=never", "shop/web:80"),
    ] {
        assert_eq!(served.to_with("a.b/", &[(header, value)]), to, "{header}: {value}");
    }
    let both = [("x-canary", "never"), ("cookie", "canary=always")];
    assert_eq!(served.to_with("a.b/", &both), "shop/web:80", "the header goes before the cookie");

    let served = canary(&[("canary-by-header", "x"), ("canary-by-header-pattern", "eu-[0-9]+")]);
    assert_eq!(served.to_with("a.b/", &[("x", "eu-12")]), "shop/api:80");
    assert_eq!(served.to_with("a.b/", &[("x", "eu-12x")]), "shop/web:80*100 shop/api:80*0");

    let alone = Served::new(&annotated("canary", &[("canary", "true")], &["a.b Prefix / api"]));
    assert_eq!(alone.to("a.b/"), "404");
    alone.warns(&["a canary of a path that no other object has"]);
}

#[test]
fn affinity_is_a_cookie_with_the_attributes_asked_for() {
    let served = Served::new(&annotated(
        "a",
        &[
            ("affinity", "cookie"),
            ("session-cookie-name", "route"),
            ("session-cookie-max-age", "60"),
            ("session-cookie-samesite", "Lax"),
        ],
        &["a.b Prefix / web"],
    ));
    let affinity = served.route("a.b/", &[]).unwrap().affinity.clone().unwrap();
    assert_eq!(affinity.cookie, "route");
    assert_eq!(affinity.attributes, "; Path=/; HttpOnly; Max-Age=60; SameSite=Lax");
    one("session-cookie-name", "a b").warns(&["session-cookie-name: \"a b\": expected a cookie's name"]);
}

#[test]
fn what_is_wrong_with_pages_retries_and_balance_is_told_and_left_out() {
    for (key, value, said) in [
        ("custom-http-errors", "404,many", "expected statuses from 300 to 599"),
        ("custom-http-errors", "404", "there is no default-backend, and no --default-backend: errors stay"),
        ("default-backend", "none", "there is no Service shop/none: errors stay as they are"),
        ("default-backend", "a/b", "expected the name of a Service"),
        ("proxy-next-upstream", "error http_418", "expected off, or some of error, timeout"),
        ("proxy-next-upstream-tries", "few", "expected a number, 0 or more"),
        ("proxy-next-upstream-timeout", "5s", "expected seconds, or 0 for no bound"),
        ("load-balance", "chance", "expected round_robin, ewma or least_request"),
        ("upstream-hash-by", "$nothing", "there is no variable $nothing"),
        ("from-to-www-redirect", "yes", "expected \"true\" or \"false\""),
        ("backend-protocol", "FCGI", "expected HTTP, HTTPS, GRPC, GRPCS or H2C"),
        ("mirror-target", "https://x$request_uri", "not honoured"),
    ] {
        let served = one(key, value);
        served.warns(&[&format!("nginx.ingress.kubernetes.io/{key}: ")]);
        assert!(served.warnings()[0].contains(said), "{key}: {:?}", served.warnings());
        assert_eq!(served.to("a.b/"), "shop/web:80", "{key}: nothing else is harmed");
    }
}

#[test]
fn retries_are_read_in_nginxs_words() {
    let retries = |annotations: &[(&str, &str)]| {
        let served = Served::new(&annotated("a", annotations, &["a.b Prefix / web"]));
        served.warns(&[]);
        served.route("a.b/", &[]).unwrap().retries.as_deref().cloned()
    };
    assert_eq!(retries(&[]), None);
    let said =
        retries(&[("proxy-next-upstream", "error timeout http_502"), ("proxy-next-upstream-tries", "2")])
            .unwrap();
    assert!(said.error && said.timeout && !said.off && !said.any_method);
    assert_eq!((said.tries, said.statuses.len(), said.within), (Some(2), 1, None));
    assert!(retries(&[("proxy-next-upstream", "off")]).unwrap().off);
    let bound = retries(&[("proxy-next-upstream-timeout", "3")]).unwrap();
    assert_eq!((bound.within, bound.error), (Some(Duration::from_secs(3)), false));
}

#[test]
fn how_nginx_would_hold_things_is_of_no_matter_and_ours_may_have_our_own_prefix() {
    for (key, value) in
        [("proxy-buffer-size", "8k"), ("proxy-request-buffering", "on"), ("load-balance", "ewma")]
    {
        one(key, value).warns(&[]);
    }
    let text = annotated("a", &[("load-balance", "least_request")], &["a.b Prefix / web"])
        .replace("nginx.ingress.kubernetes.io", "weir.dev");
    let served = Served::new(&text);
    served.warns(&[]);
    assert_eq!(filters(&served), [Filter::LeastRequests]);
}
