//! Agents come and go; the datapath, its verdicts, its connections and its counters stay. Real traffic through the real
//! binaries: needs root (`cargo xtask test netns` builds them).

use std::collections::BTreeMap;
use std::time::Duration;

use api::{Status, VerdictKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use policy::{Flow, oracle};
use sandbox::report::{Probe, Report};
use tests::load::{Load, busy, check_untroubled};
use tests::node::{FAMILIES, Family};
use tests::stage::{NODES, Stage, block_on};
use tests::traffic::{Echo, IMPATIENCE, Outcome, PATIENCE, tcp, udp, udp_socket};
use tests::worlds::{Dice, policy};

const SERVER: &str = "shop/server";
const NEAR: &str = "shop/near";
const FAR: &str = "shop/far";
const STRANGER: &str = "shop/stranger";

fn shop() -> String {
    let pod = |name: &str, role: &str, node: u8| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{role: {role}}}}}\n\
             spec: {{nodeName: node-{node}, containers: [{{name: c, image: x, ports: [{{containerPort: 80}}]}}]}}\n"
        )
    };
    [
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
        &pod("server", "server", 0),
        &pod("near", "client", 0),
        &pod("far", "client", 1),
        &pod("stranger", "stranger", 1),
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: server, namespace: shop}\n\
         spec: {podSelector: {matchLabels: {role: server}}, \
         ingress: [{from: [{podSelector: {matchLabels: {role: client}}}]}]}\n",
    ]
    .concat()
}

const ECHO: u16 = 7000;
/// The longest that a connection may stand still while an agent dies or comes: a SYN that is lost is repeated after a second.
/// Other losses show among the datagrams, whatever the time.
const STALL: Duration = Duration::from_millis(900);

async fn status(stage: &Stage, node: &str) -> Status {
    stage.sandbox.status(node).await.expect("an agent that answers")
}

async fn kill_agents(stage: &Stage) {
    for node in NODES {
        stage.sandbox.kill_agent(node).await.unwrap();
    }
}

async fn start_agents(stage: &Stage) {
    for node in NODES {
        stage.sandbox.start_agent(node).await.unwrap();
    }
}

async fn wait(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[test]
fn traffic_does_not_notice_that_agents_die_and_come_back() {
    block_on(async {
        let stage = Stage::up(&shop()).await;
        let server = stage.netns(SERVER);
        let _echo = Echo::start(&server, ECHO);
        let before = [status(&stage, NODES[0]).await, status(&stage, NODES[1]).await];

        let mut load = Load::default();
        let to = stage.addresses(SERVER, ECHO);
        busy(&mut load, "same node", &stage.netns(NEAR), to);
        busy(&mut load, "across nodes", &stage.netns(FAR), to);
        load.datagrams(
            "datagrams, same node",
            &stage.netns(NEAR),
            &server,
            stage.address(SERVER, Family::V4, 7001),
        );
        load.datagrams(
            "datagrams, across nodes",
            &stage.netns(FAR),
            &server,
            stage.address(SERVER, Family::V6, 7001),
        );
        load.vain_connections("a stranger", &stage.netns(STRANGER), to[0]);
        load.vain_connections("a stranger over IPv6", &stage.netns(STRANGER), to[1]);
        load.machine(&server);

        for _ in 0..3 {
            wait(Duration::from_millis(400)).await;
            kill_agents(&stage).await;
            wait(Duration::from_millis(400)).await;
            start_agents(&stage).await;
        }
        wait(Duration::from_millis(400)).await;
        let seen = load.finish();
        for seen in &seen {
            eprintln!("{:40} {:7} done, longest {:?}", seen.name, seen.done, seen.longest);
        }
        check_untroubled(&seen, STALL);

        for (node, before) in NODES.into_iter().zip(before) {
            let after = status(&stage, node).await;
            assert_ne!(after.pid, before.pid);
            assert!(after.adopted, "{after:#?}");
            assert_eq!(after.generation, before.generation, "the plan was empty");
            assert_eq!(after.epoch, before.epoch);
            assert_eq!(after.endpoints, before.endpoints);
            assert_eq!(after.rule_sets, before.rule_sets);
            assert_eq!(after.warnings, Vec::<String>::new());
            assert_eq!(after.last_error, None);
            let now: BTreeMap<_, _> = after.counters.iter().map(|counter| (&counter.name, counter)).collect();
            for was in &before.counters {
                let is = now[&was.name];
                assert!(is.packets >= was.packets && is.bytes >= was.bytes, "{was:?} became {is:?}");
            }
        }
        // The reason survives too.
        for family in FAMILIES {
            assert_eq!(
                tcp(&stage.netns(STRANGER), stage.address(SERVER, family, 80), IMPATIENCE),
                Outcome::Silence
            );
            let reason = stage.drop_reason(stage.ip(STRANGER, family), stage.ip(SERVER, family)).await;
            assert_eq!(reason, "policy_denied");
        }
        stage.down().await;
    });
}

/// What tells the same traffic from other traffic: verdicts, not discovery, which has a clock of its own. Packets that pass
/// count together: a client that happens to get the port of an earlier one goes on with its connection, and does not begin
/// another.
const COUNTED: [&[&str]; 2] = [&["policy_denied"], &["rule", "open", "established"]];

async fn counted(stage: &Stage) -> Vec<(u64, u64)> {
    let mut sums = vec![(0, 0); COUNTED.len()];
    for node in NODES {
        for counter in status(stage, node).await.counters {
            if let Some(index) = COUNTED.iter().position(|names| names.contains(&counter.name.as_str())) {
                sums[index].0 += counter.packets;
                sums[index].1 += counter.bytes;
            }
        }
    }
    sums
}

/// Always the same packets: each datagram has its answer before the next is sent, and those of a stranger have none.
fn same_traffic(stage: &Stage) {
    let to = stage.addresses(SERVER, ECHO);
    for address in to {
        for client in [NEAR, FAR] {
            let netns = stage.netns(client);
            for _ in 0..25 {
                assert_eq!(udp(&netns, address, PATIENCE), Outcome::Answered, "{client} to {address}");
            }
        }
        let send = || {
            let socket = udp_socket(address).unwrap();
            (0..100).for_each(|_| assert_eq!(socket.send_to(&[1; 100], address).unwrap(), 100));
        };
        stage.netns(STRANGER).run(send).unwrap();
    }
}

fn difference(after: &[(u64, u64)], before: &[(u64, u64)]) -> Vec<(u64, u64)> {
    after.iter().zip(before).map(|(after, before)| (after.0 - before.0, after.1 - before.1)).collect()
}

#[test]
fn packets_are_counted_exactly_whether_an_agent_lives_or_not() {
    block_on(async {
        let stage = Stage::up(&shop()).await;
        let _echo = Echo::start(&stage.netns(SERVER), ECHO);
        let start = counted(&stage).await;
        same_traffic(&stage);
        let living = counted(&stage).await;
        kill_agents(&stage).await;
        same_traffic(&stage);
        start_agents(&stage).await;
        let dead = counted(&stage).await;
        let (living, dead) = (difference(&living, &start), difference(&dead, &living));
        assert_eq!(dead, living, "{COUNTED:?}");
        assert_eq!(living[0].0, 200, "every datagram of the stranger");
        stage.down().await;
    });
}

const ROUNDS: u64 = 20;

fn random_pods() -> String {
    let namespace = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{app: x, tier: p}}}}\n"
        )
    };
    let pod = |namespace: &str, name: &str, labels: &str, node: u8| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
             spec: {{nodeName: node-{node}, containers: [{{name: c, image: x, ports: [\
             {{name: http, containerPort: 80}}, {{containerPort: 79, protocol: UDP}}]}}]}}\n"
        )
    };
    [
        namespace("one"),
        namespace("two"),
        pod("one", "a", "app: x, tier: p", 0),
        pod("one", "b", "app: y, tier: q", 1),
        pod("two", "c", "app: x, tier: q", 0),
        pod("two", "d", "app: y, tier: p", 1),
    ]
    .concat()
}

fn random_policies(dice: &mut Dice) -> String {
    (0..1 + dice.below(4)).map(|number| format!("---\n{}\n", policy(dice, number))).collect()
}

/// Whether each direction lets it pass, egress first.
type Opinion = [bool; 2];

/// What the specification says of every probe between pods, by the objects that the agents read.
fn expected(stage: &Stage, report: &Report) -> Vec<Opinion> {
    let world = stage.world("");
    let opinion = |probe: &Probe| {
        let family = if probe.ip.is_ipv4() { Family::V4 } else { Family::V6 };
        let opinions = oracle::judge(
            &world,
            &Flow {
                source: stage.ip(&probe.from, family),
                destination: probe.ip,
                destination_port: probe.port,
                protocol: probe.protocol.number(),
            },
        );
        [opinions.egress, opinions.ingress].map(|opinion| opinion.unwrap().allowed)
    };
    between_pods(report).map(opinion).collect()
}

fn between_pods(report: &Report) -> impl Iterator<Item = &Probe> {
    let is_pod = |end: &str| report.pods.iter().any(|pod| format!("{}/{}", pod.namespace, pod.name) == end);
    report.probes.iter().filter(move |probe| is_pod(&probe.from) && is_pod(&probe.to))
}

/// Fails unless every probe came out as one of `opinions` of each direction has it.
#[track_caller]
fn check(report: &Report, opinions: &[&[Opinion]], context: &str) {
    for (index, probe) in between_pods(report).enumerate() {
        let passes = |wanted: bool| {
            let holds = |direction| opinions.iter().any(|opinions| opinions[index][direction] == wanted);
            if wanted { holds(0) && holds(1) } else { holds(0) || holds(1) }
        };
        assert!(passes(probe.verdict == VerdictKind::Allowed), "{context}: {probe:#?}");
    }
}

#[test]
fn killed_at_any_moment_of_a_change_agents_come_back_to_what_the_manifests_say() {
    block_on(async {
        let mut dice = Dice(20_260_101);
        let mut stage = Stage::up(&random_pods()).await;
        let mut denied = 0;
        let first = stage.probe().await;
        let mut last = expected(&stage, &first);
        check(&first, &[&last], "without a policy");
        for round in 0..ROUNDS {
            let node = dice.pick(&NODES);
            let policies = random_policies(&mut dice);
            // Half of them in the middle of a change, half while the next agent takes over.
            let amid_change = dice.happens(50);
            let moment = Duration::from_micros(dice.below(if amid_change { 80_000 } else { 150_000 }) as u64);
            let killer = |pid: u32| {
                std::thread::spawn(move || {
                    std::thread::sleep(moment);
                    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
                })
            };
            if amid_change {
                let killer = killer(status(&stage, node).await.pid);
                // It may have been in force before the agent died.
                let outcome = stage.try_apply(&(random_pods() + &policies)).await;
                killer.join().unwrap();
                eprintln!("round {round}: {node} killed after {moment:?}, then: {outcome:?}");
            } else {
                stage.sandbox.kill_agent(node).await.unwrap();
                // In force on the other node alone.
                stage.try_apply(&(random_pods() + &policies)).await.unwrap_err();
                let started = tokio::time::timeout(moment, stage.sandbox.start_agent(node)).await;
                eprintln!(
                    "round {round}: {node} killed {moment:?} after its start, ready: {}",
                    started.is_ok()
                );
            }
            stage.sandbox.kill_agent(node).await.unwrap();
            if round % 5 == 0 {
                // Nobody lives to change it: each direction is as in the last manifests or in these.
                let report = stage.probe().await;
                check(&report, &[&last, &expected(&stage, &report)], &format!("round {round}, agent dead"));
            }
            stage.sandbox.start_agent(node).await.unwrap();
            assert!(status(&stage, node).await.adopted, "round {round}");
            stage.apply(&(random_pods() + &policies)).await;
            let report = stage.probe().await;
            let wanted = expected(&stage, &report);
            check(&report, &[&wanted], &format!("round {round}: {policies}"));
            denied += wanted.iter().filter(|opinion| opinion.contains(&false)).count();
            last = wanted;
        }
        assert!(denied > 100, "only {denied} denied: these policies say too little");
        stage.down().await;
    });
}
