//! Rows: manifests in, the cast that a cluster would make of them out.

use super::*;
use crate::sample::{assert_text, cast, cast_with};

/// The cast in lines: pods, Services, namespaces nobody declared, warnings. The resolver's own objects are left out.
fn show(cast: &Cast) -> String {
    let mut out = String::new();
    for pod in cast.pods.iter().filter(|pod| !pod.system) {
        let listen: Vec<_> =
            pod.listen.iter().map(|listen| format!("{}/{}", listen.port, listen.protocol)).collect();
        let labels: Vec<_> = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let host = if pod.host_network { " host" } else { "" };
        out += &format!(
            "{} ({}) node-{}{host} [{}] {}\n",
            pod.key(),
            pod.workload,
            pod.node,
            listen.join(" "),
            labels.join(",")
        );
    }
    for service in cast.services.iter().filter(|service| !service.system) {
        let ips: Vec<_> = service.cluster_ips.iter().map(ToString::to_string).collect();
        out += &format!("Service {} {}\n", service.key(), ips.join(" "));
    }
    for warning in &cast.warnings {
        out += &format!("! {warning}\n");
    }
    out
}

#[track_caller]
fn check(yaml: &str, expected: &str) {
    check_with(yaml, |_| {}, expected);
}

#[track_caller]
fn check_with(yaml: &str, change: impl FnOnce(&mut Options), expected: &str) {
    let found = cast_with(yaml, change).map_or_else(|error| format!("error: {error}"), |cast| show(&cast));
    assert_text(&found, expected);
}

/// A workload whose template has one container with one port.
fn workload(kind: &str, name: &str, spec: &str) -> String {
    let version = match kind {
        "Job" => "batch/v1",
        "ReplicationController" => "v1",
        _ => "apps/v1",
    };
    format!(
        "---
apiVersion: {version}
kind: {kind}
metadata: {{name: {name}}}
spec:
  {spec}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: c, ports: [{{containerPort: 80}}]}}]}}
"
    )
}

#[test]
fn a_deployment_becomes_pods_with_a_template_hash_spread_over_the_nodes() {
    check(&workload("Deployment", "web", "replicas: 3"), "
        default/web-x9bs88qv9d-42q2z (Deployment default/web) node-0 [80/TCP] app=web,pod-template-hash=x9bs88qv9d
        default/web-x9bs88qv9d-7xr6m (Deployment default/web) node-0 [80/TCP] app=web,pod-template-hash=x9bs88qv9d
        default/web-x9bs88qv9d-gh4gb (Deployment default/web) node-1 [80/TCP] app=web,pod-template-hash=x9bs88qv9d
        ");
}

#[test]
fn stateful_pods_have_ordinals_and_their_own_labels() {
    check(
        &workload("StatefulSet", "db", "replicas: 2\n  serviceName: db"),
        "
        default/db-0 (StatefulSet default/db) node-0 [80/TCP] app=db,apps.kubernetes.io/pod-index=0,controller-revision-hash=db-7cdv98ws8q,statefulset.kubernetes.io/pod-name=db-0
        default/db-1 (StatefulSet default/db) node-1 [80/TCP] app=db,apps.kubernetes.io/pod-index=1,controller-revision-hash=db-7cdv98ws8q,statefulset.kubernetes.io/pod-name=db-1
        ",
    );
}

#[test]
fn a_daemon_set_has_one_pod_a_node_whatever_the_cap() {
    check_with(
        &workload("DaemonSet", "agent", "minReadySeconds: 0"),
        |options| options.replicas = Some(1),
        "
        default/agent-4b7t6 (DaemonSet default/agent) node-1 [80/TCP] app=agent,controller-revision-hash=dnrjfmp9kt,pod-template-generation=1
        default/agent-qd2bz (DaemonSet default/agent) node-0 [80/TCP] app=agent,controller-revision-hash=dnrjfmp9kt,pod-template-generation=1
        ",
    );
}

#[test]
fn jobs_run_as_many_pods_at_once_as_they_may() {
    check(&workload("Job", "count", "parallelism: 5\n  completions: 2\n  completionMode: Indexed"), "
        default/count-0-jfzkl (Job default/count) node-0 [80/TCP] app=count,batch.kubernetes.io/controller-uid=beb6ceb3-e93d-878b-be1b-0d7ad222d6fc,batch.kubernetes.io/job-completion-index=0,batch.kubernetes.io/job-name=count,controller-uid=beb6ceb3-e93d-878b-be1b-0d7ad222d6fc,job-name=count
        default/count-1-mn6ct (Job default/count) node-1 [80/TCP] app=count,batch.kubernetes.io/controller-uid=beb6ceb3-e93d-878b-be1b-0d7ad222d6fc,batch.kubernetes.io/job-completion-index=1,batch.kubernetes.io/job-name=count,controller-uid=beb6ceb3-e93d-878b-be1b-0d7ad222d6fc,job-name=count
        ");
    check(
        &workload("Job", "count", "suspend: true"),
        "! Job default/count: spec.suspend: no pod comes up while this is true",
    );
}

#[test]
fn a_cron_job_is_shown_as_one_job_of_it() {
    check(
        "apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: kube-system}
spec:
  schedule: '@daily'
  jobTemplate: {spec: {template: {spec: {containers: [{name: c}]}}}}
",
        "kube-system/nightly-21845478-fh8cq (CronJob kube-system/nightly) node-0 [] batch.kubernetes.io/controller-uid=dec0efb7-86bb-82dd-b2e4-c6c2bc016e22,batch.kubernetes.io/job-name=nightly-21845478,controller-uid=dec0efb7-86bb-82dd-b2e4-c6c2bc016e22,job-name=nightly-21845478",
    );
}

#[test]
fn replicas_are_capped_and_zero_means_none() {
    let slip = workload("Deployment", "web", "replicas: 4000000000");
    check(
        &slip,
        "error: test.yaml:2: Deployment default/web: spec.replicas: 4000000000 is more than a sandbox holds (10000); cap it with --replicas",
    );
    assert_eq!(cast_with(&slip, |options| options.replicas = Some(2)).unwrap().shown(false).count(), 2);
    let yaml = workload("ReplicaSet", "many", "replicas: 9")
        + &workload("ReplicationController", "none", "replicas: 0");
    check_with(
        &yaml,
        |options| options.replicas = Some(1),
        "default/many-cgmbk (ReplicaSet default/many) node-0 [80/TCP] app=many",
    );
}

#[test]
fn a_node_that_is_ours_is_honoured_and_another_is_a_warning() {
    let pod = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{spec}, containers: []}}\n"
        )
    };
    check(
        &[
            pod("a", "nodeName: node-1"),
            pod("b", "nodeSelector: {kubernetes.io/hostname: node-1}"),
            pod("c", "nodeName: gke-1234"),
            pod("d", "nodeSelector: {disk: ssd}"),
        ]
        .concat(),
        "
        default/a (Pod default/a) node-1 []
        default/b (Pod default/b) node-1 []
        default/c (Pod default/c) node-0 []
        default/d (Pod default/d) node-1 []
        ! Pod default/c: spec.nodeName: gke-1234 is none of the sandbox's nodes (node-0 to node-1); any will do
        ",
    );
}

#[test]
fn host_network_pods_go_where_their_ports_are_free() {
    check(
        &workload("Deployment", "proxy", "replicas: 3")
            .replace("spec: {containers", "spec: {hostNetwork: true, containers"),
        "
        default/proxy-9d25hw7htj-8rppz (Deployment default/proxy) node-1 host [80/TCP] app=proxy,pod-template-hash=9d25hw7htj
        default/proxy-9d25hw7htj-f4h62 (Deployment default/proxy) node-0 host [80/TCP] app=proxy,pod-template-hash=9d25hw7htj
        ! Pod default/proxy-9d25hw7htj-x9bmd: spec.hostNetwork: a host-network pod before it has taken its ports on every node: it does not come up
        ",
    );
}

#[test]
fn sidecars_count_and_plain_init_containers_do_not() {
    check(
        "apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  initContainers:
  - {name: setup, ports: [{containerPort: 1}]}
  - {name: mesh, restartPolicy: Always, ports: [{containerPort: 15001}]}
  containers:
  - {name: c, ports: [{containerPort: 53, protocol: UDP}, {containerPort: 38412, protocol: SCTP}]}
",
        "default/a (Pod default/a) node-0 [53/UDP 15001/TCP 38412/SCTP]",
    );
}

#[test]
fn pods_listen_where_services_lead_them() {
    check(
        "apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: by-name}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: by-number}
spec: {selector: {app: a}, ports: [{port: 9000, protocol: UDP}], ipFamilies: [IPv6]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: a}, ports: [{port: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {selector: {app: b}, ports: [{port: 1}], ipFamilyPolicy: SingleStack}
",
        "
        default/a (Pod default/a) node-0 [7000/TCP 8080/TCP 9000/UDP] app=a
        Service default/by-name 10.96.90.112 fd00:96::5a70
        Service default/by-number fd00:96::9d82
        Service default/elsewhere
        Service default/headless
        Service default/other 10.96.213.101
        ",
    );
}

#[test]
fn an_address_that_a_service_asks_for_is_given_if_it_can_be() {
    let service = |name: &str, ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: '{ip}', ports: [{{port: 1}}]}}\n"
        )
    };
    check(
        &[service("a", "10.96.7.7"), service("b", "10.96.7.7"), service("c", "192.0.2.1"), service("d", "")]
            .concat(),
        "
        Service default/a 10.96.7.7
        Service default/b 10.96.110.179 fd00:96::6eb3
        Service default/c 10.96.97.196 fd00:96::61c4
        Service default/d 10.96.201.50 fd00:96::c932
        ! Service default/b: spec.clusterIP: 10.96.7.7: belongs to another Service; it gets another
        ! Service default/c: spec.clusterIP: 192.0.2.1: not in the sandbox's Service ranges, 10.96.0.0/16 and fd00:96::/112; it gets another
        ",
    );
}

#[test]
fn two_pods_of_one_name_are_an_error_that_names_both() {
    let pod = |line: &str| {
        format!("{line}apiVersion: v1\nkind: Pod\nmetadata: {{name: db-0}}\nspec: {{containers: []}}\n")
    };
    check(
        &(pod("") + &pod("---\n")),
        "error: two objects are called Pod default/db-0: test.yaml:1 and test.yaml:6",
    );
    check(
        &(pod("") + &workload("StatefulSet", "db", "replicas: 1")),
        "error: two objects are called Pod default/db-0: Pod default/db-0 (test.yaml:1) and StatefulSet default/db (test.yaml:6)",
    );
}

#[test]
fn a_namespace_that_nobody_declares_is_made_and_said() {
    let yaml =
        workload("Deployment", "web", "replicas: 0").replace("name: web}", "name: web, namespace: shop}");
    check(
        &yaml,
        "! Namespace shop: nobody declares it; Deployment shop/web (test.yaml:2) lives there, so it is made, without labels",
    );
    let cast = cast(&yaml).unwrap();
    let labels: Vec<_> = cast.namespaces.iter().map(|it| it["metadata"]["labels"].to_string()).collect();
    assert_eq!(
        labels,
        ["default", "kube-system", "shop"]
            .map(|name| format!("{{\"kubernetes.io/metadata.name\":\"{name}\"}}"))
    );
}

#[test]
fn what_a_controller_makes_anyway_is_not_made_twice() {
    let set = workload("ReplicaSet", "web-1", "replicas: 1").replace(
        "name: web-1}\n",
        "name: web-1, ownerReferences: [{kind: Deployment, name: web, controller: true}]}\n",
    );
    check(&(workload("Deployment", "web", "replicas: 1") + &set), "
        default/web-x9bs88qv9d-42q2z (Deployment default/web) node-0 [80/TCP] app=web,pod-template-hash=x9bs88qv9d
        ! left out: 1 objects whose controller is among the manifests
        ");
}

#[test]
fn kinds_without_a_use_are_counted_and_policies_of_others_named() {
    check(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}
---
{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization}
---
{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: c}}
---
{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: d}}
---
{apiVersion: weir.dev/v1alpha1, kind: Expectation}
",
        "
        ! CiliumNetworkPolicy d: apiVersion: cilium.io/v2 is not supported (networking.k8s.io/v1 is): nothing of it is in force (test.yaml:9)
        ! skipped: ConfigMap ×2, Kustomization, Service (serving.knative.dev/v1)
        ",
    );
}

#[test]
fn a_wrong_field_is_an_error_that_names_it() {
    check(
        &workload("Deployment", "web", "replicas: many"),
        "error: test.yaml:2: Deployment default/web: spec.replicas: \"many\" is no whole number, 0 or more",
    );
    check(
        &workload("Deployment", "web", "replicas: 1").replace("{containerPort: 80}", "{containerPort: http}"),
        r#"error: test.yaml:2: Deployment default/web: spec.template.spec.containers[0].ports[0].containerPort: invalid type: string "http", expected i32"#,
    );
    check(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {}\n",
        "error: test.yaml:1: Deployment default/web: spec.template.spec: missing: there is no pod to bring up",
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: ../../etc}\nspec: {containers: []}\n",
        "error: test.yaml:1: Pod default/../../etc: metadata.name: names are lower-case letters, digits, `-` and `.`, at most 253 of them",
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {labels: {}}\nspec: {containers: []}\n",
        "error: test.yaml:1: Pod: metadata.name: every object needs one",
    );
}

#[test]
fn what_is_only_odd_is_a_warning_and_the_rest_works() {
    check(
        &workload("Deployment", "web", "replicas: 2\n  selector: {matchLabels: {app: wbe}}").replace(
            "[{containerPort: 80}]",
            "[{containerPort: 80}, {containerPort: 70000}, {containerPort: 81, protocol: HTTP}, {containerPort: 82, prot: UDP}]",
        ),
        r#"
        default/web-npwwv2vrxg-k6pgz (Deployment default/web) node-0 [80/TCP 82/TCP] app=web,pod-template-hash=npwwv2vrxg
        default/web-npwwv2vrxg-l4b44 (Deployment default/web) node-1 [80/TCP 82/TCP] app=web,pod-template-hash=npwwv2vrxg
        ! Deployment default/web: spec.selector.matchLabels: does not match the template's labels; an API server refuses this
        ! Deployment default/web: spec.template.spec.containers[0].ports[3].prot: unknown field
        ! Deployment default/web: spec.template.spec.containers[0].ports[1].containerPort: 70000 is no port (1 to 65535)
        ! Deployment default/web: spec.template.spec.containers[0].ports[2].protocol: "HTTP" is none of TCP, UDP, SCTP
        "#,
    );
}

#[test]
fn nodes_get_their_part_of_the_ranges() {
    let parts = |cidrs: &str, nodes| {
        let cidrs: Vec<IpNet> = cidrs.split(',').map(|cidr| cidr.parse().unwrap()).collect();
        super::nodes(nodes, &cidrs).map_or_else(
            |error| error.to_string(),
            |nodes| {
                nodes
                    .iter()
                    .flat_map(|node| &node.pod_cidrs)
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            },
        )
    };
    for (cidrs, nodes, expected) in [
        ("10.244.0.0/16,fd00:244::/48", 2, "10.244.0.0/24 fd00:244::/64 10.244.1.0/24 fd00:244:0:1::/64"),
        ("192.168.7.0/24", 1, "192.168.7.0/24"),
        ("192.168.7.0/28", 1, "192.168.7.0/28"),
        ("192.168.7.0/24", 2, "--pod-cidr 192.168.7.0/24: holds no 2 node ranges (a /24 or a /64 each)"),
        (
            "10.0.0.0/8,10.1.0.0/16",
            1,
            "--pod-cidr 10.1.0.0/16: a second range of this family; give one IPv4 and one IPv6 range at most",
        ),
        ("10.0.0.0/8", 241, "--nodes 241: a sandbox has 1 to 240 nodes"),
    ] {
        assert_eq!(parts(cidrs, nodes), expected);
    }
}

#[test]
fn a_new_workload_moves_nobody() {
    let old = workload("Deployment", "b", "replicas: 2");
    let new = workload("Deployment", "a", "replicas: 1") + &old;
    let before = cast(&old).unwrap();
    let sift = |yaml: &str| crate::manifest::sift(policy::manifest::documents("t", yaml).unwrap()).unwrap();
    let after = assemble(sift(&new), &Options::new(Vec::new()), Some(&before)).unwrap();
    for pod in &before.pods {
        let again = after.pod(&pod.key()).unwrap();
        assert_eq!((again.node, &again.uid), (pod.node, &pod.uid));
    }
}
