//! Explanations: the rule, the policies, and the nearest miss in words.

use super::network_policy::SHOP;
use super::world::{Cluster, flow};
use crate::explain::{ask, explain};
use crate::places::Places;

/// What each direction of a row says, and what came nearest; nothing for ends that nothing isolates.
#[track_caller]
fn check(policies: &str, head: &str, expected: &str) {
    let cluster = Cluster::new(&format!("{SHOP}{policies}"));
    let world = cluster.world("node-0");
    let explanation = explain(&world, &flow(&cluster, head), &Places::default());
    let sides = [("egress", &explanation.egress), ("ingress", &explanation.ingress)];
    let mut found = String::new();
    for (direction, side) in sides.into_iter().filter(|(_, side)| !side.policies.is_empty()) {
        found += &format!("{direction}: {side}\n");
        if let Some(miss) = &side.nearest {
            found += &format!("{direction}: {} of {}\n", miss.rule.path, miss.rule.policy);
            found += &format!("{}\n", miss.sentence);
        }
    }
    let expected: Vec<_> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{head}");
}

/// A policy of `shop/web` with these ingress rules, and the sentence about what it does not allow.
#[track_caller]
fn miss(rules: &str, head: &str, sentence: &str) {
    let cluster = Cluster::new(&format!(
        "{SHOP}netpol shop/allow-web {{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{rules}]}}"
    ));
    let explanation = explain(&cluster.world("node-0"), &flow(&cluster, head), &Places::default());
    let nearest = explanation.ingress.nearest.map(|miss| miss.sentence);
    assert_eq!(nearest.as_deref(), Some(sentence), "{rules}: {head}");
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
fn a_default_deny_names_every_policy_that_isolates() {
    check(
        "netpol shop/quiet {podSelector: {}}
         netpol shop/web {podSelector: {matchLabels: {app: web}}, ingress: []}",
        "shop/client -> shop/web TCP/80",
        "ingress: shop/quiet, shop/web isolate the pod, and no rule of theirs allows this",
    );
}

#[test]
fn a_miss_by_port_or_protocol_names_both() {
    let head = "shop/client -> shop/web TCP/8080";
    miss("{ports: [{port: 80}]}", head, "policy shop/allow-web allows port 80, you asked 8080");
    miss(
        "{ports: [{port: 80}, {port: 1000, endPort: 2000}]}",
        head,
        "policy shop/allow-web allows port 80 and ports 1000 to 2000, you asked 8080",
    );
    miss(
        "{ports: [{port: 8080, protocol: UDP}]}",
        head,
        "policy shop/allow-web allows port 8080 over UDP, you asked TCP",
    );
    miss("{ports: [{protocol: UDP}]}", head, "policy shop/allow-web allows all UDP ports, you asked TCP");
    miss(
        "{ports: [{port: 53, protocol: UDP}]}",
        head,
        "policy shop/allow-web allows port 53 over UDP, you asked 8080 over TCP",
    );
}

#[test]
fn a_miss_by_a_ports_name_says_what_the_name_is() {
    miss(
        "{ports: [{port: http}]}",
        "shop/client -> shop/web TCP/80",
        "policy shop/allow-web allows port http; http is 8080 on shop/web, you asked 80",
    );
    miss(
        "{ports: [{port: web}]}",
        "shop/client -> shop/web TCP/80",
        "policy shop/allow-web allows port web; shop/web has no TCP port of this name",
    );
}

#[test]
fn a_protocol_without_ports_misses_every_rule_with_ports() {
    miss(
        "{ports: [{port: 80}]}",
        "shop/client -> shop/web ICMP",
        "policy shop/allow-web allows port 80 over TCP; ICMP has no ports: only a rule without ports allows it",
    );
}

#[test]
fn a_miss_by_labels_shows_those_that_are_there() {
    let head = "shop/client -> shop/web TCP/80";
    miss(
        "{from: [{podSelector: {matchLabels: {app: clinet}}}]}",
        head,
        "policy shop/allow-web allows traffic from pods with app=clinet in namespace shop; shop/client has app=client",
    );
    miss(
        "{from: [{podSelector: {matchLabels: {app: client, role: reader}}}]}",
        head,
        "policy shop/allow-web allows traffic from pods with app=client and role=reader in namespace shop; shop/client \
         has no label role",
    );
    miss(
        "{from: [{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [client]}]}}]}",
        head,
        "policy shop/allow-web allows traffic from pods with app!=client in namespace shop; shop/client has app=client",
    );
}

#[test]
fn a_miss_by_namespace_shows_which_it_is() {
    let head = "other/client -> shop/web TCP/80";
    miss(
        "{from: [{podSelector: {matchLabels: {app: client}}}]}",
        head,
        "policy shop/allow-web allows traffic from pods with app=client in namespace shop; other/client is in namespace \
         other",
    );
    miss(
        "{from: [{namespaceSelector: {matchLabels: {team: a}}}], ports: [{port: 8080}]}",
        head,
        "policy shop/allow-web allows traffic from pods in namespaces with team=a on port 8080; namespace other has \
         team=b and you asked 80",
    );
}

#[test]
fn a_miss_of_an_address_says_on_which_side_of_the_block_it_is() {
    let rule = "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.244.0.0/24]}}]}";
    miss(
        rule,
        "shop/client -> shop/web TCP/80",
        "policy shop/allow-web allows traffic from addresses in 10.0.0.0/8 except 10.244.0.0/24; 10.244.0.6 is in the \
         excepted 10.244.0.0/24",
    );
    miss(
        rule,
        "8.8.8.8 -> shop/web TCP/80",
        "policy shop/allow-web allows traffic from addresses in 10.0.0.0/8 except 10.244.0.0/24; 8.8.8.8 is outside",
    );
    miss(
        "{from: [{podSelector: {}}]}",
        "8.8.8.8 -> shop/web TCP/80",
        "policy shop/allow-web allows traffic from pods in namespace shop; 8.8.8.8 is the address of no pod",
    );
    miss(
        "{from: [{podSelector: {}}]}",
        "node-1 -> shop/web TCP/80",
        "policy shop/allow-web allows traffic from pods in namespace shop; 172.30.0.11 is the address of node/node-1, \
         which no selector matches",
    );
}

#[test]
fn the_rule_to_which_least_is_missing_is_the_nearest() {
    check(
        "netpol shop/far {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 81}]}]}
         netpol shop/near {podSelector: {}, ingress: [
            {from: [{ipBlock: {cidr: 1.0.0.0/8}}]},
            {from: [{podSelector: {matchLabels: {app: db}}}, {podSelector: {matchLabels: {app: client}}}], ports: [{port: 81}]}]}",
        "shop/client -> shop/web TCP/80",
        "ingress: shop/far, shop/near isolate the pod, and no rule of theirs allows this
         ingress: spec.ingress[1] of shop/near
         policy shop/near allows port 81, you asked 80",
    );
}

#[test]
fn a_policy_that_was_meant_for_the_pod_is_a_near_miss() {
    check(
        "netpol shop/quiet {podSelector: {}}
         netpol shop/allow {podSelector: {matchLabels: {app: wbe}}, ingress: [{}]}",
        "shop/client -> shop/web TCP/80",
        "ingress: shop/quiet isolates the pod, and no rule of it allows this
         ingress: spec.ingress[0] of shop/allow
         policy shop/allow would allow it, but it selects pods with app=wbe; shop/web has app=web",
    );
    // One that is for another application was not meant.
    check(
        "netpol shop/quiet {podSelector: {}}
         netpol shop/allow {podSelector: {matchLabels: {app: db}}, ingress: [{}]}",
        "shop/client -> shop/web TCP/80",
        "ingress: shop/quiet isolates the pod, and no rule of it allows this",
    );
}

#[test]
fn a_rule_that_cannot_be_honoured_says_why() {
    miss(
        "{ports: [{port: 80, protocol: http}]}",
        "shop/client -> shop/web TCP/80",
        "spec.ingress[0] of policy shop/allow-web cannot be honoured: spec.ingress[0].ports[0].protocol: unknown \
         protocol \"http\": expected TCP, UDP or SCTP; the rule allows nothing",
    );
    miss(
        "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}]}",
        "shop/client -> shop/web TCP/80",
        "spec.ingress[0] of policy shop/allow-web cannot be honoured: spec.ingress[0].from[0].ipBlock.except[0]: \
         11.0.0.0/8 is no proper part of 10.0.0.0/8: expected a smaller block inside it; the block allows nothing",
    );
}

#[test]
fn pods_of_other_nodes_are_explained_too_and_what_no_policy_decides_says_so() {
    let cluster = Cluster::new(&format!("{SHOP}netpol shop/p {{podSelector: {{}}}}"));
    let world = cluster.world("node-0");
    for (head, egress, ingress) in [
        (
            "8.8.8.8 -> shop/db TCP/80",
            "no pod has this address, and policies select pods",
            "shop/p isolates the pod, and no rule of it allows this",
        ),
        (
            "node-0 -> shop/web TCP/80",
            "no pod has this address, and policies select pods",
            "a pod's own node always reaches it",
        ),
        (
            "node-0 -> shop/db TCP/80",
            "no pod has this address, and policies select pods",
            "shop/p isolates the pod, and no rule of it allows this",
        ),
        ("shop/web -> shop/web TCP/80", "a pod always reaches itself", "a pod always reaches itself"),
        (
            "shop/web -> other/client TCP/80",
            "no policy isolates the pod in this direction",
            "no policy isolates the pod in this direction",
        ),
    ] {
        let explanation = explain(&world, &flow(&cluster, head), &Places::default());
        let found = (explanation.egress.to_string(), explanation.ingress.to_string());
        assert_eq!(found, (egress.to_owned(), ingress.to_owned()), "{head}");
    }
}

#[test]
fn a_rule_is_named_with_its_file_and_line() {
    let text = "\
# the shop's only policy
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
  namespace: shop
spec:
  podSelector: {}
  ingress:
  - ports:
    - port: 81
  -
    from:
    - podSelector:
        matchLabels: {app: client}
";
    let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
    let cluster = Cluster::new(&format!("{SHOP}yaml\n{indented}"));
    let world = cluster.world("node-0");
    let mut places = Places::default();
    places.add("shop.yaml", &format!("---\nkind: Other\nmetadata: {{name: x}}\n---\n{text}"));
    let explained = |head| explain(&world, &flow(&cluster, head), &places).ingress;
    let allowed = explained("shop/client -> shop/web TCP/80");
    assert_eq!(allowed.policies[0].to_string(), "shop/p (shop.yaml:6)");
    assert_eq!(allowed.rule.unwrap().at.as_deref(), Some("shop.yaml:17"));
    let denied = explained("shop/db -> shop/web TCP/82").nearest.unwrap();
    assert_eq!(denied.rule.at.as_deref(), Some("shop.yaml:14"));
}

#[test]
fn a_workload_is_all_its_pods_and_each_answer_is_shown_once() {
    let cluster = Cluster::new(
        "ns shop
         pod shop/web-0 node-0 10.0.0.1,fd00::1 app=web
         pod shop/web-1 node-0 10.0.0.2,fd00::2 app=web
         pod shop/db-0 node-0 10.0.0.3,fd00::3 app=db
         pod shop/db-1 node-1 10.0.1.3,fd00::4 app=db
         netpol shop/db {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/31}}, \
           {ipBlock: {cidr: 'fd00::/64'}}]}]}",
    );
    let world = cluster.world("node-0");
    let asked = |from: &str, to: &str| {
        let query = api::ExplainQuery { from: from.into(), to: to.into(), port: "80".into() };
        ask(&world, &Places::default(), &query).map(|answers| {
            let answers = answers.into_iter().map(|(flow, answer)| {
                let allowed = if answer.verdict == api::VerdictKind::Allowed { "" } else { "denied " };
                format!("{allowed}{} -> {}", flow.source, flow.destination)
            });
            answers.collect::<Vec<_>>()
        })
    };
    // Both replicas of db answer alike; those of web do over IPv6, but only one of them is in the IPv4 block.
    assert_eq!(
        asked("shop/web", "shop/db").unwrap(),
        ["10.0.0.1 -> 10.0.0.3", "denied 10.0.0.2 -> 10.0.0.3"]
    );
    assert_eq!(asked("shop/web-1", "10.0.0.3").unwrap(), ["denied 10.0.0.2 -> 10.0.0.3"]);
    assert_eq!(
        asked("10.0.0.1", "fd00::3").unwrap_err().message,
        "no address of a family in which 10.0.0.1 has one, too"
    );
    let unclear = asked("sts/shop/wbe", "shop/db").unwrap_err().to_string();
    assert_eq!(
        unclear,
        "--from sts/shop/wbe: no pod, workload or Service is called this; did you mean shop/web?"
    );
}
