//! Endpoints: what the runtime attached, whose it is, and what it shares with others.

use super::network_policy::SHOP;
use super::world::{Cluster, check, check_warned};
use crate::compile::compile;
use crate::object::{Kind, ObjectKey};
use crate::world::{Attachment, PodRef};

#[test]
fn a_pod_in_an_undeclared_namespace_works_with_a_warning() {
    check_warned(
        "pod lost/web node-0 10.244.0.5 app=web
         pod lost/client node-1 10.244.1.6
         netpol lost/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: lost}}}]}]}",
        "lost/client -> lost/web TCP/80  ingress by lost/p spec.ingress[0]
         8.8.8.8 -> lost/web TCP/80  ingress denied by lost/p",
        "Pod lost/client: metadata.namespace: namespace lost is not declared: it is taken to have no label but kubernetes.io/metadata.name",
    );
}

#[test]
fn a_static_pod_is_known_by_its_mirror_annotation() {
    let cluster = "
        pod kube-system/etcd node-0 10.244.0.9 app=etcd uid:api mirror:hash
        netpol kube-system/p {podSelector: {matchLabels: {app: etcd}}}";
    check(cluster, "8.8.8.8 -> kube-system/etcd TCP/80  ingress denied by kube-system/p");
    let world = Cluster::new(cluster).world("node-0");
    let knows = |uid| world.knows_pod("kube-system", "etcd", uid);
    assert_eq!([Some("api"), Some("hash"), Some("old"), None].map(knows), [true, true, false, true]);
    assert!(!world.knows_pod("kube-system", "other", None));
}

#[test]
fn an_attachment_outlives_its_pod_with_the_labels_it_had_and_a_new_uid_is_a_new_pod() {
    let text = format!("{SHOP} netpol shop/p {{podSelector: {{matchLabels: {{app: web}}}}}}");
    let mut world = Cluster::new(&text).world("node-0");
    let web = "10.244.0.5".parse::<std::net::IpAddr>().unwrap();
    let isolated =
        |world: &crate::world::World| !compile(world).tables.endpoints[&web.into()].ingress.is_open();
    assert!(isolated(&world));

    let key = ObjectKey { kind: Kind::Pod, namespace: Some("shop".to_owned()), name: "web".to_owned() };
    world.delete(&key);
    assert!(isolated(&world), "gone from the API, still attached");
    assert!(!world.knows_pod("shop", "web", None));

    let successor = Cluster::new("pod shop/web node-0 10.244.0.99 app=other uid:next");
    world.apply(successor.objects[0].0.clone(), &[]);
    assert!(isolated(&world), "the successor's labels are not the old pod's");
    assert_eq!(world.pod_name_of(web).as_deref(), Some("shop/web"));

    world.attach(successor.attachments[0].1.clone());
    let tables = compile(&world).tables;
    assert!(!tables.endpoints.contains_key(&web.into()), "same container: the attachment was replaced");
    assert!(world.detach("container of shop/web", "eth0"));
    assert!(!world.detach("container of shop/web", "eth0"));
}

#[test]
fn an_attachment_that_is_no_pod_is_never_selected_and_one_of_an_unknown_pod_is_closed() {
    let mut world = Cluster::new("netpol default/p {podSelector: {}, ingress: [{}]}").world("node-0");
    let attachment = |container_id: &str, ip: &str, pod| Attachment {
        container_id: container_id.to_owned(),
        ifname: "eth0".to_owned(),
        pod,
        ifindex: 7,
        ips: vec![ip.parse().unwrap()],
    };
    world.attach(attachment("bare", "10.244.0.1", None));
    let pod = PodRef { namespace: "default".to_owned(), name: "x".to_owned(), uid: None };
    world.attach(attachment("unknown", "10.244.0.2", Some(pod)));
    let compiled = compile(&world);
    let row = |ip: &str| compiled.tables.endpoints[&ip.parse::<std::net::IpAddr>().unwrap().into()];
    assert!(row("10.244.0.1").ingress.is_open() && row("10.244.0.1").egress.is_open());
    assert!(!row("10.244.0.2").ingress.is_open() && !row("10.244.0.2").egress.is_open());
    assert_eq!(compiled.warnings.len(), 1, "{:?}", compiled.warnings);
}

#[test]
fn the_attachment_says_which_addresses_a_local_pod_has() {
    let mut cluster = Cluster::new(&format!(
        "{SHOP} netpol shop/p {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: client}}}}}}]}}]}}"
    ));
    // The runtime gave the client another address than its (stale) status says.
    cluster.attachments[1].1.ips = vec!["10.244.0.66".parse().unwrap()];
    let world = cluster.world("node-0");
    assert_eq!(world.pod_name_of("10.244.0.66".parse().unwrap()).as_deref(), Some("shop/client"));
    assert_eq!(world.pod_name_of("10.244.0.6".parse().unwrap()), None);
}

#[test]
fn established_connections_are_kept_only_if_every_isolating_policy_says_so() {
    let flags = |policies: &str| {
        let world = Cluster::new(&format!("{SHOP} yaml\n{policies}")).world("node-0");
        let web = "10.244.0.5".parse::<std::net::IpAddr>().unwrap();
        compile(&world).tables.endpoints[&web.into()].flags
    };
    let policy = |name: &str, keep: &str, types: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop, annotations: {{{keep}}}}}\nspec: {{policyTypes: [{types}]}}\n"
        )
    };
    let keep = "weir.dev/established: keep";
    assert_eq!(flags(&policy("a", keep, "Ingress")), 1);
    assert_eq!(flags(&policy("a", keep, "Ingress, Egress")), 3);
    assert_eq!(flags(&(policy("a", keep, "Ingress, Egress") + &policy("b", "", "Ingress"))), 2);
    assert_eq!(flags(&policy("a", "weir.dev/established: maybe", "Ingress")), 0);
    assert_eq!(flags(""), 0);
}

#[test]
fn replicas_share_a_rule_set_and_selectors_of_no_local_policy_make_no_class() {
    let world = Cluster::new(
        "ns a
         pod a/one node-0 10.0.0.1 app=x id=1
         pod a/two node-0 10.0.0.2 app=x id=2
         pod a/far node-1 10.0.1.1 app=far
         netpol a/here {podSelector: {matchLabels: {app: x}}, ingress: [{from: [{podSelector: {matchLabels: {app: x}}}]}]}
         netpol a/there {podSelector: {matchLabels: {app: far}}, ingress: [{from: [{podSelector: {matchLabels: {id: '1'}}}, {ipBlock: {cidr: 9.0.0.0/8}}]}]}",
    )
    .world("node-0");
    let compiled = compile(&world);
    assert_eq!(compiled.names.rule_sets.len(), 1);
    let classes: std::collections::BTreeSet<_> = compiled.tables.peers.values().collect();
    assert_eq!(
        (compiled.tables.peers.len(), classes.len()),
        (2, 1),
        "labels that nobody asks for tell nobody apart"
    );
    assert!(compiled.tables.cidrs.is_empty());
}

#[test]
fn a_rule_for_everyone_costs_its_rows_once() {
    let compiled = compile(
        &Cluster::new(&format!(
            "{SHOP} netpol shop/p {{podSelector: {{}}, ingress: [{{ports: [{{port: 80}}]}}, {{from: [{{podSelector: {{}}}}, {{ipBlock: {{cidr: 9.0.0.0/8}}}}], ports: [{{port: 80}}]}}]}}"
        ))
        .world("node-0"),
    );
    assert_eq!(compiled.tables.rules.len(), 1, "{:?}", compiled.tables.rules);
}
