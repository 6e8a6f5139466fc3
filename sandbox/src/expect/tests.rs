//! Rows: an expectation and a report in, the differences out.

use super::*;
use crate::sample::{assert_text, report};

const PODS: &str = "
    pod shop/web-1 Deployment/web node-0 app=web
    pod shop/web-2 Deployment/web node-1 app=web
    pod shop/db-0 StatefulSet/db node-0 app=db
    pod ops/probe Pod/probe node-1
    shop/web-1 > shop/db-0:5432 yes
    shop/web-2 > shop/db-0:5432 v4 no ingress shop/db
    shop/web-2 > shop/db-0:5432 v6 yes
    ops/probe > shop/db-0:5432 no ingress shop/db
    ops/probe > shop/web-1:80 yes
    ops/probe > shop/web-2:80 yes
    shop/db-0 > shop/db-0:5432 yes
    outside > shop/web-1:80 no ingress shop/web
    node/node-0 > shop/db-0:5432 yes
";

/// What comes of an expectation: differences, or the error.
#[track_caller]
fn check(expectation: &str, expected: &str) {
    let outcome = parse("expect.yaml", expectation).and_then(|it| it.compare(&report(PODS)));
    let found = outcome.map_or_else(|error| error.to_string(), |differences| differences.to_string());
    assert_text(&found, expected);
}

#[test]
fn what_holds_is_as_expected() {
    check(
        "kind: Expectation
apiVersion: weir.dev/v1alpha1
expect:
- {from: shop/web-1, to: shop/db, port: 5432, reach: yes}
- {from: [ops/probe, ops/*], to: shop/app=web, port: 80/TCP, reach: true}
- {from: outside, to: shop/web-1, reach: no}
- {from: node/node-0, to: shop/db, reach: yes}
- {from: shop/web, to: shop/db, family: IPv6, reach: yes}
",
        "as expected",
    );
}

#[test]
fn a_difference_names_the_line_the_workloads_and_the_cause() {
    check(
        "expect:
- from: shop/web
  to: shop/db
  reach: yes
- from: ops/probe
  to: shop/web
  reach: no
",
        "
        not as expected:
          expect.yaml:2  shop/web → shop/db:5432/TCP  must reach, but denied in 1 of 4 probes (IPv4): ingress by shop/db: no rule allows it
          expect.yaml:5  ops/probe → shop/web:80/TCP  must not reach, but reaches
        ",
    );
}

#[test]
fn the_last_entry_that_speaks_of_a_probe_decides() {
    check(
        "expect:
- {from: '*', to: shop/db, reach: no}
- {from: shop/web-1, to: shop/db, reach: yes}
- {from: shop/web-2, to: shop/db, family: IPv6, reach: true}
",
        "as expected",
    );
}

#[test]
fn others_speak_of_pods_only_and_never_of_a_pod_and_itself() {
    check(
        "others: denied
expect:
- {from: shop/web, to: shop/db, family: IPv6, reach: yes}
",
        "
        not as expected:
          expect.yaml: others  ops/probe → shop/web:80/TCP  must not reach, but reaches
          expect.yaml: others  shop/web → shop/db:5432/TCP  must not reach, but reaches in 1 of 2 probes (IPv4)
        ",
    );
}

#[test]
fn a_name_that_is_nobody_is_an_error_with_its_line() {
    check(
        "expect:
- {from: shop/web, to: shop/db, reach: yes}

- from: shop/wbe
  to: shop/db
  reach: yes
",
        "expect.yaml:4: expect[1].from: `shop/wbe` is nobody here; there are ops/probe, shop/db, shop/web",
    );
    check(
        "expect: [{from: node/x, to: shop/db, reach: no}]",
        "expect.yaml:1: expect[0].from: `node/x` is nobody here; there are node/node-0, node/node-1",
    );
}

#[test]
fn an_entry_that_no_probe_answers_is_an_error() {
    check(
        "expect:
- {from: shop/web, to: shop/db, port: 5433, reach: yes}
",
        "expect.yaml:2: expect[0].to: no probe was made from there to there on such a port",
    );
}

#[test]
fn what_cannot_be_read_is_an_error_with_its_line() {
    check(
        "expect:
- {from: shop/web, to: shop/db, prot: 80, reach: yes}
",
        "expect.yaml:2: unknown field `prot`, expected one of from, to, port, family, reach",
    );
    check(
        "expect:
- {from: shop/web, to: shop/db, port: http, reach: yes}
",
        "expect.yaml:2: expect[0].port: \"http\" is none of `80`, `53/UDP`, `*/TCP`",
    );
    check("kind: Expectations\nexpect: []", "expect.yaml:1: kind: \"Expectations\" should be Expectation");
    check(
        "expect:\n- {from: shop/web, to: shop/db, reach: maybe}",
        "expect.yaml:2: unknown variant `maybe`, expected one of true, yes, false, no",
    );
}

#[test]
fn the_example_is_understood_to_the_last_word() {
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    let cast = crate::assemble::cast(&crate::plan::Options::new(vec![shop.clone()]), None).unwrap();
    assert_eq!(cast.warnings, [""; 0]);
    assert_eq!((cast.shown(false).count(), cast.policies.len(), cast.services.len()), (9, 6, 6));
    load(&shop.join("expect.yaml")).and_then(|it| it.check_names(&cast, false)).unwrap();
}
