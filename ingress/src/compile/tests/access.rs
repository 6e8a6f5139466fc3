//! Who may come and how often: read, or the object is closed.

use std::time::Duration;

use super::*;

const BASIC: [(&str, &str); 2] = [("auth-type", "basic"), ("auth-secret", "users")];

fn secret(data: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: users, namespace: shop }}\nstringData: {{ {data} }}\n"
    )
}

fn with(annotations: &[(&str, &str)], secret: &str) -> Served {
    Served::new(&(annotated("a", annotations, &["a.b Prefix / web"]) + secret))
}

fn guard(served: &Served) -> &Guard {
    served.route("a.b/", &[]).unwrap().guard.as_deref().unwrap()
}

#[track_caller]
fn closes(annotations: &[(&str, &str)], secret: &str, said: &str) {
    let served = with(annotations, secret);
    assert_eq!(served.to("a.b/"), "503", "{annotations:?}");
    served.warns(&[said]);
    assert!(served.warnings()[0].ends_with("the object is refused to everyone"), "{:?}", served.warnings());
}

#[test]
fn users_are_read_from_a_file_or_a_map_and_who_has_no_password_cannot_come() {
    let users =
        |served: &Served| guard(served).basic.as_ref().unwrap().users.keys().cloned().collect::<Vec<_>>();
    let file = r##"auth: "# staff\nann:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=:remark\n\nbob:$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/\n""##;
    let served = with(&BASIC, &secret(file));
    assert_eq!(users(&served), ["ann", "bob"]);
    served.warns(&[]);
    assert_eq!(
        guard(&served).basic.as_ref().unwrap().challenge,
        "Basic realm=\"Authentication Required\", charset=\"UTF-8\""
    );
    let map = [BASIC[0], BASIC[1], ("auth-secret-type", "auth-map"), ("auth-realm", "Our \"shop\"")];
    let served = with(&map, &secret("ann: '{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=', bob: secret"));
    assert_eq!(users(&served), ["ann"]);
    served.warns(&[
        "auth-secret: Secret shop/users: the password of \"bob\" is of a kind that is not supported",
    ]);
    assert_eq!(
        guard(&served).basic.as_ref().unwrap().challenge,
        "Basic realm=\"Our shop\", charset=\"UTF-8\""
    );
}

#[test]
fn passwords_that_cannot_be_had_close_the_object() {
    let users = secret("auth: 'ann:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE='");
    closes(&BASIC, "", "auth-secret: there is no Secret shop/users");
    closes(&BASIC, &secret("other: x"), "Secret shop/users: data has no `auth`");
    closes(&BASIC, &secret("auth: ''"), "Secret shop/users: it has no users");
    closes(&[BASIC[0]], &users, "auth-type: without auth-secret");
    closes(&[BASIC[1]], &users, "auth-secret: without auth-type");
    closes(&[("auth-type", "digest"), BASIC[1]], &users, "auth-type: \"digest\": expected \"basic\"");
    closes(&[BASIC[0], ("auth-secret", "other/users")], &users, "\"other/users\" is in another namespace");
    closes(
        &[BASIC[0], BASIC[1], ("auth-secret-type", "x")],
        &users,
        "\"x\": expected \"auth-file\" or \"auth-map\"",
    );
    closes(
        &[BASIC[0], BASIC[1], ("satisfy", "some")],
        &users,
        "satisfy: \"some\": expected \"any\" or \"all\"",
    );
    let alone = with(&[("auth-realm", "x")], "");
    assert_eq!(alone.to("a.b/"), "shop/web:80");
    alone.warns(&["auth-realm: without auth-type"]);
}

#[test]
fn where_secrets_are_not_known_what_they_say_is_left_open() {
    let settings = Settings { secrets: false, ..Settings::default() };
    Served::with(&annotated("a", &BASIC, &["a.b Prefix / web"]), &settings).warns(&[]);
}

#[test]
fn one_way_in_may_be_enough_and_a_list_of_sources_is_one_of_them() {
    let users = secret("auth: 'ann:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE='");
    let list = ("whitelist-source-range", "10.0.0.0/8");
    let served = with(&[BASIC[0], BASIC[1], list, ("satisfy", "any")], &users);
    assert!(guard(&served).any);
    assert_eq!(guard(&served).sources, Some(vec!["10.0.0.0/8".parse().unwrap()]));
    assert_eq!(served.route("a.b/", &[]).unwrap().filters, []);
    let served = with(&[BASIC[0], BASIC[1], list], &users);
    assert_eq!(guard(&served).sources, None);
    assert_eq!(served.route("a.b/", &[]).unwrap().filters.len(), 1);
    let alone = with(&[list, ("satisfy", "any")], "");
    assert_eq!(alone.route("a.b/", &[]).unwrap().filters.len(), 1, "the only way in stays one");
}

#[test]
fn a_service_that_is_asked_is_found_by_its_name() {
    let external = |url: &str| {
        let served = with(&[("auth-url", url)], "");
        served.warns(&[]);
        let external = guard(&served).external.clone().unwrap();
        external.cluster.map(|index| served.compiled.clusters[index].name.clone())
    };
    for url in ["http://api.shop/x", "http://api.shop.svc/x?y", "http://api.shop.svc.cluster.local:80"] {
        assert_eq!(external(url).as_deref(), Some("shop/api:80"), "{url}");
    }
    for url in ["http://api.shop.example.com/", "http://api/", "http://api.none/", "https://$host/auth"] {
        assert_eq!(external(url), None, "{url}");
    }
}

#[test]
fn an_auth_url_that_clients_could_choose_closes_the_object() {
    closes(&[("auth-url", "auth")], "", "auth-url: \"auth\": expected a URL");
    closes(&[("auth-url", "http://$nobody/")], "", "there is no variable $nobody");
    closes(&[("auth-url", "http://$http_x/")], "", "its host is what clients write");
    let served = Served::new(&annotated("a", &[("auth-url", "https://$host/auth")], &["- Prefix / web"]));
    assert_eq!(served.to("any.host/"), "503");
    served.warns(&["a rule without host, or with a wildcard, takes any"]);
    for (alias, host) in [("", "*.a.b"), ("*.a.b", "c.d")] {
        let annotations = [("auth-url", "https://$host/auth"), ("server-alias", alias)];
        let annotations = if alias.is_empty() { &annotations[..1] } else { &annotations };
        let served = Served::new(&annotated("a", annotations, &[&format!("{host} Prefix / web")]));
        assert_eq!(served.to("x.a.b/"), "503", "{alias:?}");
        served.warns(&["a rule without host, or with a wildcard, takes any"]);
    }
    closes(&[("auth-url", "http://a.b/"), ("auth-method", "get it")], "", "auth-method: \"get it\"");
    closes(
        &[("auth-url", "http://a.b/"), ("auth-response-headers", "a b")],
        "",
        "auth-response-headers: \"a b\"",
    );
}

#[test]
fn the_page_to_sign_in_learns_where_to_go_back_to() {
    let signin = |annotations: &[(&str, &str)]| {
        let all = [&[("auth-url", "http://x/")], annotations].concat();
        format!("{:?}", guard(&with(&all, "")).external.as_ref().unwrap().signin)
    };
    let with_rd = |url: &str| {
        signin(&[("auth-signin", &format!("{url}?rd=$pass_access_scheme://$http_host$escaped_request_uri"))])
    };
    assert_eq!(
        signin(&[("auth-signin", "https://x/start")]).replace("\"), Text(\"", ""),
        with_rd("https://x/start")
    );
    let own = signin(&[("auth-signin", "https://x/?a=b&to=$uri"), ("auth-signin-redirect-param", "to")]);
    assert!(!own.contains("EscapedRequestUri"), "{own}");
    let other = signin(&[("auth-signin", "https://x/?a=b"), ("auth-signin-redirect-param", "to")]);
    assert!(other.contains("&to="), "{other}");
}

#[test]
fn limits_are_counted_as_nginx_counts_them() {
    let limits = |annotations: &[(&str, &str)]| with(annotations, "").compiled.limits.clone().remove(0);
    let seconds = limits(&[("limit-rps", "5")]);
    assert_eq!(seconds.rates, [Rate { interval: Duration::from_millis(200), burst: 25 }]);
    let both = limits(&[
        ("limit-rpm", "6"),
        ("limit-burst-multiplier", "2"),
        ("limit-connections", "3"),
        ("limit-whitelist", "10.0.0.1"),
    ]);
    assert_eq!(both.rates, [Rate { interval: Duration::from_secs(10), burst: 12 }]);
    assert_eq!(both.requests_at_a_time, Some(3));
    assert_eq!(both.exempt, vec!["10.0.0.1/32".parse().unwrap()]);
    for (key, value) in
        [("limit-rps", "0"), ("limit-rpm", "many"), ("limit-connections", "-1"), ("limit-whitelist", "x")]
    {
        let served = with(&[(key, value)], "");
        served.warns(&[&format!("{key}: {value:?}: expected")]);
        assert_eq!(served.to("a.b/"), "shop/web:80");
    }
}
