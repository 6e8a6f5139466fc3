//! NetworkPolicy v1 as `semantics.md` has it, line by line, by real connections over both families. Needs root and the
//! binaries beside this one (`cargo xtask test netns` builds them).

use std::net::{SocketAddr, UdpSocket};

use netlink::Handle;
use tests::denials::is_denied;
use tests::node::{FAMILIES, Family};
use tests::stage::{Stage, block_on};
use tests::town::{host_pod, namespace, open, pod, policy, shut};
use tests::traffic::{IMPATIENCE, PATIENCE, udp};

const SHOP: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: shop}}\n";
const WEB: &str = "ingress shop/web";

fn web(rest: &str) -> String {
    policy("shop/web", "app: web", rest)
}

/// `{}/32` and `{}/128`, of an end's addresses.
fn hosts(stage: &Stage, end: &str) -> [String; 2] {
    FAMILIES
        .map(|family| format!("{}/{}", stage.ip(end, family), if family == Family::V4 { 32 } else { 128 }))
}

#[test]
fn line_2_and_8_ports_and_protocols_and_sctp_is_never_read_as_tcp() {
    block_on(async {
        let pods = [
            SHOP,
            &pod("shop/web", 0, "app: web", "80 80/UDP 80/SCTP 81/UDP"),
            &pod("shop/client", 1, "", ""),
        ];
        let pods = pods.concat();
        let mut stage = Stage::up(&pods).await;
        for (ports, reached) in [
            ("{}", "80/TCP 80/UDP 80/SCTP 81/UDP"),
            ("{ports: [{port: 80}]}", "80/TCP"),
            ("{ports: [{port: 80, protocol: SCTP}]}", "80/SCTP"),
            ("{ports: [{protocol: UDP}]}", "80/UDP 81/UDP"),
        ] {
            stage.apply(&(pods.clone() + &web(&format!("ingress: [{ports}]")))).await;
            let report = stage.probe().await;
            for port in ["80/TCP", "80/UDP", "80/SCTP", "81/UDP"] {
                if reached.split(' ').any(|reached| reached == port) {
                    open(&report, "shop/client", "shop/web", port);
                } else {
                    shut(&report, "shop/client", "shop/web", port, WEB);
                }
            }
        }
        stage.down().await;
    });
}

#[test]
fn line_2_a_range_of_ports_holds_its_ends_and_a_crooked_one_nothing() {
    block_on(async {
        let pods = [
            SHOP,
            &pod("shop/web", 0, "app: web", "7999 8000 8005 8010 8011"),
            &pod("shop/client", 1, "", ""),
        ];
        let pods = pods.concat();
        let mut stage =
            Stage::up(&(pods.clone() + &web("ingress: [{ports: [{port: 8000, endPort: 8010}]}]"))).await;
        let report = stage.probe().await;
        for port in ["8000", "8005", "8010"] {
            open(&report, "shop/client", "shop/web", port);
        }
        for port in ["7999", "8011"] {
            shut(&report, "shop/client", "shop/web", port, WEB);
        }
        stage.apply(&(pods + &web("ingress: [{ports: [{port: 8010, endPort: 8000}]}]"))).await;
        let report = stage.probe().await;
        shut(&report, "shop/client", "shop/web", "8005", WEB);
        let warned =
            |warning: &String| warning.contains("NetworkPolicy shop/web: spec.ingress[0].ports[0].endPort");
        assert!(report.warnings.iter().any(warned), "{:#?}", report.warnings);
        stage.down().await;
    });
}

#[test]
fn line_3_named_ports_are_each_pods_own() {
    block_on(async {
        let pods = [
            SHOP,
            &pod("shop/web", 0, "app: web", "http=8080 9090"),
            &pod("shop/api", 1, "app: api", "http=9090 8080"),
            &pod("shop/client", 1, "app: client", ""),
        ]
        .concat();
        let named = |spec: &str| pods.clone() + &policy("shop/all", "", spec);
        let mut stage = Stage::up(&named("ingress: [{ports: [{port: http}]}]")).await;
        let report = stage.probe().await;
        for (to, own, other) in [("shop/web", "8080", "9090"), ("shop/api", "9090", "8080")] {
            open(&report, "shop/client", to, own);
            shut(&report, "shop/client", to, other, "ingress shop/all");
        }
        // In egress rules the name is looked up on the peers; a name that nobody serves matches nothing.
        let client = |port: &str| {
            let spec = format!(
                "policyTypes: [Egress], egress: [{{to: [{{podSelector: {{}}}}], ports: [{{port: {port}}}]}}]"
            );
            pods.clone() + &policy("shop/client", "app: client", &spec)
        };
        stage.apply(&client("http")).await;
        let report = stage.probe().await;
        for (to, own, other) in [("shop/web", "8080", "9090"), ("shop/api", "9090", "8080")] {
            open(&report, "shop/client", to, own);
            shut(&report, "shop/client", to, other, "egress shop/client");
        }
        stage.apply(&client("gopher")).await;
        let report = stage.probe().await;
        shut(&report, "shop/client", "shop/web", "8080", "egress shop/client");
        stage.down().await;
    });
}

#[test]
fn line_4_blocks_match_pods_nodes_and_outside_and_except_carves_out() {
    block_on(async {
        let pods = [
            SHOP,
            &pod("shop/web", 0, "app: web", "80"),
            &pod("shop/friend", 0, "", "80"),
            &pod("shop/carved", 1, "", "80"),
        ]
        .concat();
        let mut stage = Stage::up(&pods).await;
        let block = |cidr: &str, except: &str| format!("{{ipBlock: {{cidr: '{cidr}', except: [{except}]}}}}");
        let [carved4, carved6] = hosts(&stage, "shop/carved").map(|host| format!("'{host}'"));
        let pods_but_one = [block("10.244.0.0/16", &carved4), block("fd00:244::/32", &carved6)].join(", ");
        let only = |peers: &str| pods.clone() + &web(&format!("ingress: [{{from: [{peers}]}}]"));

        stage.apply(&only(&pods_but_one)).await;
        let report = stage.probe().await;
        open(&report, "shop/friend", "shop/web", "80");
        for from in ["shop/carved", "outside", "node/node-1"] {
            shut(&report, from, "shop/web", "80", WEB);
        }
        let one = |end: &str| hosts(&stage, end).map(|host| block(&host, "")).join(", ");
        let (node, outside) = (one("node/node-1"), one("outside"));
        stage.apply(&only(&node)).await;
        let report = stage.probe().await;
        open(&report, "node/node-1", "shop/web", "80");
        for from in ["shop/friend", "shop/carved", "outside"] {
            shut(&report, from, "shop/web", "80", WEB);
        }
        stage.apply(&only(&outside)).await;
        let report = stage.probe().await;
        open(&report, "outside", "shop/web", "80");
        for from in ["shop/friend", "shop/carved", "node/node-1"] {
            shut(&report, from, "shop/web", "80", WEB);
        }
        // Egress alike.
        stage
            .apply(&(pods.clone() + &web(&format!("policyTypes: [Egress], egress: [{{to: [{outside}]}}]"))))
            .await;
        let report = stage.probe().await;
        open(&report, "shop/web", "outside", "443");
        shut(&report, "shop/web", "shop/friend", "80", "egress shop/web");
        shut(&report, "shop/web", "node/node-1", "10250", "egress shop/web");
        stage.down().await;
    });
}

#[test]
fn line_1_and_13_selectors_and_or_and_changes_of_labels_on_both_nodes() {
    block_on(async {
        let town = |team: &str, app: &str| {
            [
                SHOP,
                &namespace("ops", &format!("team: {team}")),
                &pod("shop/web", 0, "app: web", "80"),
                &pod("shop/client", 1, "app: client", ""),
                &pod("shop/other", 0, "app: other", ""),
                &pod("ops/client", 1, &format!("app: {app}"), ""),
                &pod("ops/other", 0, "app: other", ""),
            ]
            .concat()
        };
        let both =
            "{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: client}}}";
        let either =
            "{namespaceSelector: {matchLabels: {team: ops}}}, {podSelector: {matchLabels: {app: client}}}";
        let from = |peers: &str| web(&format!("ingress: [{{from: [{peers}]}}]"));
        let all = ["shop/client", "shop/other", "ops/client", "ops/other"];
        let mut stage = Stage::up(&town("ops", "client")).await;
        for (text, reached) in [
            (town("ops", "client") + &from(both), &["ops/client"][..]),
            (town("ops", "client") + &from(either), &["shop/client", "ops/client", "ops/other"]),
            (town("ops", "client") + &from("{podSelector: {}}"), &["shop/client", "shop/other"]),
            (town("ops", "client") + &from("{namespaceSelector: {}}"), &all),
            // Labels that change, of the pod and of the namespace.
            (town("ops", "other") + &from(both), &[]),
            (town("ops", "client") + &from(both), &["ops/client"]),
            (town("dev", "client") + &from(both), &[]),
            (town("dev", "client") + &web("ingress: []"), &[]),
            // The last policy is gone.
            (town("dev", "client"), &all),
        ] {
            stage.apply(&text).await;
            let report = stage.probe().await;
            for from in all {
                if reached.contains(&from) {
                    open(&report, from, "shop/web", "80");
                } else {
                    shut(&report, from, "shop/web", "80", WEB);
                }
            }
        }
        stage.down().await;
    });
}

#[test]
fn line_1_egress_is_denied_by_default_but_for_dns_and_what_is_named() {
    block_on(async {
        let town = |rules: &str| {
            [
                SHOP,
                &pod("shop/web", 1, "app: web", "80"),
                &pod("shop/other", 1, "app: other", "80"),
                &pod("shop/client", 0, "app: client", "80"),
                &policy("shop/client", "app: client", &format!("policyTypes: [Egress], egress: [{rules}]")),
                "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                 spec: {selector: {app: web}, ports: [{port: 8000, targetPort: 80}]}\n",
            ]
            .concat()
        };
        let named = "{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}";
        let dns = "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}], \
                   ports: [{port: 53, protocol: UDP}, {port: 53}]}";
        let mut stage = Stage::up(&town(&format!("{named}, {dns}"))).await;
        let stub = tests::command::binary("weir-stub");
        let resolve = [stub.to_str().unwrap(), "resolve", "web"];
        let report = stage.probe().await;
        open(&report, "shop/client", "shop/web", "80");
        open(&report, "shop/other", "shop/client", "80");
        shut(&report, "shop/client", "shop/other", "80", "egress shop/client");
        shut(&report, "shop/client", "outside", "443", "egress shop/client");
        // Judged on the backend, never on the virtual address.
        for probe in report.services.iter().filter(|probe| probe.from == "shop/client") {
            assert_eq!(probe.backend.as_deref(), Some("shop/web"), "{probe:#?}");
        }
        let output = stage.sandbox.pod("shop/client").unwrap().exec(&resolve).await.unwrap();
        assert!(output.status.success(), "{output:?}");

        stage.apply(&town(named)).await;
        let netns = stage.netns("shop/client");
        let dns = stage.sandbox.cast().dns_pod().unwrap().key();
        for to in stage.addresses(&dns, 53) {
            let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
            let from = stage.ip("shop/client", family);
            is_denied(&stage, from, to, ("UDP", "egress shop/client"), || udp(&netns, to, IMPATIENCE)).await;
        }
        stage.down().await;
    });
}

#[test]
fn line_6_the_own_node_always_reaches_its_pods_and_host_network_pods_are_their_node() {
    block_on(async {
        let text = [
            SHOP,
            &pod("shop/web", 0, "app: web", "80 53/UDP"),
            &host_pod("shop/near-host", 0, "app: host", "7070"),
            &host_pod("shop/far-host", 1, "app: host", "7071"),
            &pod("shop/client", 1, "app: client", ""),
            &policy("shop/web", "app: web", "ingress: [{from: [{podSelector: {matchLabels: {app: host}}}]}]"),
            // Selects every pod; those of the host's network are none of its.
            &policy("shop/all", "", "ingress: []"),
        ]
        .concat();
        let mut stage = Stage::up(&text).await;
        let report = stage.probe().await;
        for port in ["80", "53/UDP"] {
            open(&report, "node/node-0", "shop/web", port);
            open(&report, "shop/near-host", "shop/web", port);
            for from in ["node/node-1", "shop/far-host", "shop/client"] {
                shut(&report, from, "shop/web", port, "ingress shop/all shop/web");
            }
        }
        open(&report, "shop/client", "shop/near-host", "7070");
        open(&report, "shop/web", "shop/far-host", "7071");

        // Whichever of the node's addresses it is that knocks.
        let node = stage.netns("node/node-0");
        let links = Handle::in_netns(&node).unwrap();
        for (family, extra) in FAMILIES.into_iter().zip(["192.0.2.7/32", "2001:db8:7::7/128"]) {
            let extra: ipnet::IpNet = extra.parse().unwrap();
            links.add_address(1, extra).await.unwrap();
            // The kernel makes an IPv6 address local a moment after it has taken it; an answer before that goes elsewhere.
            assert!(links.wait_until_local(extra.addr(), PATIENCE).await.unwrap());
            let to = stage.address("shop/web", family, 53);
            for own in [stage.ip("node/node-0", family), extra.addr()] {
                let ask = || -> std::io::Result<usize> {
                    let socket = UdpSocket::bind(SocketAddr::new(own, 0))?;
                    socket.set_read_timeout(Some(PATIENCE))?;
                    socket.send_to(b"hello", to)?;
                    socket.recv(&mut [0; 100])
                };
                let answer = node.run(ask).unwrap();
                assert!(answer.is_ok(), "{own} to {to}: {answer:?}");
            }
        }
        stage.down().await;
    });
}
