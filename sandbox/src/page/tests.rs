//! What goes into the page, without a browser; `tests/tests/browser_report.rs` looks at it with one.

use serde_json::Value;

use super::*;
use crate::sample::{cast, report};
use crate::table::{Parties, Table};

const POLICY: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {containers: [{name: web}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}}
";

fn page(report: &Report) -> String {
    let cast = cast(POLICY).unwrap();
    let explainer = Explainer::new(&cast, &Default::default(), Default::default());
    render(report, &Beside { subject: "shop.yaml", cast: &cast, explainer: &explainer, differences: None })
        .unwrap()
}

/// What the page's script will read.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once(r#"id="data">"#).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

const SHOP: &str = "
    pod shop/web-1 Deployment/web node-0 app=web
    pod shop/web-2 Deployment/web node-1 app=web
    pod shop/db-0 StatefulSet/db node-1
    shop/web-1 > shop/db-0:5432 v4 yes
    shop/web-1 > shop/db-0:5432 v6 no ingress shop/db
    shop/web-2 > shop/db-0:5432 v4 yes
    shop/web-2 > shop/db-0:5432 v6 no ingress shop/db
    shop/db-0 > shop/web-1:80 no egress shop/deny
    shop/db-0 > shop/web-2:80 no egress shop/deny
";

#[test]
fn every_cell_holds_the_mark_of_the_table_and_its_probes() {
    let report = report(SHOP);
    let data = data(&page(&report));
    let views = data["views"].as_array().unwrap();
    assert_eq!(
        views.iter().map(|view| view["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["workload", "pod"]
    );
    for (view, parties) in views.iter().zip([Parties::alike(&report), Parties::by_pod(&report)]) {
        let table = Table::new(&report, &parties);
        let cells = view["cells"].as_array().unwrap();
        assert_eq!(cells.len(), table.cells.len());
        for (cell, mark) in cells.iter().zip(table.cells.values()) {
            let index = usize::try_from(cell[2].as_u64().unwrap()).unwrap();
            assert_eq!(data["marks"][index], mark.as_str(), "{cell}");
        }
        let held: usize = cells.iter().map(|cell| cell[3].as_array().unwrap().len()).sum();
        assert_eq!(held, report.probes.len());
    }
}

#[test]
fn replicas_that_stand_for_themselves_anyway_need_no_second_view() {
    let alone = report("pod a/x Pod/x node-0\npod a/y Pod/y node-0\na/x > a/y:80 yes");
    assert_eq!(data(&page(&alone))["views"].as_array().unwrap().len(), 1);
}

#[test]
fn names_and_labels_cannot_leave_the_data() {
    let hostile = r#"</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>&"'"#;
    let mut report = report(SHOP);
    let pod = &mut report.pods[0];
    pod.labels.insert(hostile.into(), hostile.into());
    pod.name = hostile.into();
    report.warnings.push(hostile.into());
    report.probes[0].from = format!("shop/{hostile}");
    let page = page(&report);
    assert_eq!(page.matches("<script").count(), TEMPLATE.matches("<script").count());
    assert_eq!(page.matches("</script>").count(), TEMPLATE.matches("</script>").count());
    assert!(!page.contains("<!--") && !page.contains("<img"));
    // And what comes out is what went in.
    assert_eq!(data(&page)["warnings"][0], hostile);
    assert_eq!(data(&page)["pods"][0]["labels"][hostile], hostile);
}

#[test]
fn braces_in_the_data_are_no_places_to_fill() {
    let mut report = report(SHOP);
    report.warnings.push("{{script}}".into());
    let page = page(&report);
    assert_eq!(page.matches(SCRIPT).count(), 1);
    assert_eq!(data(&page)["warnings"][0], "{{script}}");
}

#[test]
fn the_page_names_no_address_but_its_own() {
    for part in [TEMPLATE, STYLE, SCRIPT] {
        for (index, _) in part.match_indices("://") {
            let around = &part[index.saturating_sub(8)..(index + 20).min(part.len())];
            // The name of a language, not a place.
            assert!(around.contains("www.w3.org"), "{around}");
        }
        assert!(!part.contains("url(") && !part.contains("@import") && !part.contains("fetch("));
    }
    assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("</script"));
}

#[test]
fn a_page_that_could_not_be_written_is_refused_at_once() {
    let refusal = |path: &str| check(Path::new(path)).unwrap_err().to_string();
    assert_eq!(refusal("/"), "--report: / is a folder: name a file in it");
    assert_eq!(refusal("/no/such/x.html"), "--report: there is no folder /no/such to write a page into");
    check(Path::new("x.html")).unwrap();
}
