//! Services as the programs in a pod see them. Needs root and the binaries beside this one (`cargo xtask test netns`
//! builds them).

use std::net::SocketAddr;

use tests::node::{FAMILIES, Family};
use tests::stage::{Stage, block_on};
use tests::town::{namespace, open, pod, policy, shut};

fn town(policies: &str) -> String {
    let service = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{ipFamilyPolicy: RequireDualStack, selector: {{app: {name}}}, ports: [{{name: web, port: 8000, \
             targetPort: 80}}, {{name: talk, port: 5300, targetPort: 53, protocol: UDP}}]}}\n"
        )
    };
    [
        namespace("shop", ""),
        pod("shop/web", 0, "app: web", "80 53/UDP"),
        pod("shop/near", 0, "app: near", ""),
        pod("shop/far", 1, "app: far", ""),
        service("web"),
        service("nobody"),
        policies.to_owned(),
    ]
    .concat()
}

fn virtual_address(stage: &Stage, service: &str, family: Family, port: u16) -> SocketAddr {
    let services = &stage.sandbox.cast().services;
    let service = services.iter().find(|other| other.name == service).unwrap();
    let ip = service.cluster_ips.iter().find(|ip| ip.is_ipv4() == (family == Family::V4)).unwrap();
    SocketAddr::new(*ip, port)
}

/// What a program in a pod sees of an address.
async fn sees(stage: &Stage, from: &str, how: &str, to: SocketAddr) -> String {
    let client = env!("CARGO_BIN_EXE_weir-test-client");
    let output = stage.sandbox.pod(from).unwrap().exec(&[client, how, &to.to_string()]).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn programs_see_the_virtual_address_and_nothing_behind_it() {
    block_on(async {
        let stage = Stage::up(&town("")).await;
        for from in ["shop/near", "shop/far", "shop/web"] {
            for family in FAMILIES {
                for (how, port) in [("tcp", 8000), ("udp", 5300), ("datagram", 5300)] {
                    let to = virtual_address(&stage, "web", family, port);
                    let seen = sees(&stage, from, how, to).await;
                    assert_eq!(seen, format!("shop/web at {to}, at once"), "{how} from {from}");
                }
            }
        }
        stage.down().await;
    });
}

#[test]
fn line_11_a_service_without_endpoints_refuses_at_once() {
    block_on(async {
        let stage = Stage::up(&town("")).await;
        for from in ["shop/near", "shop/far"] {
            for family in FAMILIES {
                for (how, port) in [("tcp", 8000), ("udp", 5300), ("datagram", 5300)] {
                    let to = virtual_address(&stage, "nobody", family, port);
                    let seen = sees(&stage, from, how, to).await;
                    assert_eq!(seen, "ConnectionRefused, at once", "{how} from {from} to {to}");
                }
            }
        }
        stage.down().await;
    });
}

#[test]
fn line_11_egress_is_judged_on_the_backend_and_never_on_the_virtual_address() {
    block_on(async {
        let mut stage = Stage::up(&town("")).await;
        let [v4, v6] = FAMILIES.map(|family| virtual_address(&stage, "web", family, 8000).ip());
        let policies = [
            policy(
                "shop/near",
                "app: near",
                "policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]",
            ),
            // The addresses and the port that the program asks for, and nothing behind them.
            policy(
                "shop/far",
                "app: far",
                &format!(
                    "policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: {v4}/32}}}}, \
                     {{ipBlock: {{cidr: {v6}/128}}}}]}}, {{ports: [{{port: 8000}}]}}]"
                ),
            ),
        ];
        stage.apply(&town(&policies.concat())).await;
        for family in FAMILIES {
            let to = virtual_address(&stage, "web", family, 8000);
            assert_eq!(sees(&stage, "shop/near", "tcp", to).await, format!("shop/web at {to}, at once"));
            assert_eq!(sees(&stage, "shop/far", "tcp", to).await, "TimedOut, late", "{to}");
            let reason = stage.drop_reason(stage.ip("shop/far", family), stage.ip("shop/web", family)).await;
            assert_eq!(reason, "policy_denied", "{to}");
        }
        stage.down().await;
    });
}

#[test]
fn line_5_a_pod_reaches_itself_by_its_own_address_and_through_its_service() {
    block_on(async {
        let closed =
            policy("shop/web", "app: web", "policyTypes: [Ingress, Egress], ingress: [], egress: []");
        let mut stage = Stage::up(&town(&closed)).await;
        let report = stage.probe().await;
        open(&report, "shop/web", "shop/web", "80");
        open(&report, "shop/web", "shop/web", "53/UDP");
        for from in ["shop/near", "shop/far"] {
            shut(&report, from, "shop/web", "80", "ingress shop/web");
        }
        for family in FAMILIES {
            for (how, port) in [("tcp", 8000), ("datagram", 5300)] {
                let to = virtual_address(&stage, "web", family, port);
                assert_eq!(
                    sees(&stage, "shop/web", how, to).await,
                    format!("shop/web at {to}, at once"),
                    "{how}"
                );
            }
        }
        stage.down().await;
    });
}
