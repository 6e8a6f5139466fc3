//! However a sandbox ends, at whatever moment, the machine is as before. Needs root and the binaries beside this one
//! (`cargo xtask test netns` builds them).

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::command::{Run, links, processes, sandbox, traces, wait_for};
use tests::stage::{Manifests, require_root};
use tests::town::{namespace, pod, policy};
use tests::worlds::Dice;

fn shop() -> Manifests {
    require_root();
    let text = [
        namespace("shop", ""),
        pod("shop/web", 0, "app: web", "80"),
        pod("shop/friend", 1, "app: friend", "81"),
        policy("shop/web", "app: web", "ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]"),
    ];
    Manifests::new(&text.concat())
}

/// A sandbox that stays up until somebody ends it.
fn up(manifests: &Manifests) -> Run {
    Run::start(&mut sandbox(&[&manifests.0], &["--watch"]))
}

/// Somewhere between its first step and long after its last.
fn moment(dice: &mut Dice) -> Duration {
    Duration::from_micros(dice.below(1_500_000) as u64)
}

#[test]
fn a_signal_at_any_moment_leaves_nothing() {
    let (manifests, mut dice, before) = (shop(), Dice(4), links());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().cycle().take(9) {
        let moment = moment(&mut dice);
        let run = up(&manifests);
        let id = run.id();
        std::thread::sleep(moment);
        run.signal(signal);
        let output = run.wait();
        assert_eq!(traces(&id), Vec::<String>::new(), "{signal} after {moment:?}: {output:?}");
    }
    assert_eq!(links(), before);
}

#[test]
fn what_outlives_a_killed_supervisor_is_swept_by_the_next() {
    let (manifests, mut dice, before) = (shop(), Dice(8), links());
    let killed: Vec<String> = (0..4)
        .map(|_| {
            let moment = moment(&mut dice);
            let run = up(&manifests);
            let id = run.id();
            std::thread::sleep(moment);
            run.signal(Signal::SIGKILL);
            run.wait();
            // Whatever lives dies with it by itself, and with that every namespace and link.
            wait_for("its children to end", || processes(&id).is_empty().then_some(()));
            id
        })
        .collect();
    let output = Run::start(&mut sandbox(&[&manifests.0], &["-o", "json"])).wait();
    assert!(output.status.success(), "{output:?}");
    for id in killed {
        assert_eq!(traces(&id), Vec::<String>::new());
    }
    assert_eq!(links(), before);
}

#[test]
fn the_end_of_one_sandbox_is_nothing_to_another() {
    let manifests = shop();
    let other = up(&manifests);
    let (id, run) = (other.id(), Run::start(&mut sandbox(&[&manifests.0], &["-o", "json"])));
    // In the middle of the first one's bring-up, or of its measurements.
    std::thread::sleep(Duration::from_millis(500));
    other.signal(Signal::SIGKILL);
    other.wait();
    let output = run.wait();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdicts = |to: &str| -> Vec<(&str, &str)> {
        let probes = report["probes"].as_array().unwrap().iter().filter(|probe| probe["to"] == to);
        probes.map(|probe| (probe["from"].as_str().unwrap(), probe["verdict"].as_str().unwrap())).collect()
    };
    for (from, verdict) in verdicts("shop/web") {
        let expected = if ["outside", "node/node-1"].contains(&from) { "denied" } else { "allowed" };
        assert_eq!(verdict, expected, "{from}");
    }
    assert_eq!(report["warnings"].as_array().unwrap().len(), 0, "{report:#}");
    let output = Run::start(&mut sandbox(&[&manifests.0], &["-o", "json"])).wait();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(traces(&id), Vec::<String>::new());
}
