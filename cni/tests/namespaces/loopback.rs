//! The binary by its other name.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use netlink::{Handle, Netns};
use serde_json::{Value, json};

use crate::support::{Node, attachment, block_on, netns};

/// Runs it through a link, as `weir-agent install` makes it.
fn loopback(node: &Node, command: &str, pod: &Path) -> (bool, Value) {
    let link = node.dir.join("loopback");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_weir-cni"), &link).unwrap();
    }
    let environment = attachment(command, "c1", pod).replace("eth0", "lo");
    let variables = environment.split(' ').filter_map(|word| word.split_once('='));
    let mut child = Command::new(&link);
    child.env_clear().envs(variables).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = node.netns.run(|| child.spawn()).unwrap().unwrap();
    let config = json!({ "cniVersion": "1.1.0", "name": "cni-loopback", "type": "loopback" });
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

fn is_up(pod: &Netns) -> bool {
    let look = async { Handle::in_netns(pod).unwrap().link_by_name("lo").await.unwrap().unwrap().up };
    block_on(look)
}

#[test]
fn called_loopback_it_brings_lo_up_and_asks_no_agent() {
    let (node, pod) = (Node::without_agent(), netns());
    assert!(!loopback(&node, "CHECK", pod.path()).0, "it is down yet");
    let (well, answer) = loopback(&node, "ADD", pod.path());
    assert!(well && is_up(&pod), "{answer}");
    assert_eq!(answer["ips"][0]["address"], "127.0.0.1/8");
    assert!(loopback(&node, "CHECK", pod.path()).0);
    assert!(loopback(&node, "DEL", pod.path()).0 && !is_up(&pod));
    assert!(loopback(&node, "DEL", Path::new("/run/netns/gone")).0, "nothing is left to undo");
    // The runtime's own namespace by mistake.
    let (well, answer) = loopback(&node, "ADD", Path::new("/proc/self/ns/net"));
    assert!(!well && answer["msg"].as_str().unwrap().contains("CNI_NETNS"), "{answer}");
    node.must_be_empty();
}
