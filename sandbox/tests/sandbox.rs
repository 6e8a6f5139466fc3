//! A whole sandbox, by its library: real agents, the real plugin, real packets. Needs root and the binaries beside this
//! one (`cargo xtask test netns` builds them).

mod support;

use api::VerdictKind::{Allowed, Denied};
use sandbox::plan::Protocol::{Sctp, Tcp, Udp};
use sandbox::report::{By, Report};

use support::{Manifests, NAMESPACE, block_on, check, only_from, pod, probe, probes, up};

const WEB_PORTS: &str = "{containerPort: 80, name: http}, {containerPort: 53, protocol: UDP}, \
    {containerPort: 132, protocol: SCTP}";

fn web_and_two_clients() -> String {
    [NAMESPACE, &pod("web", WEB_PORTS), &pod("friend", ""), &pod("stranger", "{containerPort: 81}")].concat()
}

#[test]
fn every_protocol_and_family_is_measured_and_a_denial_names_its_policy() {
    block_on(async {
        let manifests = Manifests::new(&(web_and_two_clients() + &only_from("web", "friend")));
        let mut sandbox = up(&manifests).await;
        let report = probe(&mut sandbox).await;
        for (port, protocol) in [(80, Tcp), (53, Udp), (132, Sctp)] {
            check(&report, "shop/friend", "shop/web", port, protocol, Allowed);
            check(&report, "shop/stranger", "shop/web", port, protocol, Denied);
            check(&report, "outside", "shop/web", port, protocol, Denied);
            check(&report, "shop/web", "shop/web", port, protocol, Allowed);
            for denied in probes(&report, "shop/stranger", "shop/web", port, protocol) {
                let by = By {
                    direction: Some("ingress".into()),
                    policies: vec!["shop/web".into()],
                    rule: None,
                    reason: "policy_denied".into(),
                };
                assert_eq!(denied.by, Some(by));
            }
        }
        check(&report, "shop/web", "outside", 443, Tcp, Allowed);
        assert_eq!(report.warnings, Vec::<String>::new());
        sandbox.down().await.unwrap();
    });
}

#[test]
fn a_pods_own_node_reaches_it_and_another_node_does_not() {
    block_on(async {
        let manifests = Manifests::new(&(web_and_two_clients() + &only_from("web", "friend")));
        let mut sandbox = up(&manifests).await;
        let report = probe(&mut sandbox).await;
        let web = sandbox.cast().pod("shop/web").unwrap().node;
        for node in 0..2 {
            let verdict = if node == web { Allowed } else { Denied };
            check(&report, &format!("node/node-{node}"), "shop/web", 80, Tcp, verdict);
        }
        sandbox.down().await.unwrap();
    });
}

#[test]
fn a_changed_policy_and_a_pod_that_comes_or_goes_take_effect_in_place() {
    block_on(async {
        let manifests = Manifests::new(&web_and_two_clients());
        let mut sandbox = up(&manifests).await;
        check(&probe(&mut sandbox).await, "shop/stranger", "shop/web", 80, Tcp, Allowed);

        manifests
            .write(&(web_and_two_clients() + &only_from("web", "late") + &pod("late", "{containerPort: 1}")));
        apply(&mut sandbox, &manifests).await;
        let report = probe(&mut sandbox).await;
        check(&report, "shop/stranger", "shop/web", 80, Tcp, Denied);
        check(&report, "shop/late", "shop/web", 80, Tcp, Allowed);
        check(&report, "shop/web", "shop/late", 1, Tcp, Allowed);

        manifests.write(&web_and_two_clients());
        apply(&mut sandbox, &manifests).await;
        let report = probe(&mut sandbox).await;
        check(&report, "shop/stranger", "shop/web", 80, Tcp, Allowed);
        assert!(!report.probes.iter().any(|probe| probe.from == "shop/late" || probe.to == "shop/late"));
        sandbox.down().await.unwrap();
    });
}

async fn apply(sandbox: &mut sandbox::Sandbox, manifests: &Manifests) {
    let cast = manifests.cast(Some(sandbox.cast()));
    sandbox.apply(cast, &|_| ()).await.unwrap();
}

const SERVICES: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
    spec: {selector: {app: web}, ports: [{name: web, port: 8000, targetPort: http}, \
    {name: talk, port: 53, protocol: UDP}]}\n\
    ---\napiVersion: v1\nkind: Service\nmetadata: {name: nobody, namespace: shop}\n\
    spec: {selector: {app: nobody}, ports: [{port: 80}]}\n";

#[test]
fn services_lead_to_their_backends_and_refuse_where_there_are_none() {
    block_on(async {
        let manifests = Manifests::new(&(web_and_two_clients() + SERVICES));
        let mut sandbox = up(&manifests).await;
        let report = probe(&mut sandbox).await;
        let answers = |service: &str| -> Vec<_> {
            let ours = report.services.iter().filter(|probe| probe.name == service);
            ours.map(|probe| (probe.verdict, probe.backend.as_deref())).collect()
        };
        // Two ports, two families, three pods; the pod itself reaches itself through its Service too.
        assert_eq!(answers("web"), vec![(Allowed, Some("shop/web")); 12]);
        assert_eq!(answers("nobody"), vec![(Denied, None); 6]);
        sandbox.down().await.unwrap();
    });
}

#[test]
fn names_resolve_in_pods_as_in_a_cluster() {
    block_on(async {
        let manifests = Manifests::new(&(web_and_two_clients() + SERVICES));
        let sandbox = up(&manifests).await;
        let stub = env!("CARGO_BIN_EXE_weir-stub");
        let service = sandbox.cast().services.iter().find(|service| service.name == "web").unwrap();
        let mut expected: Vec<String> = service.cluster_ips.iter().map(ToString::to_string).collect();
        expected.sort();
        for name in ["web", "web.shop", "web.shop.svc.cluster.local"] {
            let output = sandbox.pod("shop/friend").unwrap().exec(&[stub, "resolve", name]).await.unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let mut found: Vec<String> = text.lines().map(str::to_owned).collect();
            found.sort();
            assert_eq!(found, expected, "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let output = sandbox.pod("shop/friend").unwrap().exec(&[stub, "resolve", "none"]).await.unwrap();
        assert!(!output.status.success(), "{output:?}");
        sandbox.down().await.unwrap();
    });
}

#[test]
fn killing_an_agent_changes_no_verdict_and_a_new_one_takes_over() {
    block_on(async {
        let manifests = Manifests::new(&(web_and_two_clients() + &only_from("web", "friend")));
        let mut sandbox = up(&manifests).await;
        let before = probe(&mut sandbox).await;
        for node in ["node-0", "node-1"] {
            sandbox.kill_agent(node).await.unwrap();
        }
        // Nobody tells flows now: verdicts only.
        assert_eq!(verdicts(&probe(&mut sandbox).await), verdicts(&before));
        for node in ["node-0", "node-1"] {
            sandbox.start_agent(node).await.unwrap();
        }
        let after = probe(&mut sandbox).await;
        assert_eq!(verdicts(&after), verdicts(&before));
        assert!(after.probes.iter().all(|probe| probe.verdict == Allowed || probe.by.is_some()));
        sandbox.down().await.unwrap();
    });
}

fn verdicts(report: &Report) -> Vec<(String, api::VerdictKind)> {
    let line = |probe: &sandbox::report::Probe| {
        (format!("{} {} {} {}", probe.from, probe.ip, probe.port, probe.protocol), probe.verdict)
    };
    report.probes.iter().map(line).collect()
}

#[test]
fn a_port_that_is_taken_costs_one_warning_and_nothing_else() {
    block_on(async {
        // The node itself listens on the kubelet's port.
        let host = pod("host", "{containerPort: 10250}").replace("spec: {", "spec: {hostNetwork: true, ");
        let manifests = Manifests::new(&[NAMESPACE, &host, &pod("web", WEB_PORTS)].concat());
        let mut sandbox = up(&manifests).await;
        let report = probe(&mut sandbox).await;
        let taken: Vec<_> = report.warnings.iter().filter(|warning| warning.contains("10250")).collect();
        assert!(
            matches!(taken.as_slice(), [one] if one.starts_with("Pod shop/host: port 10250/TCP")),
            "{:#?}",
            report.warnings
        );
        check(&report, "shop/host", "shop/web", 80, Tcp, Allowed);
        sandbox.down().await.unwrap();
    });
}

#[test]
fn a_sandbox_that_is_merely_dropped_leaves_nothing() {
    block_on(async {
        let manifests = Manifests::new(&web_and_two_clients());
        let sandbox = up(&manifests).await;
        let id = sandbox.id().to_owned();
        let folder = std::path::Path::new("/run/weir/sandbox").join(&id);
        assert!(folder.exists());
        drop(sandbox);
        assert!(!folder.exists());
        let mounts = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
        assert!(!mounts.contains(&id), "{mounts}");
        for line in mounts.lines().filter(|line| line.contains(" cgroup2 ")) {
            let root = line.split(' ').nth(1).unwrap();
            let left = std::fs::read_dir(root).unwrap().flatten();
            let left: Vec<_> =
                left.filter(|entry| entry.file_name().to_string_lossy().contains(&id)).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    });
}
