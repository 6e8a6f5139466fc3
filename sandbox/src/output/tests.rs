//! Rows: a report in, the text that people see out.

use super::*;
use crate::sample::{assert_text, report};

#[track_caller]
fn check(sample: &str, width: usize, expected: &str) {
    assert_text(&text(&report(sample), Look { colour: false, width }), expected);
}

const SHOP: &str = "
    pod shop/web-1 Deployment/web node-0
    pod shop/web-2 Deployment/web node-1
    pod shop/cart-1 Deployment/cart node-0
    pod shop/db-0 StatefulSet/db node-1
    shop/web-1 > shop/cart-1:7070 yes
    shop/web-2 > shop/cart-1:7070 yes
    shop/db-0 > shop/cart-1:7070 no ingress shop/cart,shop/deny-all
    shop/web-1 > shop/db-0:5432 no ingress shop/db,shop/deny-all
    shop/web-2 > shop/db-0:5432 no ingress shop/db,shop/deny-all
    shop/cart-1 > shop/db-0:5432 yes
    shop/cart-1 > shop/web-1:80 no ingress shop/deny-all
    shop/cart-1 > shop/web-2:80 no ingress shop/deny-all
    shop/db-0 > shop/web-1:80 no ingress shop/deny-all
    shop/db-0 > shop/web-2:80 no ingress shop/deny-all
    shop/web-1 > shop/web-2:80 no ingress shop/deny-all
    shop/web-2 > shop/web-1:80 no ingress shop/deny-all
";

#[test]
fn replicas_that_behave_alike_share_a_row_and_each_cause_is_said_once() {
    check(
        SHOP,
        100,
        "
        2 nodes, 4 pods up in 2.31 s; 24 probes in 0.42 s
          node-0  172.30.0.10  fd00:30::10  2 pods
          node-1  172.30.0.11  fd00:30::11  2 pods

        Who reaches shop
                 ┌ cart:7070
                 │ ┌ db:5432
                 │ │ ┌ web:80
          cart   · ✓ ✗
          db     ✗ · ✗
          web ×2 ✓ ✗ ✗

          ✓ reaches   ✗ denied   · itself, or not probed

        Denied
          ingress by shop/cart, shop/deny-all: no rule allows it
            db → cart:7070
          ingress by shop/db, shop/deny-all: no rule allows it
            web ×2 → db:5432
          ingress by shop/deny-all: no rule allows it
            everyone → web:80
        ",
    );
}

#[test]
fn replicas_that_differ_stand_for_themselves() {
    check(
        "pod shop/web-1 Deployment/web node-0
         pod shop/web-2 Deployment/web node-1
         pod shop/db-0 StatefulSet/db node-1
         shop/web-1 > shop/db-0:5432 yes
         shop/web-2 > shop/db-0:5432 no egress shop/web",
        100,
        "
        2 nodes, 3 pods up in 2.31 s; 4 probes in 0.42 s
          node-0  172.30.0.10  fd00:30::10  1 pod
          node-1  172.30.0.11  fd00:30::11  2 pods

        Who reaches shop
                ┌ db:5432
          web-1 ✓
          web-2 ✗

          ✓ reaches   ✗ denied   · itself, or not probed
          no port to probe: web-1, web-2

        Denied
          egress by shop/web: no rule allows it
            web-2 → db:5432
        ",
    );
}

#[test]
fn families_that_differ_have_their_own_marks() {
    check(
        "pod a/x Pod/x node-0
         pod b/y Pod/y node-1
         a/x > b/y:80 v4 yes
         a/x > b/y:80 v6 no ingress b/v4-only
         b/y > a/x:53/UDP v4 no egress b/v6-only
         b/y > a/x:53/UDP v6 yes",
        100,
        "
        2 nodes, 2 pods up in 2.31 s; 4 probes in 0.42 s
          node-0  172.30.0.10  fd00:30::10  1 pod
          node-1  172.30.0.11  fd00:30::11  1 pod

        Who reaches a
              ┌ a/x:53/UDP
          b/y 6

        Who reaches b
              ┌ b/y:80
          a/x 4

          4 only over IPv4   6 only over IPv6   · itself, or not probed

        Denied
          egress by b/v6-only: no rule allows it
            b/y → a/x:53/UDP
          ingress by b/v4-only: no rule allows it
            a/x → b/y:80
        ",
    );
}

#[test]
fn nodes_and_the_outside_have_rows_and_columns_of_their_own() {
    check(
        "pod a/x Pod/x node-0
         node/node-0 > a/x:80 yes
         node/node-1 > a/x:80 no ingress a/deny
         outside > a/x:80 no ingress a/deny
         a/x > outside:80 yes",
        100,
        "
        2 nodes, 1 pod up in 2.31 s; 8 probes in 0.42 s
          node-0  172.30.0.10  fd00:30::10  1 pod
          node-1  172.30.0.11  fd00:30::11  0 pods

        Who reaches a
                       ┌ x:80
          its own node ✓
          another node ✗
          outside      ✗

        Who reaches nodes and the outside
            ┌ outside:80
          x ✓

          ✓ reaches   ✗ denied   · itself, or not probed

        Denied
          ingress by a/deny: no rule allows it
            another node, outside → x:80
        ",
    );
}

#[test]
fn a_narrow_terminal_gets_several_grids_and_broken_lines() {
    check(
        "pod a/first Pod/first node-0
         pod a/second Pod/second node-0
         pod a/third Pod/third node-0
         a/first > a/second:80 no ingress a/deny-everything-to-second
         a/first > a/third:80 yes
         a/second > a/first:80 yes
         a/second > a/third:443 yes
         a/third > a/first:80 yes
         a/third > a/second:80 no ingress a/deny-everything-to-second",
        24,
        "
        2 nodes, 3 pods up in 2.31 s; 12 probes in 0.42 s
          node-0  172.30.0.10  fd00:30::10  3 pods
          node-1  172.30.0.11  fd00:30::11  0 pods

        Who reaches a
                 ┌ first:80
                 │ ┌ second:80
                 │ │ ┌ third:80
          first  · ✗ ✓
          second ✓ · ·
          third  ✓ ✗ ·

        Who reaches a
                 ┌ third:443
          first  ·
          second ✓
          third  ·

          ✓ reaches   ✗ denied   · itself, or not probed

        Denied
          ingress by a/deny-everything-to-second: no rule allows it
            everyone → second:80
        ",
    );
}

#[test]
fn services_say_who_is_answered_and_by_whom() {
    check(
        "pod shop/web-1 Deployment/web node-0
         pod shop/db-0 StatefulSet/db node-1
         service shop/db:5432 10.96.0.20 shop/web-1 yes shop/db-0
         service shop/db:5432 fd00:96::20 shop/web-1 yes shop/db-0
         service shop/db:5432 10.96.0.20 shop/db-0 no
         service shop/db:5432 fd00:96::20 shop/db-0 no
         warn NetworkPolicy shop/x: spec.foo: unknown field",
        100,
        "
        2 nodes, 2 pods up in 2.31 s; 4 probes in 0.42 s
          node-0  172.30.0.10  fd00:30::10  1 pod
          node-1  172.30.0.11  fd00:30::11  1 pod
          no port to probe: db, web

        Services
          db:5432  10.96.0.20  fd00:96::20 → db
            ✓ web

        Warnings
          ! NetworkPolicy shop/x: spec.foo: unknown field
        ",
    );
}

#[test]
fn json_has_the_fields_of_the_issue_and_one_line() {
    let report = report(
        "pod shop/web-1 Deployment/web node-0 app=web
         shop/web-1 > shop/web-1:80 v4 no ingress shop/deny
         service shop/web:80 10.96.0.20 shop/web-1 yes shop/web-1",
    );
    assert_eq!(
        json(&report),
        concat!(
            r#"{"nodes":[{"name":"node-0","ips":["172.30.0.10","fd00:30::10"]},"#,
            r#"{"name":"node-1","ips":["172.30.0.11","fd00:30::11"]}],"outside":{"ips":[]},"#,
            r#""pods":[{"namespace":"shop","name":"web-1","workload":"Deployment shop/web","node":"node-0","#,
            r#""labels":{"app":"web"},"ips":[],"ports":[{"name":null,"port":80,"protocol":"TCP"}]}],"#,
            r#""probes":[{"from":"shop/web-1","to":"shop/web-1","ip":"10.0.0.1","port":80,"protocol":"TCP","#,
            r#""verdict":"denied","by":{"direction":"ingress","policies":["shop/deny"],"rule":null,"#,
            r#""reason":"policy_denied"}}],"#,
            r#""services":[{"namespace":"shop","name":"web","ip":"10.96.0.20","port":80,"protocol":"TCP","#,
            r#""from":"shop/web-1","verdict":"allowed","backend":"shop/web-1"}],"#,
            r#""timings":{"up_ms":2310,"probe_ms":420},"warnings":[]}"#
        )
    );
}

#[test]
fn colour_is_only_where_it_is_asked_for() {
    let report = report("pod a/x Pod/x node-0\npod a/y Pod/y node-0\na/x > a/y:80 yes");
    assert!(text(&report, Look { colour: true, width: 80 }).contains("\x1b[32m✓\x1b[0m"));
    assert!(!text(&report, Look::PLAIN).contains('\x1b'));
}
