//! One row for each classic mistake, and its neighbour that is none.

use std::collections::{BTreeMap, BTreeSet};

use common::verdict::Direction;
use proptest::prelude::*;

use super::arbitrary::{config, description};
use super::world::Cluster;
use crate::explain::explain;
use crate::lint::{Input, lint};
use crate::lookup::Flow;
use crate::manifest::documents;
use crate::object::Object;
use crate::places::Places;

/// Pods of two namespaces; those of `shop` say where they listen.
const PODS: &str = "
    ns shop team=a
    ns other team=b
    pod shop/web node-0 10.244.0.5 app=web http:8080/TCP metrics:9090/TCP
    pod shop/dns node-0 10.244.0.6 app=dns dns:53/UDP
    pod shop/db node-0 10.244.0.7 app=db tier=back sql:5432/TCP
    pod other/client node-0 10.244.1.8 app=client http:80/TCP
    pod bare/proxy node-0 172.30.0.10 app=proxy hostNetwork
";

/// The findings in policies, one a line: `LINE LINT FIELD: WRONG | RIGHT`.
#[track_caller]
fn check(policies: &str, expected: &str) {
    check_in(PODS, policies, expected);
}

#[track_caller]
fn check_in(pods: &str, policies: &str, expected: &str) {
    let indented: String = policies.lines().map(|line| format!("    {line}\n")).collect();
    let world = Cluster::new(&format!("{pods}yaml\n{indented}")).world("none");
    let mut places = Places::default();
    places.add("p.yaml", policies);
    let documents = documents("p.yaml", policies).unwrap().into_iter();
    let raw: Vec<_> = documents
        .filter(|document| document.kind == "NetworkPolicy")
        .map(|document| document.value)
        .collect();
    let listening: BTreeMap<_, Vec<_>> = world
        .pods()
        .map(|pod| {
            let ports = pod.ports.iter().map(|port| (port.protocol, port.number));
            (format!("{}/{}", pod.namespace, pod.name), ports.collect())
        })
        .collect();
    let declared = pods.lines().filter_map(|line| line.trim().strip_prefix("ns "));
    let namespaces: BTreeSet<String> =
        declared.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    let findings = lint(&Input {
        world: &world,
        places: &places,
        policies: &raw,
        listening: &listening,
        namespaces: &namespaces,
        pod_cidrs: &["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()],
    });
    let found: Vec<String> = findings
        .iter()
        .map(|finding| {
            let line = finding.at.as_deref().unwrap_or_default().trim_start_matches("p.yaml:");
            format!("{line} {} {}: {} | {}", finding.lint, finding.field, finding.wrong, finding.right)
        })
        .collect();
    let expected: Vec<_> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(found.join("\n"), expected.join("\n"), "\n(found on the left, expected on the right)");
}

/// A policy of `shop` whose spec is this.
fn policy(spec: &str) -> String {
    policy_of("shop", spec)
}

fn policy_of(namespace: &str, spec: &str) -> String {
    let spec: String =
        spec.lines().map(|line| format!("  {}\n", line.strip_prefix("        ").unwrap_or(line))).collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: {namespace}}}\nspec:\n{spec}"
    )
}

#[test]
fn a_policy_for_nobody() {
    check(
        &policy("podSelector:\n  matchLabels:\n    app: wbe"),
        "7 selects-nothing spec.podSelector.matchLabels.app: no pod of namespace shop has app=wbe: the policy is for nobody \
         | did you mean app=web?",
    );
    check(
        &policy("podSelector: {matchLabels: {name: web}}"),
        "5 selects-nothing spec.podSelector.matchLabels.name: no pod of namespace shop has name=web: the policy is for \
         nobody | did you mean app=web?",
    );
    check(
        &policy("podSelector: {matchLabels: {app: web, tier: back}}"),
        "5 selects-nothing spec.podSelector: no pod of namespace shop has all of app=web and tier=back: the policy is for \
         nobody | each of these labels is there, but not on one and the same: leave out what is not meant",
    );
    check(
        &policy_of("default", "podSelector: {matchLabels: {app: web}}"),
        "5 selects-nothing spec.podSelector: namespace default has no pods here, and a policy selects pods of its own \
         namespace | pods with app=web are in namespace shop: set metadata.namespace: shop",
    );
    check(
        &policy_of("bare", "podSelector: {}"),
        "5 selects-host-network spec.podSelector: every pod that it selects lives on its node's network (bare/proxy): no \
         policy applies to it | take hostNetwork from the pod, or guard the node itself",
    );
    // Nothing is known of a namespace without pods.
    check(&policy_of("elsewhere", "podSelector: {matchLabels: {app: unheard-of}}"), "");
    check(&policy("podSelector: {matchLabels: {app: web}}"), "");
}

#[test]
fn a_peer_that_is_nobody() {
    check(
        &policy("podSelector: {}\ningress:\n- from:\n  - podSelector: {matchLabels: {app: dbb}}"),
        "8 peer-matches-nothing spec.ingress[0].from[0].podSelector.matchLabels.app: no pod of namespace shop has app=dbb | \
         expected one of app=db, app=dns, app=web",
    );
    check(
        &policy("podSelector: {}\ningress:\n- from:\n  - podSelector: {matchLabels: {app: client}}"),
        "8 peer-matches-nothing spec.ingress[0].from[0].podSelector.matchLabels.app: no pod of namespace shop has \
         app=client | pods with app=client are in namespace other, and a podSelector alone means the policy's own: add \
         namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}} to the same item",
    );
    // A namespace without pods here may have any; so may all of them together.
    let elsewhere = "podSelector: {}\ningress:\n- from:\n  - podSelector: {matchLabels: {app: prometheus}}\n    namespaceSelector: ";
    check(&policy(&format!("{elsewhere}{{matchLabels: {{kubernetes.io/metadata.name: monitoring}}}}")), "");
    check(&policy(&format!("{elsewhere}{{}}")), "");
}

#[test]
fn a_namespace_that_is_none() {
    let from = |labels: &str| {
        policy(&format!(
            "podSelector: {{}}\ningress:\n- from:\n  - namespaceSelector: {{matchLabels: {{{labels}}}}}"
        ))
    };
    check(
        &from("kubernetes.io/metadata.name: othr"),
        "8 namespace-matches-nothing spec.ingress[0].from[0].namespaceSelector.matchLabels.kubernetes.io/metadata.name: no \
         namespace is called othr | did you mean other?",
    );
    check(
        &from("name: other"),
        "8 namespace-matches-nothing spec.ingress[0].from[0].namespaceSelector.matchLabels.name: no namespace here has a \
         label name: Kubernetes sets kubernetes.io/metadata.name | expected kubernetes.io/metadata.name: other",
    );
    check(
        &from("kubernetes.io/metadata-name: other"),
        "8 namespace-matches-nothing spec.ingress[0].from[0].namespaceSelector.matchLabels.kubernetes.io/metadata-name: no \
         namespace here has a label kubernetes.io/metadata-name: Kubernetes sets kubernetes.io/metadata.name | expected \
         kubernetes.io/metadata.name: other",
    );
    check(
        &from("team: c"),
        "8 namespace-matches-nothing spec.ingress[0].from[0].namespaceSelector.matchLabels.team: no namespace has team=c | \
         expected one of team=a, team=b",
    );
    check(&from("kubernetes.io/metadata.name: monitoring"), "");
    check(&from("kubernetes.io/metadata.name: kube-system"), "");
    check(&from("team: b"), "");
}

#[test]
fn an_or_that_was_meant_as_and() {
    let from = |pods: &str| {
        policy(&format!(
            "podSelector: {{}}\ningress:\n- from:\n  - namespaceSelector: {{matchLabels: {{team: b}}}}\n  - podSelector: \
             {{matchLabels: {{app: {pods}}}}}"
        ))
    };
    check(
        &from("client"),
        "9 or-meant-as-and spec.ingress[0].from[1]: two items mean OR: every pod of namespaces with team=b, and pods with \
         app=client in namespace shop | for pods with app=client of those namespaces, write both selectors in one item: \
         take the `-` from the second",
    );
    // The policy's own namespace has such pods: OR may well be meant.
    check(&from("web"), "");
    // Without any pods at hand, the plain pair is the classic all the same.
    let pair = "podSelector: {}\negress:\n- to:\n  - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}\n  - podSelector: {matchLabels: {app: y}}\n  ports: [{port: 53, protocol: UDP}]";
    check(
        &policy_of("elsewhere", pair),
        "9 or-meant-as-and spec.egress[0].to[1]: two items mean OR: every pod of namespaces with \
         kubernetes.io/metadata.name=x, and pods with app=y in namespace elsewhere | for pods with app=y of those \
         namespaces, write both selectors in one item: take the `-` from the second",
    );
}

#[test]
fn an_and_that_was_meant_as_or() {
    let from = |pods: &str| {
        policy(&format!(
            "podSelector: {{}}\ningress:\n- from:\n  - namespaceSelector: {{matchLabels: {{team: b}}}}\n    podSelector: \
             {{matchLabels: {{app: {pods}}}}}"
        ))
    };
    check(
        &from("web"),
        "8 and-meant-as-or spec.ingress[0].from[0]: two selectors in one item mean AND, and no pod of namespaces with team=b \
         has app=web | pods with app=web are in namespace shop: for either, write two items, each with its own `-`",
    );
    check(&from("client"), "");
}

#[test]
fn a_port_that_nobody_serves() {
    let ports = |ports: &str| {
        policy(&format!("podSelector: {{matchLabels: {{app: web}}}}\ningress:\n- ports:\n  - {{{ports}}}"))
    };
    check(
        &ports("port: 80"),
        "8 port-unserved spec.ingress[0].ports[0].port: nobody serves 80/TCP: the pods meant are shop/web | expected one of \
         8080/TCP, 9090/TCP",
    );
    check(
        &ports("port: 8080, protocol: UDP"),
        "8 port-unserved spec.ingress[0].ports[0].port: nobody serves 8080/UDP: the pods meant are shop/web | 8080 is served \
         over TCP: set protocol: TCP",
    );
    check(
        &ports("port: htp"),
        "8 port-unserved spec.ingress[0].ports[0].port: no TCP port is called htp: the pods meant are shop/web | expected one \
         of http (8080/TCP), metrics (9090/TCP)",
    );
    check(&ports("port: 8000, endPort: 8100"), "");
    check(&ports("port: http"), "");
    check(
        &policy(
            "podSelector: {matchLabels: {app: web}}\negress:\n- to:\n  - podSelector: {matchLabels: {app: db}}\n  ports: [{port: 3306}]\n- ports: [{port: 53, protocol: UDP}]",
        ),
        "9 port-unserved spec.egress[0].ports[0].port: nobody serves 3306/TCP: the pods meant are shop/db | expected one of \
         5432/TCP",
    );
}

#[test]
fn the_port_of_a_service_where_the_pods_own_is_meant() {
    let service = "
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: shop}
spec: {clusterIP: 10.96.0.7, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: front-1, namespace: shop, labels: {kubernetes.io/service-name: front}}
ports: [{name: '', port: 8080}]
endpoints: [{addresses: [10.244.0.5]}]
";
    let policy = policy("podSelector: {matchLabels: {app: web}}\ningress: [{ports: [{port: 80}]}]");
    check(
        &format!("{policy}{service}"),
        "6 port-unserved spec.ingress[0].ports[0].port: nobody serves 80/TCP: the pods meant are shop/web | 80 is the port of \
         Service shop/front: policies see the pod's own port, 8080",
    );
}

#[test]
fn dns_forgotten_in_an_egress_default_deny() {
    const WRONG: &str = "dns-forgotten spec.egress: shop/web may connect, but not ask DNS for a name to connect to | add to \
                         egress: - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}], \
                         ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]";
    let egress =
        |rules: &str| policy(&format!("podSelector: {{matchLabels: {{app: web}}}}\negress:\n{rules}"));
    let db = "- to: [{podSelector: {matchLabels: {app: db}}}]\n";
    check(&egress(db), &format!("6 {WRONG}"));
    check(&egress("- to: [{ipBlock: {cidr: 203.0.113.0/24}}]"), &format!("6 {WRONG}"));
    check(&egress("- ports: [{port: 443}]"), &format!("6 {WRONG}"));
    check(
        &egress(&format!("{db}- ports: [{{port: 53}}]")),
        "6 dns-forgotten spec.egress: shop/web may ask DNS over TCP only, and names are asked for over UDP | a port without \
         protocol is TCP: add {port: 53, protocol: UDP}",
    );
    for enough in [
        "- ports: [{port: 53, protocol: UDP}]",
        "- to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]",
        "- to: [{namespaceSelector: {}}]",
        "- to: [{ipBlock: {cidr: 169.254.20.10/32}}]\n  ports: [{port: 53, protocol: UDP}]",
        "- {}",
    ] {
        check(&egress(&format!("{db}{enough}")), "");
    }
    // Who lets nothing out means it; another policy may let DNS out for all.
    check(&policy("podSelector: {}\npolicyTypes: [Egress]"), "");
    check(&egress("- to: [{ipBlock: {cidr: 203.0.113.1/32}}]"), "");
    let dns =
        policy("podSelector: {}\npolicyTypes: [Egress]\negress: [{ports: [{port: 53, protocol: UDP}]}]");
    check(&format!("{}---\n{}", egress(db), dns.replace("name: p", "name: dns")), "");
}

#[test]
fn blocks_that_hold_pods_or_are_of_pods() {
    let from =
        |block: &str| policy(&format!("podSelector: {{}}\ningress: [{{from: [{{ipBlock: {block}}}]}}]"));
    check(
        &from("{cidr: 10.244.1.0/24}"),
        "6 block-of-pods spec.ingress[0].from[0].ipBlock.cidr: 10.244.1.0/24 is of the pod range 10.244.0.0/16, and pods \
         change their addresses | select pods by their labels: podSelector, with namespaceSelector for other namespaces",
    );
    check(
        &from("{cidr: 10.0.0.0/8}"),
        "6 block-of-pods spec.ingress[0].from[0].ipBlock.cidr: 10.0.0.0/8 holds the pod range 10.244.0.0/16: every pod is \
         meant, too | where only addresses outside are meant, add 10.244.0.0/16 to except",
    );
    check(
        &from("{cidr: 0.0.0.0/0, except: [192.168.0.0/16]}"),
        "6 block-of-pods spec.ingress[0].from[0].ipBlock.cidr: 0.0.0.0/0 holds the pod range 10.244.0.0/16: every pod is \
         meant, too | where only addresses outside are meant, add 10.244.0.0/16 to except",
    );
    check(&from("{cidr: 0.0.0.0/0}"), "");
    check(&from("{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}"), "");
    check(&from("{cidr: 203.0.113.0/24}"), "");
}

#[test]
fn an_except_outside_its_block() {
    check(
        &policy(
            "podSelector: {}\ningress:\n- from:\n  - ipBlock:\n      cidr: 10.0.0.0/8\n      except: [10.244.0.0/16, 11.0.0.0/8]",
        ),
        "10 except-outside spec.ingress[0].from[0].ipBlock.except[1]: 11.0.0.0/8 is no proper part of 10.0.0.0/8: the block \
         allows nothing | expected a smaller block inside it",
    );
}

#[test]
fn what_is_not_honoured_says_what_would_be() {
    check(
        &policy("podSelector: {}\ningress:\n- ports:\n  - port: 99999\n  - port: 80\n    protocol: tcp"),
        "8 not-honoured spec.ingress[0].ports[0].port: no port number 99999: the rule allows nothing | expected 1 to 65535
         10 not-honoured spec.ingress[0].ports[1].protocol: unknown protocol \"tcp\": the rule allows nothing | expected TCP, \
         UDP or SCTP",
    );
}

#[test]
fn an_unknown_field_with_what_it_was_to_be() {
    let unknown = |rest: &str, field: &str, right: &str| {
        let policy = policy(rest);
        let line = 4 + rest.lines().position(|line| line.contains("# here")).expect("a mark") + 1;
        let wrong = match field.starts_with("spec.ingress[") || field.starts_with("spec.egress[") {
            true => "the rule allows nothing",
            false if field.starts_with("spec.podSelector") => {
                "the policy isolates every pod of its namespace and allows nothing"
            }
            false => "the policy isolates in both directions and allows nothing",
        };
        check(&policy, &format!("{line} unknown-field {field}: unknown field: {wrong} | {right}"));
    };
    unknown("podSelector: {}\npolicyType: [Egress] # here", "spec.policyType", "did you mean policyTypes?");
    unknown(
        "podSelector:\n  app: web # here",
        "spec.podSelector.app",
        "labels stand under matchLabels: {app: web}",
    );
    unknown(
        "podSelector: {}\ningress:\n- podSelector: {} # here",
        "spec.ingress[0].podSelector",
        "it belongs into an item of from",
    );
    unknown(
        "podSelector: {}\ningress:\n- to: [] # here",
        "spec.ingress[0].to",
        "the peers of this direction are from",
    );
    unknown(
        "podSelector: {}\ningress:\n- port: 80 # here",
        "spec.ingress[0].port",
        "it belongs into an item of ports",
    );
    unknown(
        "podSelector: {}\ningress:\n- from:\n  - podSelector: {}\n    matchLabels: {app: web} # here",
        "spec.ingress[0].from[0].matchLabels",
        "it belongs under podSelector or namespaceSelector",
    );
}

#[test]
fn rules_of_a_direction_that_is_not_isolated() {
    check(
        &policy("podSelector: {}\npolicyTypes: [Ingress]\negress: [{}]"),
        "7 rules-not-read spec.egress: policyTypes does not list Egress, so these rules are not read and nothing is denied | \
         add Egress to policyTypes",
    );
    check(
        &policy("podSelector: {}\negress: []"),
        "6 rules-not-read spec.egress: an empty list without policyTypes is no egress section: everything may leave | to \
         deny all egress, write policyTypes: [Egress] beside it",
    );
}

#[test]
fn empty_lists_that_mean_everything() {
    check(
        &policy("podSelector: {}\ningress:\n- from:\n  ports: []"),
        "7 empty-means-all spec.ingress[0].from: an empty list means everyone | where everyone is meant, leave from out; to \
         allow nothing, leave the rule out
         8 empty-means-all spec.ingress[0].ports: an empty list means every port | where every port is meant, leave ports \
         out; to allow nothing, leave the rule out",
    );
}

#[test]
fn a_policy_that_does_not_say_for_whom_it_is() {
    check(
        &policy("ingress: []"),
        "4 no-pod-selector spec.podSelector: missing: the policy is for every pod of its namespace | if that is meant, say so \
         with podSelector: {}",
    );
}

proptest! {
    #![proptest_config(config(80))]

    /// Whatever stands in it, a policy can be looked at; and one that is said to be for nobody isolates nobody.
    #[test]
    fn a_policy_said_to_be_for_nobody_isolates_nobody(description in description()) {
        let cluster = description.cluster();
        let world = cluster.world("node-0");
        let raw: Vec<_> = cluster
            .objects
            .iter()
            .filter_map(|(object, _)| match object {
                Object::NetworkPolicy(policy) => Some(serde_json::to_value(policy).unwrap()),
                _ => None,
            })
            .collect();
        let findings = lint(&Input {
            world: &world,
            places: &Places::default(),
            policies: &raw,
            listening: &BTreeMap::new(),
            namespaces: &BTreeSet::new(),
            pod_cidrs: &[],
        });
        let nobody: Vec<_> = findings.iter().filter(|finding| finding.lint == "selects-nothing").collect();
        for pod in world.pods() {
            for ip in &pod.ips {
                let stranger = if ip.is_ipv4() { "9.9.9.9" } else { "2001:db8::9" }.parse().unwrap();
                for direction in [Direction::Egress, Direction::Ingress] {
                    let (source, destination) =
                        if direction == Direction::Egress { (*ip, stranger) } else { (stranger, *ip) };
                    let flow = Flow { source, destination, destination_port: 80, protocol: 6 };
                    let explanation = explain(&world, &flow, &Places::default());
                    let isolating = [explanation.egress, explanation.ingress].map(|side| side.policies).concat();
                    for finding in &nobody {
                        let is_it = isolating.iter().any(|policy| finding.object.ends_with(&format!(" {}", policy.name)));
                        prop_assert!(!is_it, "{finding:?} isolates {}", pod.name);
                    }
                }
            }
        }
    }
}
