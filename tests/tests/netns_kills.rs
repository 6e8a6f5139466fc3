//! SIGKILL at random moments while policies change: what the maps hold then answers every flow, in each direction, as one
//! of the policies that were asked for, and the next agent brings them to the last of these. Needs root (`cargo xtask test
//! netns` builds the binaries). `WEIR_KILLS` and `WEIR_SEED` say how often, and which policies.

use std::time::Duration;

use common::net::protocol::{SCTP, TCP, UDP};
use policy::{Flow, Tables, oracle};
use tests::dice::Dice;
use tests::node::FAMILIES;
use tests::pins;
use tests::stage::{NODES, Stage, block_on};
use tests::town::{namespace, pod};
use tests::worlds::policy;

const PODS: [&str; 5] = ["one/a", "one/b", "two/c", "two/d", "two/e"];
const PORTS: [u16; 7] = [1, 79, 80, 81, 1024, 8080, 65535];
const KILLS: u64 = 40;
/// The victim; three of the pods are its own.
const NODE: &str = NODES[0];

fn town() -> String {
    let labels = ["app: x, tier: p", "app: y, tier: q", "app: x, tier: q", "app: y, tier: p", "app: x"];
    let pods = PODS.into_iter().zip(labels).enumerate();
    [namespace("one", "app: x, tier: p"), namespace("two", "app: y")]
        .into_iter()
        .chain(pods.map(|(index, (name, labels))| pod(name, (index % 2) as u8, labels, "80")))
        .collect()
}

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

struct Churn {
    stage: Stage,
    flows: Vec<Flow>,
}

/// May it pass: egress and ingress, where the end is an endpoint of the node.
type Answers = Vec<[bool; 2]>;

impl Churn {
    async fn begin() -> Self {
        let stage = Stage::up(&town()).await;
        let mut flows = Vec::new();
        for family in FAMILIES {
            for (from, to) in PODS.into_iter().flat_map(|from| PODS.map(|to| (from, to))) {
                for destination_port in PORTS {
                    for protocol in [TCP, UDP, SCTP] {
                        let [source, destination] = [from, to].map(|pod| stage.ip(pod, family));
                        flows.push(Flow { source, destination, destination_port, protocol });
                    }
                }
            }
        }
        Self { stage, flows }
    }

    /// What the specification says of each flow under these policies.
    fn specified(&self, policies: &str) -> Answers {
        let world = self.stage.world(policies);
        let judge = |flow: &Flow| {
            let opinions = oracle::judge(&world, flow);
            [opinions.egress, opinions.ingress].map(|opinion| opinion.unwrap().allowed)
        };
        self.flows.iter().map(judge).collect()
    }

    fn held(&self) -> Tables {
        pins::tables(self.stage.sandbox.pins(NODE).unwrap())
    }

    /// Fails unless the maps answer each flow as one of `asked_for` does, one direction at a time. Whether they answer as the
    /// first of them, and as the last.
    #[track_caller]
    fn check(&self, asked_for: &[Answers], context: &str) -> (bool, bool) {
        let held = self.held();
        let (mut as_first, mut as_last) = (true, true);
        for (index, flow) in self.flows.iter().enumerate() {
            let answer = held.lookup(flow);
            for (direction, judgement) in [answer.egress, answer.ingress].into_iter().enumerate() {
                let Some(judgement) = judgement else { continue };
                let mut agree =
                    asked_for.iter().map(|answers| answers[index][direction] == judgement.allowed);
                as_first &= asked_for[0][index][direction] == judgement.allowed;
                as_last &= asked_for[asked_for.len() - 1][index][direction] == judgement.allowed;
                let desired = agree.any(|agrees| agrees);
                assert!(
                    desired,
                    "{context}: {flow:?}, direction {direction}: {judgement:?} was never asked for"
                );
            }
        }
        (as_first, as_last)
    }
}

#[test]
fn killed_at_any_moment_the_datapath_answers_as_something_that_was_asked_for() {
    let kills = from_environment("WEIR_KILLS").unwrap_or(KILLS);
    // The moments are chance enough.
    let seed = from_environment("WEIR_SEED").unwrap_or(1);
    eprintln!("{kills} kills from WEIR_SEED={seed} on");
    block_on(async {
        let mut dice = Dice(seed);
        let churn = Churn::begin().await;
        let mut last = churn.specified("");
        // Kills that hit before, amid and after what they were to hit.
        let (mut untouched, mut between, mut done, mut same) = (0, 0, 0, 0);
        for kill in 0..kills {
            let context = format!("WEIR_SEED={seed}, kill {kill}");
            let mut policies = Vec::new();
            for _ in 0..1 + dice.below(3) {
                let some: Vec<String> = (0..1 + dice.below(4))
                    .map(|number| format!("---\n{}\n", policy(&mut dice, number)))
                    .collect();
                churn.stage.put_object_file("churn.yaml", &some.concat());
                policies.push(some.concat());
                // An agent reads, plans and writes within some milliseconds.
                let longest = dice.pick(&[3_000, 10_000, 20_000, 60_000]);
                tokio::time::sleep(Duration::from_micros(dice.below(longest) as u64)).await;
            }
            churn.stage.sandbox.kill_agent(NODE).await.unwrap();
            let mut asked_for = vec![last];
            asked_for.extend(policies.iter().map(|policies| churn.specified(policies)));
            match churn.check(&asked_for, &context) {
                (true, true) => same += 1,
                (false, true) => done += 1,
                (true, false) => untouched += 1,
                _ => between += 1,
            }
            // Half of them die once more, on their way up.
            if dice.happens(50) {
                let moment = Duration::from_micros(dice.below(120_000) as u64);
                let started = tokio::time::timeout(moment, churn.stage.sandbox.start_agent(NODE)).await;
                drop(started);
                churn.stage.sandbox.kill_agent(NODE).await.unwrap();
            }
            churn.stage.sandbox.start_agent(NODE).await.unwrap();
            last = asked_for.pop().unwrap();
            churn.check(std::slice::from_ref(&last), &format!("{context}, next agent"));
        }
        eprintln!(
            "{done} came after the change, {untouched} before it, {between} in between, {same} where it made no difference"
        );
        // So many by hand show that the moments are still random; fewer may all come too early on a slow machine.
        assert!(kills < 200 || untouched > 0 && done > 0, "the moments are no longer random");
        churn.stage.down().await;
    });
}
