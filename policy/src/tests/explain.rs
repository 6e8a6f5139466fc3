//! Explanations: they agree with the oracle, and the nearest miss is one.

use super::world::Cluster;
use crate::explain::explain;
use crate::places::Places;

/// `shop/web` listens on 8080 as `http`.
const SHOP: &str = super::network_policy::SHOP;

/// What the named direction of a row says, and what came nearest.
#[track_caller]
fn check(policies: &str, head: &str, expected: &str) {
    let cluster = Cluster::new(&format!("{SHOP}{policies}"));
    let world = cluster.world("node-0");
    let explanation = explain(&world, &super::world::flow(&cluster, head), &Places::default());
    let sides = [("egress", &explanation.egress), ("ingress", &explanation.ingress)];
    let mut found = String::new();
    for (direction, side) in sides.into_iter().filter(|(_, side)| !side.policies.is_empty()) {
        found += &format!("{direction}: {side}\n");
        if let Some(miss) = &side.nearest {
            found += &format!("{direction}: {}\n", miss.sentence);
        }
    }
    let expected: Vec<_> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{head}");
}

#[test]
fn the_rule_that_allows_is_named_in_both_directions() {
    check(
        "netpol shop/p {podSelector: {}, ingress: [{}], egress: [{}]}",
        "shop/client -> shop/web TCP/80",
        "egress: spec.egress[0] of policy shop/p allows it
         ingress: spec.ingress[0] of policy shop/p allows it",
    );
}

#[test]
fn a_port_is_missed() {
    check(
        "netpol shop/p {podSelector: {}, ingress: [{ports: [{port: 80}]}]}",
        "shop/client -> shop/web TCP/8080",
        "ingress: shop/p isolates the pod, and no rule of it allows this
         ingress: policy shop/p allows port 80, you asked 8080",
    );
}
