//! Rows: two reports in, what changed between them out.

use super::*;
use crate::sample::{assert_text, report};

#[track_caller]
fn check(before: &str, after: &str, expected: &str) {
    let pods = "pod shop/web-1 Deployment/web node-0
                pod shop/web-2 Deployment/web node-1
                pod shop/db-0 StatefulSet/db node-0\n";
    let sample = |text: &str| report(&format!("{pods}{text}"));
    assert_text(&changes(&sample(before), &sample(after)), expected);
}

#[test]
fn what_is_the_same_is_one_line() {
    let same = "shop/web-1 > shop/db-0:5432 yes";
    check(same, same, "nothing changed: 2 probes answer as before");
}

#[test]
fn a_flip_of_all_replicas_is_one_line_with_its_cause() {
    check(
        "shop/web-1 > shop/db-0:5432 yes
         shop/web-2 > shop/db-0:5432 yes",
        "shop/web-1 > shop/db-0:5432 no ingress shop/deny
         shop/web-2 > shop/db-0:5432 no ingress shop/deny",
        "✓ → ✗  shop/web → shop/db:5432  ingress by shop/deny: no rule allows it",
    );
}

#[test]
fn a_denial_with_another_cause_is_news() {
    check(
        "shop/web-1 > shop/db-0:5432 no ingress shop/deny",
        "shop/web-1 > shop/db-0:5432 no egress shop/web",
        "✗ → ✗  shop/web → shop/db:5432  egress by shop/web: no rule allows it",
    );
}

#[test]
fn one_family_that_opens_is_told_from_both() {
    check(
        "shop/web-1 > shop/db-0:5432 no ingress shop/deny",
        "shop/web-1 > shop/db-0:5432 v4 yes
         shop/web-1 > shop/db-0:5432 v6 no ingress shop/deny",
        "✗ → 4  shop/web → shop/db:5432  ingress by shop/deny: no rule allows it",
    );
}

#[test]
fn a_new_workload_is_named_once_and_not_cell_by_cell() {
    check(
        "shop/web-1 > shop/db-0:5432 yes",
        "pod shop/job-1 Job/job node-0
         shop/web-1 > shop/db-0:5432 yes
         shop/job-1 > shop/db-0:5432 yes",
        "+ shop/job",
    );
}

#[test]
fn warnings_and_services_come_and_go() {
    check(
        "service shop/db:5432 10.96.0.20 shop/web-1 yes shop/db-0
         service shop/old:1 10.96.0.21 shop/web-1 yes shop/db-0
         warn this",
        "service shop/db:5432 10.96.0.20 shop/web-1 no
         warn that",
        "
        ✓ → ✗  shop/web → Service shop/db:5432/TCP
        - Service shop/old:1/TCP
        ! that
        no longer: this
        ",
    );
}

#[test]
fn which_backend_answered_is_chance_and_no_news() {
    check(
        "service shop/web:80 10.96.0.20 shop/web-0 no
         service shop/web:80 10.96.0.20 shop/db-0 yes shop/web-0",
        "service shop/web:80 10.96.0.20 shop/web-0 yes shop/web-0
         service shop/web:80 10.96.0.20 shop/db-0 yes shop/web-1",
        "nothing changed: 0 probes answer as before",
    );
}
