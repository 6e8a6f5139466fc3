//! An agent that is stopped leaves the datapath enforcing; a node that is booted anew comes back from what is on its disk.
//! Needs root and the binaries beside this one (`cargo xtask test netns` builds them).

use std::fs;
use std::path::Path;

use common::maps::LAYOUT_VERSION;
use netlink::Handle;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::command::wait_for;
use tests::node::FAMILIES;
use tests::stage::{Stage, block_on};
use tests::town::{namespace, pod, policy};
use tests::traffic::{Echo, IMPATIENCE, Outcome, PATIENCE, tcp};

const NODE: &str = "node-0";
const WEB: &str = "shop/web";
const FAR: &str = "shop/far";
const STRANGER: &str = "shop/stranger";
const ECHO: u16 = 7000;

fn shop() -> String {
    [
        namespace("shop", ""),
        pod(WEB, 0, "app: web", "80"),
        pod(FAR, 1, "app: friend", "81"),
        pod(STRANGER, 1, "app: stranger", "81"),
        policy(WEB, "app: web", "ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]"),
    ]
    .concat()
}

fn traffic_is_as_the_policy_says(stage: &Stage) {
    for family in FAMILIES {
        let to = stage.address(WEB, family, ECHO);
        assert_eq!(tcp(&stage.netns(FAR), to, PATIENCE), Outcome::Answered, "{family:?}");
        assert_eq!(tcp(&stage.netns(STRANGER), to, IMPATIENCE), Outcome::Silence, "{family:?}");
    }
}

#[test]
fn an_agent_that_is_told_to_stop_leaves_the_datapath_enforcing() {
    block_on(async {
        let stage = Stage::up(&shop()).await;
        let _echo = Echo::start(&stage.netns(WEB), ECHO);
        let (folder, before) = (stage.folder().join(NODE), stage.sandbox.status(NODE).await.unwrap());
        let pid = before.pid;
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM).unwrap();
        wait_for("the agent's end", || (!Path::new(&format!("/proc/{pid}/ns/net")).exists()).then_some(()));
        assert!(!folder.join("agent.sock").exists());
        assert!(folder.join("cni/10-weir.conflist").exists(), "without it the runtime could delete no pod");
        traffic_is_as_the_policy_says(&stage);
        let log = fs::read_to_string(folder.join("agent.log")).unwrap();
        assert!(log.trim_end().ends_with("the datapath goes on enforcing"), "{log}");
        stage.sandbox.kill_agent(NODE).await.ok();
        stage.sandbox.start_agent(NODE).await.unwrap();
        let status = stage.sandbox.status(NODE).await.unwrap();
        assert!(status.adopted && status.endpoints == before.endpoints, "{status:#?}");
        traffic_is_as_the_policy_says(&stage);
        stage.down().await;
    });
}

/// What a boot takes away: pins, and every namespace with its links. The folders of state are on disk.
#[test]
fn after_a_boot_the_agent_begins_anew_and_lets_go_of_what_was() {
    block_on(async {
        let stage = Stage::up(&shop()).await;
        let before = stage.sandbox.status(NODE).await.unwrap();
        stage.sandbox.kill_agent(NODE).await.unwrap();
        let node = stage.netns(&format!("node/{NODE}"));
        let links = Handle::in_netns(&node).unwrap();
        for endpoint in &before.endpoints {
            links.delete_link(endpoint.ifindex).await.unwrap();
        }
        let pins = stage.sandbox.pins(NODE).unwrap().join(format!("layout-{LAYOUT_VERSION}"));
        fs::remove_dir_all(&pins).unwrap();
        let state = stage.folder().join(NODE).join("cni-state");
        let on_disk = fs::read_dir(state.join("endpoints")).unwrap().count();
        assert_eq!(on_disk, before.endpoints.len(), "what was attached");

        stage.sandbox.start_agent(NODE).await.unwrap();
        let after = stage.sandbox.status(NODE).await.unwrap();
        assert!(after.ready && !after.adopted, "{after:#?}");
        assert_eq!(after.endpoints, []);
        assert_eq!(fs::read_dir(state.join("endpoints")).unwrap().count(), 0);
        assert_eq!(after.warnings, [""; 0]);
        stage.down().await;
    });
}
