//! A new agent over the pins of an older layout: real traffic through the real binaries does not notice. Needs root (`cargo
//! xtask test netns` builds them).

use std::fs;
use std::time::Duration;

use common::maps::LAYOUT_VERSION;
use tests::load::{Load, busy, check_untroubled};
use tests::node::Family;
use tests::stage::{NODES, Stage, block_on};
use tests::traffic::{Echo, IMPATIENCE, Outcome, tcp};

const SERVER: &str = "shop/server";
const ECHO: u16 = 7000;
const OLD: u32 = LAYOUT_VERSION - 1;
/// As where an agent of the same layout comes back.
const STALL: Duration = Duration::from_millis(900);

const SHOP: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n\
    ---\napiVersion: v1\nkind: Pod\nmetadata: {name: server, namespace: shop, labels: {role: server}}\n\
    spec: {nodeName: node-0, containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}\n\
    ---\napiVersion: v1\nkind: Pod\nmetadata: {name: near, namespace: shop, labels: {role: client}}\n\
    spec: {nodeName: node-0, containers: [{name: c, image: x}]}\n\
    ---\napiVersion: v1\nkind: Pod\nmetadata: {name: far, namespace: shop, labels: {role: client}}\n\
    spec: {nodeName: node-1, containers: [{name: c, image: x}]}\n\
    ---\napiVersion: v1\nkind: Pod\nmetadata: {name: stranger, namespace: shop}\n\
    spec: {nodeName: node-1, containers: [{name: c, image: x}]}\n\
    ---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all, namespace: shop}\n\
    spec: {podSelector: {}, policyTypes: [Ingress, Egress], \
    ingress: [{from: [{podSelector: {matchLabels: {role: client}}}]}], \
    egress: [{to: [{podSelector: {matchLabels: {role: server}}}]}]}\n";

#[test]
fn traffic_does_not_notice_that_an_agent_of_another_layout_takes_over() {
    block_on(async {
        let stage = Stage::up(SHOP).await;
        let server = stage.netns(SERVER);
        let _echo = Echo::start(&server, ECHO);
        let mut load = Load::default();
        let to = stage.addresses(SERVER, ECHO);
        busy(&mut load, "same node", &stage.netns("shop/near"), to);
        busy(&mut load, "across nodes", &stage.netns("shop/far"), to);
        load.vain_connections("a stranger", &stage.netns("shop/stranger"), to[0]);
        load.machine(&server);
        tokio::time::sleep(Duration::from_millis(400)).await;
        for node in NODES {
            stage.sandbox.kill_agent(node).await.unwrap();
            let pins = stage.sandbox.pins(node).unwrap().to_owned();
            let [ours, other] = [LAYOUT_VERSION, OLD].map(|number| pins.join(format!("layout-{number}")));
            // As if they were of an agent of the layout before: the same links, the same live tables.
            fs::rename(&ours, &other).unwrap();
            let refused = format!("{:#}", stage.sandbox.start_agent(node).await.unwrap_err());
            assert!(refused.contains(&format!("layout {OLD}")) && refused.contains("--migrate"), "{refused}");
            assert!(!ours.exists(), "nothing is made beside them");
            stage.sandbox.kill_agent(node).await.ok();
            // As an agent of another build than the sandbox's, which gives it options that it has never heard of.
            let unknown =
                stage.sandbox.start_agent_with(node, &["--unheard-of"]).await.unwrap_err().to_string();
            assert!(unknown.contains("'--unheard-of'") && unknown.contains("build both anew"), "{unknown}");
            stage.sandbox.kill_agent(node).await.ok();
            tokio::time::sleep(Duration::from_millis(300)).await;
            stage.sandbox.start_agent_with(node, &["--migrate"]).await.unwrap();
            assert!(ours.exists() && !other.exists());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let seen = load.finish();
        for seen in &seen {
            eprintln!("{:40} {:7} done, longest {:?}", seen.name, seen.done, seen.longest);
        }
        check_untroubled(&seen, STALL);
        assert_eq!(
            tcp(&stage.netns("shop/stranger"), stage.address(SERVER, Family::V4, 80), IMPATIENCE),
            Outcome::Silence
        );
        let reason =
            stage.drop_reason(stage.ip("shop/stranger", Family::V4), stage.ip(SERVER, Family::V4)).await;
        assert_eq!(reason, "policy_denied");
        stage.down().await;
    });
}
