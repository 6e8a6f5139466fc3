//! Hosts, paths, defaults, classes, and rules of several objects.

use super::*;

#[test]
fn rules_of_several_objects_for_one_host_are_one_table() {
    let served = Served::new(&(plain("a", &["a.b Prefix / web"]) + &plain("b", &["a.b Prefix /api api"])));
    assert_eq!(served.to("a.b/x"), "shop/web:80");
    assert_eq!(served.to("a.b/api/x"), "shop/api:80");
    assert_eq!(served.to("other/x"), "404");
    served.warns(&[]);
}

#[test]
fn an_implementation_specific_path_is_a_prefix_by_element_and_its_absence_the_root() {
    let text = ingress(
        "a",
        "spec: { rules: [{ http: { paths: [{ pathType: ImplementationSpecific, backend: { service: { name: web, port: { number: 80 } } } }] } }] }",
    );
    assert_eq!(Served::new(&text).to("a.b/x"), "shop/web:80");
    let served = Served::new(&plain("a", &["- ImplementationSpecific /foo web"]));
    assert_eq!(served.to("a.b/foo/x"), "shop/web:80");
    assert_eq!(served.to("a.b/foobar"), "404");
}

#[test]
fn of_two_objects_with_the_same_path_the_older_one_has_it_and_the_other_is_told() {
    let mut older = plain("z", &["a.b Prefix /x web"]);
    older = older.replace("  name: z", "  name: z\n  creationTimestamp: \"2024-01-01T00:00:00Z\"");
    let mut younger = plain("a", &["a.b Prefix /x/ api", "a.b Exact /x api"]);
    younger = younger.replace("  name: a\n", "  name: a\n  creationTimestamp: \"2025-01-01T00:00:00Z\"\n");
    let served = Served::new(&(younger + &older));
    assert_eq!(served.to("a.b/x/y"), "shop/web:80");
    assert_eq!(served.to("a.b/x"), "shop/api:80", "exact is another path");
    served.warns(&[
        "Ingress shop/a: spec.rules[0].http.paths[0]: prefix path /x of a.b is Ingress shop/z's already",
    ]);
}

#[test]
fn without_times_names_decide_so_that_the_answer_does_not_depend_on_the_order_of_reading() {
    let (a, b) = (plain("a", &["a.b Prefix /x web"]), plain("b", &["a.b Prefix /x api"]));
    assert_eq!(Served::new(&(a.clone() + &b)).to("a.b/x"), "shop/web:80");
    assert_eq!(Served::new(&(b + &a)).to("a.b/x"), "shop/web:80");
}

#[test]
fn the_default_of_an_object_with_rules_serves_its_hosts_and_that_of_one_without_everything() {
    let default =
        |service| format!("defaultBackend: {{ service: {{ name: {service}, port: {{ number: 80 }} }} }}");
    let own = plain("a", &["a.b Prefix /x web"]).replace("spec: {", &format!("spec: {{ {},", default("api")));
    let served = Served::new(&own);
    assert_eq!(served.to("a.b/x"), "shop/web:80");
    assert_eq!(served.to("a.b/y"), "shop/api:80");
    assert_eq!(served.to("other/y"), "404");
    let all = ingress("b", &format!("spec: {{ {} }}", default("web")));
    let served = Served::new(&(own + &all));
    assert_eq!(served.to("a.b/y"), "shop/api:80");
    assert_eq!(served.to("other/y"), "shop/web:80");
    served.warns(&[]);
}

#[test]
fn the_controllers_default_takes_what_no_object_serves() {
    let settings =
        Settings { default_backend: Some((Name::new("shop", "api"), "80".into())), ..Settings::default() };
    let served = Served::with(&plain("a", &["a.b Prefix /x web"]), &settings);
    assert_eq!(served.to("a.b/y"), "shop/api:80");
    let settings = Settings { default_backend: Some((Name::new("shop", "none"), "80".into())), ..settings };
    let served = Served::with(&plain("a", &["a.b Prefix /x web"]), &settings);
    assert_eq!(served.to("a.b/y"), "503");
    served.warns(&["option --default-backend: there is no Service shop/none"]);
}

#[test]
fn a_host_without_paths_is_served_by_the_default_of_its_object() {
    let text = ingress(
        "a",
        "spec: { defaultBackend: { service: { name: web, port: { number: 80 } } }, rules: [{ host: a.b }] }",
    );
    let served = Served::new(&text);
    assert_eq!(served.to("a.b/x"), "shop/web:80");
    served.warns(&[]);
    Served::new(&ingress("a", "spec: { rules: [{ host: a.b }] }"))
        .warns(&["Ingress shop/a: spec.rules[0].http: no paths"]);
    Served::new(&ingress("a", "spec: {}")).warns(&["Ingress shop/a: spec: neither rules nor defaultBackend"]);
}

#[test]
fn a_wrong_host_or_path_costs_its_own_rule_alone_and_says_what_would_be_right() {
    let served = Served::new(&plain(
        "a",
        &[
            "http://a.b Prefix / web",
            "a.b Prefix x web",
            "a.b Whole /x web",
            "a.b Exact /x?y web",
            "a.b Exact /.. web",
            "a.b Prefix /good web",
        ],
    ));
    assert_eq!(served.to("a.b/good"), "shop/web:80");
    assert_eq!(served.to("a.b/x"), "404");
    served.warns(&[
        "spec.rules[0].host: \"http://a.b\" is no DNS name: expected",
        "spec.rules[1].http.paths[0].path: \"x\": expected a path that begins with `/`",
        "spec.rules[2].http.paths[0].pathType: \"Whole\": expected Exact, Prefix or ImplementationSpecific",
        "spec.rules[3].http.paths[0].path: \"/x?y\"",
        "spec.rules[4].http.paths[0].path: \"/..\"",
    ]);
}

fn class(name: &str, controller: &str, default: bool) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{ name: {name}, annotations: {{ ingressclass.kubernetes.io/is-default-class: \"{default}\" }} }}\nspec: {{ controller: {controller} }}\n"
    )
}

fn of_class(name: &str) -> String {
    plain("a", &["- Prefix / web"]).replace("spec: {", &format!("spec: {{ ingressClassName: {name},"))
}

#[test]
fn an_object_is_ours_by_a_class_with_our_controller_or_by_a_name_that_is_ours() {
    assert_eq!(Served::new(&of_class("weir")).to("a/"), "shop/web:80");
    let served = Served::new(&(of_class("front") + &class("front", "weir.dev/ingress-controller", false)));
    assert_eq!(served.to("a/"), "shop/web:80");
    let served = Served::new(&(of_class("front") + &class("front", "k8s.io/ingress-nginx", false)));
    assert_eq!(served.to("a/"), "404");
    served.warns(&[
        "Ingress shop/a: spec.ingressClassName: class front belongs to k8s.io/ingress-nginx: not served",
    ]);
    let served = Served::new(&of_class("nginx"));
    assert_eq!(served.to("a/"), "404");
    served.warns(&["spec.ingressClassName: there is no IngressClass nginx: not served; expected weir"]);
}

#[test]
fn an_object_without_a_class_belongs_to_the_default_class() {
    let text = plain("a", &["- Prefix / web"]);
    let none = Settings { without_class: false, ..Settings::default() };
    let served = Served::with(&text, &none);
    assert_eq!(served.to("a/"), "404");
    served.warns(&["spec.ingressClassName: absent, and no class of ours is the default one"]);
    let ours = text.clone() + &class("front", "weir.dev/ingress-controller", true);
    assert_eq!(Served::with(&ours, &none).to("a/"), "shop/web:80");
    let other = text.clone() + &class("nginx", "k8s.io/ingress-nginx", true);
    assert_eq!(Served::new(&other).to("a/"), "404", "the default class is somebody else's");
    assert_eq!(Served::new(&text).to("a/"), "shop/web:80");
}

#[test]
fn the_old_annotation_goes_before_the_class_name() {
    let annotate = |text: String, name: &str| {
        text.replace("annotations: {", &format!("annotations: {{ kubernetes.io/ingress.class: {name}, "))
    };
    assert_eq!(Served::new(&annotate(plain("a", &["- Prefix / web"]), "weir")).to("a/"), "shop/web:80");
    let served = Served::new(&annotate(of_class("weir"), "nginx"));
    assert_eq!(served.to("a/"), "404");
    served.warns(&[
        "weir beside the annotation kubernetes.io/ingress.class: nginx, which counts",
        "kubernetes.io/ingress.class: there is no IngressClass nginx",
    ]);
}

#[test]
fn each_host_shows_the_certificate_that_the_oldest_object_names() {
    let tls = |name: &str, secret: &str| {
        plain(name, &["a.b Prefix / web"]).replace(
            "spec: {",
            &format!("spec: {{ tls: [{{ hosts: [a.b, \"*.c\"], secretName: {secret} }}],"),
        )
    };
    let served = Served::new(&(tls("a", "one") + &tls("b", "two").replace("path: \"/\"", "path: \"/b\"")));
    let uses: Vec<String> = served
        .compiled
        .certificates
        .iter()
        .map(|it| format!("{} {}", it.host.as_ref().unwrap(), it.secret))
        .collect();
    assert_eq!(uses, ["a.b shop/one", "*.c shop/one"]);
    served.warns(&["Ingress shop/b: spec.tls[0].secretName: a.b shows", "*.c shows"]);
}
