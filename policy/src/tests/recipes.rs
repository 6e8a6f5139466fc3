//! The policies that people copy first, with the outcome that their authors promise.

use super::world::check;

const CLUSTER: &str = "
    ns default
    ns monitoring team=operations
    ns kube-system
    pod default/web node-0 10.0.0.1 app=web
    pod default/api node-0 10.0.0.2 app=bookstore role=api
    pod default/search node-1 10.0.1.1 app=bookstore role=search
    pod default/db node-0 10.0.0.3 app=bookstore role=db
    pod default/inventory node-1 10.0.1.2 app=inventory role=web
    pod default/apiserver node-0 10.0.0.4 app=apiserver
    pod default/monitor node-1 10.0.1.3 role=monitoring
    pod default/foo node-0 10.0.0.5 app=foo
    pod monitoring/m node-1 10.0.1.4 type=monitoring
    pod monitoring/other node-1 10.0.1.5 type=other
    pod kube-system/dns node-1 10.0.1.6 k8s-app=kube-dns
";

#[track_caller]
fn recipe(policy: &str, rows: &str) {
    check(&format!("{CLUSTER} netpol default/p {policy}"), rows);
}

#[test]
fn deny_all_traffic_to_an_application() {
    recipe(
        "{podSelector: {matchLabels: {app: web}}, ingress: []}",
        "default/foo -> default/web TCP/80  ingress denied by default/p
         default/web -> default/foo TCP/80  open",
    );
}

#[test]
fn limit_traffic_to_an_application() {
    recipe(
        "{podSelector: {matchLabels: {app: bookstore, role: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: bookstore}}}]}]}",
        "default/search -> default/api TCP/80  ingress by default/p spec.ingress[0]
         default/web -> default/api TCP/80  ingress denied by default/p
         default/web -> default/search TCP/80  open",
    );
}

#[test]
fn allow_all_traffic_to_an_application_even_where_all_is_denied() {
    check(
        &format!(
            "{CLUSTER}
             netpol default/deny {{podSelector: {{}}, ingress: []}}
             netpol default/web-allow-all {{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{}}]}}"
        ),
        "default/foo -> default/web TCP/80  ingress by default/web-allow-all spec.ingress[0]
         8.8.8.8 -> default/web TCP/80  ingress by default/web-allow-all spec.ingress[0]
         default/foo -> default/api TCP/80  ingress denied by default/deny",
    );
}

#[test]
fn deny_all_that_is_not_allowed_in_the_namespace() {
    recipe(
        "{podSelector: {}, ingress: []}",
        "default/foo -> default/web TCP/80  ingress denied by default/p
         default/foo -> monitoring/m TCP/80  open",
    );
}

#[test]
fn allow_traffic_from_some_pods_in_another_namespace() {
    recipe(
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [
            {namespaceSelector: {matchLabels: {team: operations}}, podSelector: {matchLabels: {type: monitoring}}}]}]}",
        "monitoring/m -> default/web TCP/80  ingress by default/p spec.ingress[0]
         monitoring/other -> default/web TCP/80  ingress denied by default/p
         default/monitor -> default/web TCP/80  ingress denied by default/p",
    );
}

#[test]
fn allow_traffic_only_to_a_port() {
    recipe(
        "{podSelector: {matchLabels: {app: apiserver}}, ingress: [{ports: [{port: 5000}], from: [{podSelector: {matchLabels: {role: monitoring}}}]}]}",
        "default/monitor -> default/apiserver TCP/5000  ingress by default/p spec.ingress[0]
         default/monitor -> default/apiserver TCP/8000  ingress denied by default/p
         default/web -> default/apiserver TCP/5000  ingress denied by default/p",
    );
}

#[test]
fn allow_traffic_with_several_selectors() {
    recipe(
        "{podSelector: {matchLabels: {app: bookstore, role: db}}, ingress: [{from: [
            {podSelector: {matchLabels: {app: bookstore, role: search}}},
            {podSelector: {matchLabels: {app: bookstore, role: api}}},
            {podSelector: {matchLabels: {app: inventory, role: web}}}]}]}",
        "default/search -> default/db TCP/6379  ingress by default/p spec.ingress[0]
         default/api -> default/db TCP/6379  ingress by default/p spec.ingress[0]
         default/inventory -> default/db TCP/6379  ingress by default/p spec.ingress[0]
         default/web -> default/db TCP/6379  ingress denied by default/p",
    );
}

#[test]
fn deny_egress_from_an_application_and_from_a_namespace() {
    recipe(
        "{podSelector: {matchLabels: {app: foo}}, policyTypes: [Egress], egress: []}",
        "default/foo -> default/web TCP/80  egress denied by default/p
         default/web -> default/foo TCP/80  open",
    );
    recipe(
        "{podSelector: {}, policyTypes: [Egress], egress: []}",
        "default/foo -> 8.8.8.8 TCP/80  egress denied by default/p
         monitoring/m -> default/foo TCP/80  open",
    );
}

#[test]
fn deny_external_egress_but_allow_dns() {
    recipe(
        "{podSelector: {matchLabels: {app: foo}}, policyTypes: [Egress], egress: [{
            to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}],
            ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]}",
        "default/foo -> kube-system/dns UDP/53  egress by default/p spec.egress[0]
         default/foo -> kube-system/dns TCP/53  egress by default/p spec.egress[0]
         default/foo -> kube-system/dns TCP/80  egress denied by default/p
         default/foo -> 8.8.8.8 TCP/443  egress denied by default/p
         default/foo -> default/web TCP/80  egress denied by default/p",
    );
}
