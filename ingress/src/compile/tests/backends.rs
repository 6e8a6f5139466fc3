//! From backends to endpoints.

use super::*;

fn backend(backend: &str) -> String {
    ingress(
        "a",
        &format!(
            "spec: {{ rules: [{{ http: {{ paths: [{{ pathType: Prefix, path: /, backend: {backend} }}] }} }}] }}"
        ),
    )
}

/// The endpoints behind `/`.
fn endpoints(served: &Served) -> Vec<String> {
    match &served.route("a/", &[]).unwrap().action {
        Action::Forward(shares) => {
            served.cluster(&shares[0]).endpoints.iter().map(ToString::to_string).collect()
        }
        Action::Refuse { why, .. } => vec![why.clone()],
    }
}

#[test]
fn a_port_is_found_by_number_or_by_name_and_leads_to_the_endpoints_of_that_port() {
    let by =
        |port: &str| Served::new(&backend(&format!("{{ service: {{ name: web, port: {{ {port} }} }} }}")));
    assert_eq!(endpoints(&by("number: 80")), ["10.0.0.1:8000", "10.0.0.2:8000"]);
    assert_eq!(endpoints(&by("name: http")), ["10.0.0.1:8000", "10.0.0.2:8000"]);
    assert_eq!(endpoints(&by("name: admin")), ["10.0.0.1:9000", "10.0.0.2:9000"]);
    assert_eq!(endpoints(&by("number: 8080")), ["10.0.0.1:9000", "10.0.0.2:9000"]);
}

#[test]
fn a_backend_that_cannot_be_had_refuses_and_is_not_left_to_a_wider_rule() {
    for (text, warning) in [
        (
            "{ resource: { kind: Bucket, name: x } }",
            "spec.rules[0].http.paths[0].backend.resource: resource backends are not supported: expected `service`",
        ),
        ("{}", "spec.rules[0].http.paths[0].backend: empty: expected `service`"),
        ("{ service: { name: web } }", "backend.service.port: neither name nor number: expected one"),
        (
            "{ service: { name: web, port: { name: http, number: 80 } } }",
            "both name and number: expected one",
        ),
        (
            "{ service: { name: none, port: { number: 80 } } }",
            "backend.service: there is no Service shop/none",
        ),
        (
            "{ service: { name: web, port: { number: 81 } } }",
            "Service shop/web has no port 81: expected one of its ports, 80 (http), 8080 (admin)",
        ),
    ] {
        let wider =
            ingress("b", "spec: { defaultBackend: { service: { name: api, port: { number: 80 } } } }");
        let served = Served::new(&(backend(text) + &wider));
        assert_eq!(served.to("a/"), "503", "{text}");
        served.warns(&[warning]);
    }
}

#[test]
fn a_service_without_endpoints_says_so() {
    let served = Served::new(&backend("{ service: { name: old, port: { number: 80 } } }"));
    assert_eq!(endpoints(&served), [""; 0]);
    let empty = served.compiled.clusters[0].empty.clone().unwrap();
    assert_eq!(empty, "Service shop/old has no endpoint that serves");
}

#[test]
fn endpoints_that_end_get_nothing_new_unless_nobody_else_is_left() {
    let slice = |name: &str, address: &str, conditions: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}, namespace: shop, labels: {{ kubernetes.io/service-name: old }} }}\naddressType: IPv4\nports: [{{ port: 8000 }}]\nendpoints: [{{ addresses: [{address}], conditions: {{ {conditions} }} }}]\n"
        )
    };
    let old = backend("{ service: { name: old, port: { number: 80 } } }");
    let ends = slice("b", "10.0.2.2", "ready: false, serving: true, terminating: true");
    let dead = slice("c", "10.0.2.3", "ready: false, serving: false, terminating: true");
    let served = Served::new(&(old.clone() + &slice("a", "10.0.2.1", "ready: true") + &ends + &dead));
    assert_eq!(endpoints(&served), ["10.0.2.1:8000"]);
    assert_eq!(served.compiled.clusters[0].draining, ["10.0.2.2:8000".parse().unwrap()]);
    let served = Served::new(&(old.clone() + &ends + &dead));
    assert_eq!(endpoints(&served), ["10.0.2.2:8000"]);
    let served = Served::new(&(old + &slice("a", "10.0.2.1", "ready: false")));
    assert_eq!(endpoints(&served), [""; 0]);
}

#[test]
fn services_of_other_namespaces_are_other_services() {
    let text = backend("{ service: { name: web, port: { number: 80 } } }")
        .replace("namespace: shop", "namespace: other");
    let served = Served::new(&text);
    assert_eq!(served.to("a/"), "503");
    served.warns(&["there is no Service other/web"]);
}

#[test]
fn a_slice_that_cannot_be_understood_is_named() {
    let slice = |kind: &str, address: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: s, namespace: shop, labels: {{ kubernetes.io/service-name: old }} }}\naddressType: {kind}\nports: [{{ port: 8000 }}]\nendpoints: [{{ addresses: [{address}] }}]\n"
        )
    };
    let old = backend("{ service: { name: old, port: { number: 80 } } }");
    Served::new(&(old.clone() + &slice("FQDN", "a.example.com")))
        .warns(&["EndpointSlice shop/s: addressType: FQDN"]);
    Served::new(&(old + &slice("IPv4", "ten")))
        .warns(&["EndpointSlice shop/s: endpoints[0].addresses[0]: \"ten\""]);
}
