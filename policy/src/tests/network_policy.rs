//! NetworkPolicy v1, corner by corner; the numbers are those of the semantics page.

use super::world::{Cluster, check, check_warned};
use crate::compile::compile;
use crate::object::{Kind, ObjectKey};

pub(super) const SHOP: &str = "
    ns shop team=a
    ns other team=b
    node node-0 172.30.0.10
    node node-1 172.30.0.11
    pod shop/web node-0 10.244.0.5,fd00:244::5 app=web http:8080/TCP
    pod shop/client node-0 10.244.0.6,fd00:244::6 app=client
    pod shop/db node-1 10.244.1.7,fd00:244:0:1::7 app=db tier=back
    pod other/client node-1 10.244.1.8,fd00:244:0:1::8 app=client
";

#[track_caller]
fn shop(policies: &str, rows: &str) {
    check(&format!("{SHOP}{policies}"), rows);
}

#[track_caller]
fn shop_warned(policies: &str, rows: &str, warnings: &str) {
    check_warned(&format!("{SHOP}{policies}"), rows, warnings);
}

// 1. Isolation, selectors, peers.

#[test]
fn without_policies_everything_is_open() {
    shop("", "shop/client -> shop/web TCP/80  open");
}

#[test]
fn without_policy_types_a_policy_isolates_ingress_and_egress_only_if_it_has_egress_rules() {
    shop(
        "netpol shop/p {podSelector: {matchLabels: {app: web}}}",
        "shop/client -> shop/web TCP/80  ingress denied by shop/p
         shop/web -> shop/client TCP/80  open",
    );
    shop(
        "netpol shop/p {podSelector: {matchLabels: {app: web}}, egress: [{ports: [{port: 53}]}]}",
        "shop/client -> shop/web TCP/80  ingress denied by shop/p
         shop/web -> shop/client TCP/80  egress denied by shop/p
         shop/web -> shop/client TCP/53  egress by shop/p spec.egress[0]",
    );
    shop(
        "netpol shop/p {podSelector: {matchLabels: {app: web}}, egress: []}",
        "shop/web -> shop/client TCP/80  open",
    );
}

#[test]
fn rules_of_a_direction_that_policy_types_leave_out_are_not_read() {
    shop(
        "netpol shop/p {podSelector: {}, policyTypes: [Egress], ingress: [{ports: [{protocol: nonsense}]}]}",
        "shop/client -> shop/web TCP/80  egress denied by shop/p
         other/client -> shop/web TCP/80  open",
    );
}

#[test]
fn an_empty_pod_selector_selects_every_pod_of_its_namespace() {
    shop(
        "netpol shop/p {podSelector: {}}",
        "shop/client -> shop/web TCP/80  ingress denied by shop/p
         shop/client -> shop/db TCP/80  ingress denied by shop/p
         shop/client -> other/client TCP/80  open",
    );
}

#[test]
fn an_empty_list_of_rules_isolates_and_an_empty_rule_allows_everything() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: []}",
        "shop/client -> shop/web TCP/80  ingress denied by shop/p",
    );
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{}]}",
        "shop/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         8.8.8.8 -> shop/web UDP/1  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web ICMP  ingress by shop/p spec.ingress[0]",
    );
}

#[test]
fn a_peer_list_that_is_empty_means_everyone() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [], ports: []}]}",
        "8.8.8.8 -> shop/web TCP/80  ingress by shop/p spec.ingress[0]",
    );
}

#[test]
fn a_pod_selector_alone_means_this_namespace_only() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}",
        "shop/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         other/client -> shop/web TCP/80  ingress denied by shop/p
         8.8.8.8 -> shop/web TCP/80  ingress denied by shop/p",
    );
}

#[test]
fn an_empty_namespace_selector_means_every_namespace_and_no_other_address() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}",
        "shop/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         other/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         node-1 -> shop/web TCP/80  ingress denied by shop/p
         8.8.8.8 -> shop/web TCP/80  ingress denied by shop/p",
    );
}

#[test]
fn both_selectors_in_one_item_mean_and_in_two_items_or() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [
            {namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: db}}}]}]}",
        "other/client -> shop/web TCP/80  ingress denied by shop/p
         shop/db -> shop/web TCP/80  ingress denied by shop/p",
    );
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [
            {namespaceSelector: {matchLabels: {team: b}}}, {podSelector: {matchLabels: {app: db}}}]}]}",
        "other/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         shop/db -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web TCP/80  ingress denied by shop/p",
    );
}

#[test]
fn not_in_and_does_not_exist_match_objects_without_the_key() {
    for expression in ["{key: tier, operator: NotIn, values: [front]}", "{key: nope, operator: DoesNotExist}"]
    {
        shop(
            &format!(
                "netpol shop/p {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchExpressions: [{expression}]}}}}]}}]}}"
            ),
            "shop/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
             shop/db -> shop/web TCP/80  ingress by shop/p spec.ingress[0]",
        );
    }
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [back]}]}}]}]}",
        "shop/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         shop/db -> shop/web TCP/80  ingress denied by shop/p",
    );
}

#[test]
fn in_and_exists_need_the_key_and_all_requirements_must_hold() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: db}, matchExpressions: [
            {key: tier, operator: Exists}, {key: tier, operator: In, values: [back, front]}]}}]}]}",
        "shop/db -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web TCP/80  ingress denied by shop/p",
    );
}

#[test]
fn every_namespace_has_the_label_with_its_name() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}]}]}",
        "other/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web TCP/80  ingress denied by shop/p",
    );
}

#[test]
fn policies_add_up_and_the_first_by_name_and_place_is_named() {
    shop(
        "netpol shop/b {podSelector: {}, ingress: [{ports: [{port: 80}, {port: 81}]}]}
         netpol shop/a {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 79}]}, {ports: [{port: 80}]}]}",
        "shop/client -> shop/web TCP/80  ingress by shop/a spec.ingress[1]
         shop/client -> shop/web TCP/81  ingress by shop/b spec.ingress[0]
         shop/client -> shop/web TCP/82  ingress denied by shop/a,shop/b
         shop/client -> shop/db TCP/79  ingress denied by shop/b",
    );
}

// 2. Ports.

#[test]
fn a_port_item_with_only_a_protocol_means_all_its_ports_and_no_protocol_means_tcp() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{ports: [{protocol: UDP}, {port: 80}]}]}",
        "shop/client -> shop/web UDP/0  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web UDP/65535  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web TCP/81  ingress denied by shop/p
         shop/client -> shop/web SCTP/80  ingress denied by shop/p
         shop/client -> shop/web ICMP  ingress denied by shop/p",
    );
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{ports: [{}]}]}",
        "shop/client -> shop/web TCP/1  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web UDP/1  ingress denied by shop/p",
    );
}

#[test]
fn end_port_makes_an_inclusive_range() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{ports: [{port: 1000, endPort: 1005}, {port: 65535, endPort: 65535}]}]}",
        "shop/client -> shop/web TCP/999  ingress denied by shop/p
         shop/client -> shop/web TCP/1000  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web TCP/1005  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web TCP/1006  ingress denied by shop/p
         shop/client -> shop/web TCP/65535  ingress by shop/p spec.ingress[0]",
    );
}

#[test]
fn a_rule_with_a_bad_port_allows_nothing_and_the_others_stand() {
    let row = |port: &str, warning: &str| {
        shop_warned(
            &format!(
                "netpol shop/p {{podSelector: {{}}, ingress: [{{ports: [{port}, {{port: 80}}]}}, {{ports: [{{port: 81}}]}}]}}"
            ),
            "shop/client -> shop/web TCP/80  ingress denied by shop/p
             shop/client -> shop/web TCP/81  ingress by shop/p spec.ingress[1]",
            &format!("NetworkPolicy shop/p: spec.ingress[0].ports[0].{warning}; the rule allows nothing"),
        );
    };
    row("{port: 90, endPort: 80}", "endPort: 80 is below port 90: expected 90 or more");
    row("{endPort: 80}", "endPort: endPort without port: expected a number in port");
    row("{port: http, endPort: 80}", "endPort: endPort beside a named port: expected a number in port");
    row("{port: 0}", "port: no port number 0: expected 1 to 65535");
    row("{port: 65536}", "port: no port number 65536: expected 1 to 65535");
    row("{port: 1, endPort: 70000}", "endPort: no port number 70000: expected 1 to 65535");
    row("{port: 1, protocol: ICMP}", "protocol: unknown protocol \"ICMP\": expected TCP, UDP or SCTP");
    row(
        "{port: '80'}",
        "port: \"80\" is no name of a port: expected a number without quotes, or at most 15 lower-case letters, digits and hyphens with a letter among them",
    );
}

#[test]
fn an_unknown_field_or_operator_in_a_rule_makes_it_allow_nothing() {
    shop_warned(
        "netpol shop/p {podSelector: {}, ingress: [{form: [{podSelector: {}}]}, {from: [{podSelector: {}, colour: red}]}]}",
        "shop/client -> shop/web TCP/80  ingress denied by shop/p",
        "NetworkPolicy shop/p: spec.ingress[0].form: unknown field: the rule allows nothing
         NetworkPolicy shop/p: spec.ingress[1].from[0].colour: unknown field: the rule allows nothing",
    );
    shop_warned(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: Like, values: [c]}]}}, {namespaceSelector: {}}]}]}",
        "shop/client -> shop/web TCP/80  ingress denied by shop/p",
        "NetworkPolicy shop/p: spec.ingress[0].from[0].podSelector.matchExpressions[0].operator: unknown operator \"Like\": expected In, NotIn, Exists or DoesNotExist; the rule allows nothing",
    );
}

#[test]
fn a_field_of_the_wrong_type_in_a_rule_is_taken_out_and_the_rule_allows_nothing() {
    shop_warned(
        "netpol shop/p {podSelector: {}, ingress: [{ports: [{port: [80]}]}, {ports: [{port: 81}]}]}",
        "shop/client -> shop/web TCP/80  ingress denied by shop/p
         shop/client -> shop/web TCP/81  ingress by shop/p spec.ingress[1]",
        "NetworkPolicy shop/p: spec.ingress[0].ports[0].port: invalid type: sequence, expected IntOrString, so the field is left out: the rule allows nothing",
    );
}

#[test]
fn a_policy_of_which_it_cannot_be_known_whom_it_selects_isolates_its_namespace_and_allows_nothing() {
    for (selector, warning) in [
        (
            "{matchExpressions: [{key: app, operator: In}]}",
            "spec.podSelector.matchExpressions[0].values: In needs at least one value",
        ),
        ("{matchLabel: {app: db}}", "spec.podSelector.matchLabel: unknown field"),
    ] {
        shop_warned(
            &format!("netpol shop/p {{podSelector: {selector}, ingress: [{{}}]}}"),
            "shop/client -> shop/web TCP/80  ingress denied by shop/p
             shop/client -> other/client TCP/80  open",
            &format!(
                "NetworkPolicy shop/p: {warning}: the policy isolates every pod of its namespace and allows nothing"
            ),
        );
    }
}

#[test]
fn a_policy_whose_spec_has_a_slip_in_its_name_isolates_both_directions() {
    shop_warned(
        "yaml
         kind: NetworkPolicy
         apiVersion: networking.k8s.io/v1
         metadata: {name: p, namespace: shop}
         specs: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: 53}]}]}",
        "shop/client -> shop/web TCP/80  egress denied by shop/p; ingress denied by shop/p
         shop/web -> shop/client TCP/53  egress denied by shop/p; ingress denied by shop/p",
        "NetworkPolicy shop/p: specs: unknown field: the policy isolates in both directions and allows nothing",
    );
}

#[test]
fn an_unknown_field_of_the_spec_or_an_unknown_policy_type_isolates_both_directions() {
    shop_warned(
        "netpol shop/p {podSelector: {matchLabels: {app: web}}, ingres: [{}]}",
        "shop/client -> shop/web TCP/80  ingress denied by shop/p
         shop/web -> shop/client TCP/80  egress denied by shop/p",
        "NetworkPolicy shop/p: spec.ingres: unknown field: the policy isolates in both directions and allows nothing",
    );
    shop_warned(
        "netpol shop/p {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, egress], ingress: [{}], egress: [{}]}",
        "shop/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         shop/web -> shop/client TCP/80  egress denied by shop/p",
        "NetworkPolicy shop/p: spec.policyTypes[1]: unknown type \"egress\": expected Ingress or Egress; the policy isolates in both directions",
    );
}

#[test]
fn a_peer_that_says_nothing_or_too_much_makes_the_rule_allow_nothing() {
    shop_warned(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{}, {podSelector: {}}]}, {from: [{ipBlock: {cidr: 0.0.0.0/0}, podSelector: {}}]}]}",
        "shop/client -> shop/web TCP/80  ingress denied by shop/p",
        "NetworkPolicy shop/p: spec.ingress[0].from[0]: empty: expected podSelector, namespaceSelector or ipBlock; the rule allows nothing
         NetworkPolicy shop/p: spec.ingress[1].from[0]: ipBlock beside a selector: expected one or the other; the rule allows nothing",
    );
}

// 3. Named ports.

const NAMED: &str = "
    pod a/one node-0 10.244.0.5 app=one http:8080/TCP http:5353/UDP
    pod a/two node-1 10.244.1.5 app=two http:9090/TCP
    pod a/three node-1 10.244.1.6 app=three
    ns a
";

#[test]
fn a_named_port_of_an_ingress_rule_is_each_destination_pods_own_per_protocol() {
    check(
        &format!(
            "{NAMED} netpol a/p {{podSelector: {{}}, ingress: [{{ports: [{{port: http}}, {{port: http, protocol: UDP}}]}}]}}"
        ),
        "a/three -> a/one TCP/8080  ingress by a/p spec.ingress[0]
         a/three -> a/one TCP/9090  ingress denied by a/p
         a/three -> a/one UDP/5353  ingress by a/p spec.ingress[0]
         a/three -> a/one UDP/8080  ingress denied by a/p
         a/three -> a/two TCP/9090  ingress by a/p spec.ingress[0]
         a/three -> a/two TCP/8080  ingress denied by a/p
         a/three -> a/two UDP/5353  ingress denied by a/p
         a/one -> a/three TCP/8080  ingress denied by a/p",
    );
}

#[test]
fn a_named_port_of_an_egress_rule_is_looked_up_on_the_peer_pods() {
    for peers in ["", "to: [{podSelector: {}}],", "to: [{ipBlock: {cidr: 10.0.0.0/8}}],"] {
        check(
            &format!(
                "{NAMED} netpol a/p {{podSelector: {{}}, policyTypes: [Egress], egress: [{{{peers} ports: [{{port: http}}]}}]}}"
            ),
            "a/three -> a/one TCP/8080  egress by a/p spec.egress[0]
             a/three -> a/one TCP/9090  egress denied by a/p
             a/three -> a/two TCP/9090  egress by a/p spec.egress[0]
             a/one -> a/two TCP/8080  egress denied by a/p
             a/one -> a/three TCP/8080  egress denied by a/p
             a/one -> 10.1.2.3 TCP/8080  egress denied by a/p",
        );
    }
}

#[test]
fn a_named_port_does_not_open_the_numbered_ports_beside_it_to_other_peers() {
    check(
        &format!(
            "{NAMED} netpol a/p {{podSelector: {{}}, policyTypes: [Egress], egress: [
                {{to: [{{podSelector: {{matchLabels: {{app: two}}}}}}], ports: [{{port: http}}, {{port: 53, protocol: UDP}}]}}]}}"
        ),
        "a/three -> a/two TCP/9090  egress by a/p spec.egress[0]
         a/three -> a/two UDP/53  egress by a/p spec.egress[0]
         a/three -> a/one TCP/8080  egress denied by a/p
         a/three -> a/one UDP/53  egress denied by a/p",
    );
}

// 4. ipBlock.

#[test]
fn an_ip_block_matches_any_address_but_what_is_carved_out() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [
            {ipBlock: {cidr: 10.244.0.0/15, except: [10.244.1.8/32, 10.245.0.0/16]}}, {ipBlock: {cidr: 'fd00:244::/32'}}]}]}",
        "shop/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         shop/client@6 -> shop/web@6 TCP/80  ingress by shop/p spec.ingress[0]
         other/client -> shop/web TCP/80  ingress denied by shop/p
         other/client@6 -> shop/web@6 TCP/80  ingress by shop/p spec.ingress[0]
         10.244.255.255 -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         10.245.0.0 -> shop/web TCP/80  ingress denied by shop/p
         10.243.255.255 -> shop/web TCP/80  ingress denied by shop/p
         node-1 -> shop/web TCP/80  ingress denied by shop/p
         fd00:245:: -> shop/web@6 TCP/80  ingress denied by shop/p",
    );
}

#[test]
fn all_of_one_family_is_nothing_of_the_other() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::/0'}}]}]}",
        "shop/client@6 -> shop/web@6 TCP/80  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web TCP/80  ingress denied by shop/p
         8.8.8.8 -> shop/web TCP/80  ingress denied by shop/p",
    );
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}",
        "shop/client@6 -> shop/web@6 TCP/80  ingress denied by shop/p
         node-1 -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]",
    );
}

#[test]
fn blocks_in_blocks_and_selectors_beside_them_add_up() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [
            {from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.244.0.0/16]}}], ports: [{port: 1}]},
            {from: [{ipBlock: {cidr: 10.244.1.0/24}}], ports: [{port: 2}]},
            {from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 3}]}]}",
        "shop/db -> shop/web TCP/1  ingress denied by shop/p
         shop/db -> shop/web TCP/2  ingress by shop/p spec.ingress[1]
         shop/db -> shop/web TCP/3  ingress by shop/p spec.ingress[2]
         other/client -> shop/web TCP/2  ingress by shop/p spec.ingress[1]
         other/client -> shop/web TCP/3  ingress denied by shop/p
         shop/client -> shop/web TCP/2  ingress denied by shop/p
         10.9.9.9 -> shop/web TCP/1  ingress by shop/p spec.ingress[0]",
    );
}

#[test]
fn a_bad_block_allows_nothing_and_the_peers_beside_it_stand() {
    let row = |block: &str, warning: &str| {
        shop_warned(
            &format!(
                "netpol shop/p {{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {block}}}, {{podSelector: {{}}}}]}}]}}"
            ),
            "shop/client -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
             10.9.9.9 -> shop/web TCP/80  ingress denied by shop/p",
            &format!(
                "NetworkPolicy shop/p: spec.ingress[0].from[0].ipBlock.{warning}; the block allows nothing"
            ),
        );
    };
    let no_block = "is no block of addresses: expected for example 10.0.0.0/8 or fd00::/8";
    row("{cidr: 10.0.0.0/33}", &format!("cidr: \"10.0.0.0/33\" {no_block}"));
    row("{cidr: 10.0.0.0}", &format!("cidr: \"10.0.0.0\" {no_block}"));
    row("{cidr: '::ffff:10.0.0.0/104'}", &format!("cidr: \"::ffff:10.0.0.0/104\" {no_block}"));
    let no_part = |except: &str, cidr: &str| {
        format!("except[0]: {except} is no proper part of {cidr}: expected a smaller block inside it")
    };
    row("{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}", &no_part("11.0.0.0/16", "10.0.0.0/8"));
    row("{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}", &no_part("10.0.0.0/8", "10.0.0.0/8"));
    row("{cidr: 'fd00::/8', except: [10.0.0.0/16]}", &no_part("10.0.0.0/16", "fd00::/8"));
}

#[test]
fn host_bits_of_a_block_do_not_matter() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.1.99/24, except: [10.244.1.9/31]}}]}]}",
        "shop/db -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
         other/client -> shop/web TCP/80  ingress denied by shop/p",
    );
}

// 5, 6, 7, 8, 10, 13.

#[test]
fn a_pod_always_reaches_itself() {
    shop(
        "netpol shop/p {podSelector: {}, policyTypes: [Ingress, Egress]}",
        "shop/web -> shop/web TCP/80  open
         shop/web@6 -> shop/web@6 UDP/80  open
         shop/web -> shop/client TCP/80  egress denied by shop/p; ingress denied by shop/p",
    );
}

#[test]
fn host_network_pods_are_their_nodes_address_and_no_selector_matches_them() {
    let cluster = format!(
        "{SHOP}
         pod shop/agent node-1 172.30.0.11 app=client hostNetwork
         netpol shop/p {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{}}}}]}}, {{from: [{{ipBlock: {{cidr: 172.30.0.11/32}}}}], ports: [{{port: 1}}]}}]}}"
    );
    check(
        &cluster,
        "shop/agent -> shop/web TCP/80  ingress denied by shop/p
         shop/agent -> shop/web TCP/1  ingress by shop/p spec.ingress[1]
         shop/web -> shop/agent TCP/80  open",
    );
    let world = Cluster::new(&cluster).world("node-0");
    let name = |ip: &str| world.pod_name_of(ip.parse().unwrap());
    assert_eq!(name("172.30.0.11").as_deref(), Some("node/node-1"));
    assert_eq!(name("10.244.1.8").as_deref(), Some("other/client"));
    assert_eq!(name("8.8.8.8"), None);
}

#[test]
fn the_address_of_a_finished_pod_is_its_next_owners() {
    for phase in ["Succeeded", "Failed"] {
        check(
            &format!(
                "{SHOP}
                 pod shop/job node-1 10.244.1.8 app=db tier=back {phase}
                 netpol shop/p {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: db}}}}}}]}}]}}"
            ),
            "shop/db -> shop/web TCP/80  ingress by shop/p spec.ingress[0]
             other/client -> shop/web TCP/80  ingress denied by shop/p",
        );
    }
}

#[test]
fn a_sctp_rule_isolates_and_is_never_read_as_tcp() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}",
        "shop/client -> shop/web SCTP/80  ingress by shop/p spec.ingress[0]
         shop/client -> shop/web SCTP/81  ingress denied by shop/p
         shop/client -> shop/web TCP/80  ingress denied by shop/p
         shop/client -> shop/web UDP/80  ingress denied by shop/p",
    );
}

#[test]
fn icmp_follows_rules_for_all_ports() {
    shop(
        "netpol shop/p {podSelector: {}, ingress: [{from: [{podSelector: {}}]}, {ports: [{port: 1, endPort: 65535}, {protocol: UDP}, {protocol: SCTP}]}]}",
        "shop/client -> shop/web ICMP  ingress by shop/p spec.ingress[0]
         shop/client@6 -> shop/web@6 ICMPv6  ingress by shop/p spec.ingress[0]
         other/client -> shop/web ICMP  ingress denied by shop/p
         other/client -> shop/web UDP/9  ingress by shop/p spec.ingress[1]",
    );
}

#[test]
fn label_changes_count_at_once_and_the_last_policy_gone_opens() {
    let text = format!(
        "{SHOP} netpol shop/p {{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{team: b}}}}}}]}}]}}"
    );
    let rows = "other/client -> shop/web TCP/80  ";
    check(&text, &format!("{rows}ingress by shop/p spec.ingress[0]"));
    check(&text.replace("ns other team=b", "ns other team=c"), &format!("{rows}ingress denied by shop/p"));
    let mut world = Cluster::new(&text).world("node-0");
    let name = |name: &str| ObjectKey {
        kind: Kind::NetworkPolicy,
        namespace: Some("shop".to_owned()),
        name: name.to_owned(),
    };
    world.delete(&name("p"));
    let tables = compile(&world).tables;
    assert!(tables.endpoints.values().all(|row| row.ingress.is_open() && row.egress.is_open()));
    assert!(tables.rules.is_empty() && tables.peers.is_empty() && tables.cidrs.is_empty());
}
