//! Rows: a cast with its addresses in, the objects that the agents read out.

use super::*;
use crate::sample::{assert_text, cast};

const SHOP: &str = "
apiVersion: v1
kind: Pod
metadata: {name: old, labels: {app: web}}
spec: {nodeName: node-0, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: new, labels: {app: web}}
spec: {nodeName: node-1, hostname: fresh, subdomain: web, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: web}}
spec: {nodeName: node-1, hostNetwork: true, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: main, port: 80, targetPort: http}, {name: more, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: v4}
spec: {clusterIP: None, ipFamilies: [IPv4], selector: {app: web}, ports: [{port: 81}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: odd}
spec: {podSelector: {}, unknown: field}
";

fn ips() -> PodIps {
    let ips = |v4: &str, v6: &str| vec![v4.parse().unwrap(), v6.parse().unwrap()];
    PodIps::from([
        ("default/old".to_owned(), ips("10.244.0.2", "fd00:244::2")),
        ("default/new".to_owned(), ips("10.244.1.2", "fd00:244:0:1::2")),
    ])
}

#[test]
fn slices_hold_the_pods_that_match_grouped_by_what_their_port_names_mean() {
    let cast = cast(SHOP).unwrap();
    let mut out = String::new();
    for slice in endpoint_slices(&cast, &ips()) {
        let ports: Vec<_> = slice
            .ports
            .iter()
            .flatten()
            .map(|port| format!("{}={}", port.name.as_deref().unwrap_or("?"), port.port.unwrap_or_default()))
            .collect();
        out += &format!("{} {}\n", slice.metadata.name.unwrap_or_default(), ports.join(" "));
        for endpoint in slice.endpoints.unwrap_or_default() {
            out += &format!(
                "  {} {} {}\n",
                endpoint.addresses.join(" "),
                endpoint.node_name.unwrap_or_default(),
                endpoint.hostname.unwrap_or_default()
            );
        }
    }
    assert_text(
        &out,
        "
        v4-ipv4-0 =81
          172.30.0.11 node-1
          10.244.1.2 node-1
          10.244.0.2 node-0
        web-ipv4-0 main=80 more=81
          172.30.0.11 node-1
          10.244.0.2 node-0
        web-ipv4-1 main=8080 more=81
          10.244.1.2 node-1 fresh
        web-ipv6-0 main=80 more=81
          fd00:30::11 node-1
          fd00:244::2 node-0
        web-ipv6-1 main=8080 more=81
          fd00:244:0:1::2 node-1 fresh
    ",
    );
}

#[test]
fn a_pod_is_pending_until_it_has_an_address() {
    let cast = cast(SHOP).unwrap();
    let status = |ips: &PodIps| {
        let objects = objects(&cast, ips);
        let pod = objects.iter().find(|it| it["kind"] == "Pod" && it["metadata"]["name"] == "old").unwrap();
        (pod["spec"]["nodeName"].clone(), pod["status"]["phase"].clone(), pod["status"]["podIPs"].clone())
    };
    assert_eq!(status(&PodIps::new()), ("node-0".into(), "Pending".into(), Value::Null));
    assert_eq!(
        status(&ips()),
        ("node-0".into(), "Running".into(), json!([{ "ip": "10.244.0.2" }, { "ip": "fd00:244::2" }]))
    );
}

#[test]
fn policies_go_to_the_agents_as_they_were_given() {
    let objects = objects(&cast(SHOP).unwrap(), &ips());
    let policy = objects.iter().find(|it| it["kind"] == "NetworkPolicy").unwrap();
    assert_eq!(policy["spec"]["unknown"], "field");
    assert_eq!(policy["metadata"]["namespace"], "default");
}

#[test]
fn everything_is_read_back_by_the_agents_parser_without_a_complaint() {
    for value in objects(&cast(SHOP).unwrap(), &ips()) {
        let document = policy::manifest::Document {
            origin: "objects".into(),
            line: 1,
            kind: value["kind"].as_str().unwrap_or_default().into(),
            api_version: value["apiVersion"].as_str().unwrap_or_default().into(),
            value,
        };
        let (_, warnings) = policy::manifest::object(&document).unwrap().expect(&document.kind);
        if document.kind != "NetworkPolicy" {
            assert_eq!(warnings, [], "{}", document.value);
        }
    }
}
