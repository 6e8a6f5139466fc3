//! Services: what stands for a virtual address.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::world::Cluster;
use crate::compile::compile;

/// `ADDRESS PROTOCOL/PORT -> BACKENDS`, one line a row; then the warnings.
#[track_caller]
fn check(yaml: &str, expected: &str) {
    let compiled = compile(&Cluster::new(&format!("yaml\n{yaml}")).world("node-0"));
    let tables = &compiled.tables;
    let mut found = String::new();
    let rows: BTreeMap<_, _> = tables
        .services
        .iter()
        .map(|(key, row)| ((key.addr.to_ip(), key.protocol, key.port.to_host()), row))
        .collect();
    for ((ip, protocol, port), row) in rows {
        let backends: Vec<String> = (0..row.count)
            .map(|index| tables.backends[&common::service::BackendKey { set: row.backends, index }])
            .map(|backend| {
                std::net::SocketAddr::new(backend.addr.to_ip(), backend.port.to_host()).to_string()
            })
            .collect();
        let affinity = if row.affinity_s == 0 { String::new() } else { format!(" for {} s", row.affinity_s) };
        writeln!(found, "{ip} {protocol}/{port} -> {}{affinity}", backends.join(" ")).unwrap();
    }
    for warning in &compiled.warnings {
        writeln!(found, "{warning}").unwrap();
    }
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    };
    assert_eq!(lines(&found), lines(expected));
}

fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\nspec: {spec}\n")
}

fn slice(service: &str, family: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-{family}, namespace: a, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: {family}\nports: {ports}\nendpoints: {endpoints}\n"
    )
}

#[test]
fn every_virtual_address_of_both_families_stands_for_backends_of_its_own() {
    check(
        &(service(
            "s",
            "{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00:96::1'], externalIPs: [1.2.3.4], ports: [{port: 80}]}\nstatus: {loadBalancer: {ingress: [{ip: 5.6.7.8}, {hostname: x}, {ip: 5.6.7.9, ipMode: Proxy}]}}",
        ) + &slice("s", "IPv4", "[{port: 8080}]", "[{addresses: [10.0.0.2]}, {addresses: [10.0.0.1]}]")
            + &slice("s", "IPv6", "[{port: 8081}]", "[{addresses: ['fd00::1']}]")),
        "1.2.3.4 6/80 -> 10.0.0.1:8080 10.0.0.2:8080
         5.6.7.8 6/80 -> 10.0.0.1:8080 10.0.0.2:8080
         10.96.0.1 6/80 -> 10.0.0.1:8080 10.0.0.2:8080
         fd00:96::1 6/80 -> [fd00::1]:8081",
    );
}

#[test]
fn ports_are_told_apart_by_name_and_protocol() {
    check(
        &(service(
            "s",
            "{clusterIP: 10.96.0.1, ports: [{name: web, port: 80}, {name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}, {name: m, port: 9, protocol: SCTP}]}",
        ) + &slice(
            "s",
            "IPv4",
            "[{name: web, port: 8080}, {name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5354}, {name: m, port: 99, protocol: SCTP}]",
            "[{addresses: [10.0.0.1]}]",
        )),
        "10.96.0.1 6/53 -> 10.0.0.1:5354
         10.96.0.1 6/80 -> 10.0.0.1:8080
         10.96.0.1 17/53 -> 10.0.0.1:5353
         10.96.0.1 132/9 -> 10.0.0.1:99",
    );
}

#[test]
fn without_a_ready_backend_those_that_serve_while_they_terminate_are_used() {
    let with = |endpoints: &str| {
        service("s", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}")
            + &slice("s", "IPv4", "[{port: 1}]", endpoints)
    };
    let leaving = "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}";
    let waiting = "{addresses: [10.0.0.2], conditions: {ready: false, serving: false}}";
    let ready = "{addresses: [10.0.0.3], conditions: {ready: true}}";
    check(&with(&format!("[{leaving}, {waiting}, {ready}]")), "10.96.0.1 6/80 -> 10.0.0.3:1");
    check(&with(&format!("[{leaving}, {waiting}]")), "10.96.0.1 6/80 -> 10.0.0.1:1");
    check(&with(&format!("[{waiting}]")), "10.96.0.1 6/80 ->");
}

#[test]
fn a_service_without_endpoints_has_its_row_and_headless_and_external_name_have_none() {
    check(
        &(service("empty", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}")
            + &service("headless", "{clusterIP: None, ports: [{port: 80}]}")
            + &service("named", "{type: ExternalName, externalName: example.com, ports: [{port: 80}]}")
            + &service("pending", "{ports: [{port: 80}]}")),
        "10.96.0.1 6/80 ->",
    );
}

#[test]
fn client_ip_affinity_has_its_timeout() {
    check(
        &(service("a", "{clusterIP: 10.96.0.1, sessionAffinity: ClientIP, ports: [{port: 80}]}")
            + &service(
                "b",
                "{clusterIP: 10.96.0.2, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}, ports: [{port: 80}]}",
            )
            + &service("c", "{clusterIP: 10.96.0.3, sessionAffinity: None, ports: [{port: 80}]}")),
        "10.96.0.1 6/80 ->  for 10800 s
         10.96.0.2 6/80 ->  for 60 s
         10.96.0.3 6/80 ->",
    );
}

#[test]
fn internal_traffic_policy_local_stays_on_the_node() {
    check(
        &(service("s", "{clusterIP: 10.96.0.1, internalTrafficPolicy: Local, ports: [{port: 80}]}")
            + &slice(
                "s",
                "IPv4",
                "[{port: 1}]",
                "[{addresses: [10.0.0.1], nodeName: node-0}, {addresses: [10.0.1.1], nodeName: node-1}]",
            )),
        "10.96.0.1 6/80 -> 10.0.0.1:1",
    );
}

#[test]
fn what_a_service_gets_wrong_is_named_and_the_rest_works() {
    check(
        &(service("a", "{clusterIP: 10.96.0.1, externalIPs: [nonsense], ports: [{port: 80}, {port: 0}, {port: 81, protocol: QUIC}]}")
            + &service("b", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}")),
        "10.96.0.1 6/80 ->
         Service a/a: spec.externalIPs: \"nonsense\" is no address: expected for example 10.0.0.1 or fd00::1; it is left out
         Service a/a: spec.ports[1]: no port number 0: expected 1 to 65535; the port is left out
         Service a/a: spec.ports[2].protocol: unknown protocol \"QUIC\": expected TCP, UDP or SCTP; the port is left out
         Service a/b: spec.ports: 10.96.0.1 port 80 is already Service a/a's: expected an address and port of its own",
    );
}

#[test]
fn what_is_said_again_of_a_service_is_no_news_and_what_is_new_is() {
    let text = |port: u16| {
        service("s", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}")
            + &slice("s", "IPv4", &format!("[{{port: {port}}}]"), "[{addresses: [10.0.0.2]}]")
    };
    let [once, other] = [8080, 8081].map(|port| Cluster::new(&format!("yaml\n{}", text(port))));
    let mut world = once.world("node-0");
    world.take_changes();
    for (cluster, news) in [(&once, 0), (&other, 1), (&other, 0)] {
        for (object, warnings) in &cluster.objects {
            world.apply(object.clone(), warnings);
        }
        assert_eq!(world.take_changes().expect("what was noted").services.len(), news);
    }
}
