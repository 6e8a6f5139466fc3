//! CHECK, GC and STATUS against what really changed.

use std::time::{Duration, Instant};

use crate::support::{Node, attachment, netns};
use netlink::Netns;
use serde_json::{Value, json};

fn ip(netns: &Netns, command: &str) {
    let run = || std::process::Command::new("ip").args(command.split(' ')).status().unwrap();
    assert!(netns.run(run).unwrap().success(), "ip {command}");
}

/// Adds a pod, damages it with `damage`, and looks for `complaint` in what CHECK says.
#[track_caller]
fn check_finds(damage: impl FnOnce(&Node, &Netns, &str), complaint: &str) {
    let (node, pod) = (Node::new(), netns());
    let result = node.add("c1", pod.path()).ok();
    node.check("c1", pod.path(), &result).ok();
    let host = result["interfaces"][0]["name"].as_str().unwrap();
    damage(&node, &pod, host);
    let checked = node.check("c1", pod.path(), &result);
    let found = checked.complaint();
    assert!(found.replace(host, "HOST").contains(complaint), "{found}");
}

#[test]
fn check_finds_what_is_missing_in_the_pod() {
    check_finds(|_, pod, _| ip(pod, "link set eth0 down"), "interface eth0 is down");
    check_finds(
        |_, pod, _| ip(pod, "addr del 10.244.0.1/32 dev eth0"),
        "address 10.244.0.1/32 is missing in the pod",
    );
    check_finds(
        |_, pod, _| ip(pod, "-6 addr del fd00:244::1/128 dev eth0"),
        "address fd00:244::1/128 is missing in the pod",
    );
    check_finds(|_, pod, _| ip(pod, "route del default"), "route 0.0.0.0/0 via 169.254.1.1");
    check_finds(|_, pod, _| ip(pod, "-6 route del default"), "route ::/0 via fe80::1");
    check_finds(|_, pod, _| ip(pod, "neigh del fe80::1 dev eth0"), "permanent neighbour fe80::1 is missing");
    check_finds(|_, pod, _| ip(pod, "link del eth0"), "interface eth0 is missing in /proc/");
}

#[test]
fn check_finds_what_is_missing_on_the_host() {
    check_finds(
        |node, _, host| ip(&node.netns, &format!("link set {host} down")),
        "host interface HOST is down",
    );
    check_finds(
        |node, _, host| ip(&node.netns, &format!("route del 10.244.0.1/32 dev {host}")),
        "route 10.244.0.1/32",
    );
    check_finds(
        |node, _, host| ip(&node.netns, &format!("neigh del 10.244.0.1 dev {host}")),
        "permanent neighbour 10.244.0.1 is missing on the host",
    );
    check_finds(
        |_, pod, _| {
            ip(pod, "link set eth0 down");
            ip(pod, "link set eth0 address 02:00:00:00:00:99 up");
        },
        "permanent neighbour 10.244.0.1 is missing on the host",
    );
}

#[test]
fn check_finds_what_the_agent_has_lost() {
    check_finds(|node, _, _| node.books().programs_missing = true, "the programs are not attached");
    check_finds(|node, _, _| node.books().rows_missing = true, "the endpoint's map rows are missing");
    check_finds(|node, _, _| node.books().endpoints.clear(), "the agent does not know the endpoint");
    check_finds(|node, _, _| std::fs::remove_file(node.socket()).unwrap(), "the agent is away");
}

#[test]
fn check_puts_up_with_what_later_plugins_changed() {
    let (node, pod) = (Node::new(), netns());
    let mut result = node.add("c1", pod.path()).ok();
    ip(&pod, "addr add 192.0.2.1/24 dev eth0");
    ip(&pod, "route del default");
    ip(&pod, "route add 10.96.0.0/16 via 169.254.1.1 dev eth0");
    result["routes"] = json!([{ "dst": "10.96.0.0/16", "gw": "169.254.1.1" }]);
    result["ips"].as_array_mut().unwrap().push(json!({ "address": "192.0.2.1/24" }));
    assert_eq!(node.check("c1", pod.path(), &result).ok(), Value::Null);
}

#[test]
fn check_needs_a_result_and_the_namespace() {
    let (node, pod) = (Node::new(), netns());
    let result = node.add("c1", pod.path()).ok();
    assert_eq!(node.run(&attachment("CHECK", "c1", pod.path()), &node.config()).code(), 7);
    assert_eq!(node.check("c1", std::path::Path::new("/var/run/netns/none"), &result).code(), 3);
    assert_eq!(node.check("c2", pod.path(), &result).code(), 102);
}

#[test]
fn gc_takes_what_is_not_named_under_either_key() {
    let (node, pods) = (Node::new(), [netns(), netns(), netns()]);
    for (n, pod) in pods.iter().enumerate() {
        node.add(&format!("c{n}"), pod.path()).ok();
    }
    let keep =
        |ids: &[&str]| Value::from_iter(ids.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })));
    let mut config = node.config();
    assert_eq!(node.run("CNI_COMMAND=GC", &config).code(), 7);
    config["cni.dev/valid-attachments"] = keep(&["c0"]);
    config["cni.dev/attachments"] = keep(&["c1"]);
    assert_eq!(node.run("CNI_COMMAND=GC", &config).ok(), Value::Null);
    assert_eq!((node.links().len(), node.held().len(), node.books().endpoints.len()), (2, 4, 2));
    config["cni.dev/attachments"] = Value::Null;
    node.run("CNI_COMMAND=GC", &config).ok();
    assert_eq!(node.held(), ["10.244.0.1", "fd00:244::1"]);
    config["cni.dev/valid-attachments"] = json!([]);
    node.run("CNI_COMMAND=GC", &config).ok();
    node.must_be_empty();
}

#[test]
fn gc_leaves_other_networks_and_other_links_alone() {
    let (node, pods) = (Node::new(), [netns(), netns()]);
    let mut other = node.config();
    other["name"] = "storage".into();
    node.add("c0", pods[0].path()).ok();
    node.run(&attachment("ADD", "c1", pods[1].path()), &other).ok();
    ip(&node.netns, "link add weir0 type veth peer name weir1");
    let mut config = node.config();
    config["cni.dev/valid-attachments"] = json!([]);
    node.run("CNI_COMMAND=GC", &config).ok();
    assert_eq!(node.held(), ["10.244.0.2", "fd00:244::2"]);
    assert_eq!(node.links().len(), 3);
    assert_eq!(node.books().collected[0].attachments[0].container_id, "c1");
}

#[test]
fn gc_goes_on_without_the_agent_and_says_so() {
    let (node, pod) = (Node::new(), netns());
    node.add("c0", pod.path()).ok();
    std::fs::remove_file(node.socket()).unwrap();
    let mut config = node.config();
    config["cni.dev/valid-attachments"] = json!([]);
    let collected = node.run("CNI_COMMAND=GC", &config);
    assert_eq!(collected.code(), 11);
    assert!(node.links().is_empty() && node.held().is_empty());
}

#[test]
fn gc_and_status_came_with_1_1_0() {
    let node = Node::new();
    let mut config = node.config();
    config["cniVersion"] = "1.0.0".into();
    config["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(node.run("CNI_COMMAND=GC", &config).code(), 1);
    assert_eq!(node.run("CNI_COMMAND=STATUS", &config).code(), 1);
}

#[test]
fn status_says_no_only_after_the_grace() {
    let node = Node::without_agent();
    let mut config = node.config();
    assert_eq!(node.run("CNI_COMMAND=STATUS", &config).ok(), Value::Null);
    assert_eq!(node.run("CNI_COMMAND=STATUS", &config).ok(), Value::Null);
    config["statusGraceSeconds"] = 1.into();
    let started = Instant::now();
    let refused = loop {
        let status = node.run("CNI_COMMAND=STATUS", &config);
        if !status.success {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(25));
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(refused.code(), 50);
    node.start_agent();
    node.run("CNI_COMMAND=STATUS", &config).ok();
    std::fs::remove_file(node.socket()).unwrap();
    // A new absence has a new grace.
    assert_eq!(node.run("CNI_COMMAND=STATUS", &config).ok(), Value::Null);
    config["statusGraceSeconds"] = 0.into();
    assert_eq!(node.run("CNI_COMMAND=STATUS", &config).code(), 50);
}
