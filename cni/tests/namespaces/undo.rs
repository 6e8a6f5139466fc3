//! Whatever goes wrong, and whenever: nothing stays, and nobody loses what is theirs.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Node, attachment, block_on, netns};
use netlink::{Handle, Netns};
use serde_json::json;

#[test]
fn an_agent_that_is_away_or_refuses_leaves_nothing_behind() {
    let (node, pod) = (Node::without_agent(), netns());
    let away = node.add("c1", pod.path());
    assert_eq!(away.code(), 11);
    assert!(away.complaint().starts_with("the agent is away ("), "{away:?}");
    node.must_be_empty();
    node.start_agent();
    for (transient, code) in [(true, 11), (false, 101)] {
        let message = "pod shop/web is not known".to_string();
        node.books().refuse = Some(api::Error { transient, message });
        let refused = node.add("c1", pod.path());
        assert_eq!(refused.code(), code);
        assert_eq!(refused.complaint(), "the agent refused: pod shop/web is not known");
        node.must_be_empty();
    }
    node.books().refuse = None;
    node.add("c1", pod.path()).ok();
}

#[test]
fn a_step_that_the_kernel_refuses_undoes_those_before_it() {
    let (node, pod) = (Node::new(), netns());
    let mut config = node.config();
    // Not an address of this node, so the very last step fails.
    config["nodeIPs"] = json!(["192.0.2.1"]);
    let refused = node.run(&attachment("ADD", "c1", pod.path()), &config);
    assert_eq!(refused.code(), 5);
    assert!(refused.complaint().starts_with("replace route 10.244.0.1/32 "), "{refused:?}");
    node.must_be_empty();
}

#[test]
fn a_pod_that_its_kernel_does_not_get_ready_is_undone_and_worth_another_try() {
    let (node, pod) = (Node::new(), netns());
    node.books().switch_v6_off = true;
    let refused = node.add("c1", pod.path());
    assert_eq!(refused.code(), 11, "{refused:?}");
    assert!(refused.complaint().starts_with("fd00:244::1 is not local to eth0 yet "), "{refused:?}");
    node.must_be_empty();
    node.books().switch_v6_off = false;
    node.add("c1", pod.path()).ok();
}

#[test]
fn a_full_range_is_worth_another_try_and_recovers() {
    let mut node = Node::new();
    node.ranges = vec!["10.244.0.0/30"];
    let pods = [netns(), netns(), netns()];
    node.add("c0", pods[0].path()).ok();
    node.add("c1", pods[1].path()).ok();
    let full = node.add("c2", pods[2].path());
    assert_eq!(full.code(), 11);
    assert_eq!(full.complaint(), "all addresses of 10.244.0.0/30 are taken: ");
    node.run("CNI_COMMAND=STATUS", &node.config()).ok();
    node.del("c0", pods[0].path()).ok();
    assert_eq!(node.add("c2", pods[2].path()).ok()["ips"][0]["address"], "10.244.0.1/32");
}

#[test]
fn the_same_add_twice_fails_and_the_first_keeps_what_it_has() {
    let (node, pod, other) = (Node::new(), netns(), netns());
    let result = node.add("c1", pod.path()).ok();
    let again = node.add("c1", pod.path());
    assert_eq!(again.code(), 100);
    assert!(again.complaint().starts_with("interface eth0 exists in "), "{again:?}");
    // The same container with another namespace.
    assert_eq!(node.add("c1", other.path()).code(), 100);
    assert_eq!(node.held(), ["10.244.0.1", "fd00:244::1"]);
    node.check("c1", pod.path(), &result).ok();
}

#[test]
fn an_interface_of_somebody_else_is_refused_and_stays() {
    let (node, pod) = (Node::new(), netns());
    block_on(async { Handle::in_netns(&pod).unwrap().create_bridge("eth0").await.unwrap() });
    assert_eq!(node.add("c1", pod.path()).code(), 100);
    node.must_be_empty();
    node.del("c1", pod.path()).ok();
    block_on(async {
        assert!(Handle::in_netns(&pod).unwrap().link_by_name("eth0").await.unwrap().is_some());
    });
}

#[test]
fn sixteen_pods_at_once_get_sixteen_addresses() {
    let node = Node::new();
    let pods: Vec<Netns> = (0..16).map(|_| netns()).collect();
    let each = |run: &(dyn Fn(usize) -> String + Sync)| -> BTreeSet<String> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..pods.len()).map(|n| scope.spawn(move || run(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let addresses =
        each(&|n| node.add(&format!("c{n}"), pods[n].path()).ok()["ips"][0]["address"].to_string());
    assert_eq!(addresses.len(), 16);
    assert_eq!((node.links().len(), node.held().len(), node.books().endpoints.len()), (16, 32, 16));
    each(&|n| node.del(&format!("c{n}"), pods[n].path()).ok().to_string());
    node.must_be_empty();
}

#[test]
fn the_same_add_eight_times_at_once_succeeds_once() {
    let (node, pod) = (Node::new(), netns());
    let successes: usize = std::thread::scope(|scope| {
        let add = || usize::from(node.add("c1", pod.path()).success);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(add)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(successes, 1);
    assert_eq!(node.held(), ["10.244.0.1", "fd00:244::1"]);
    assert_eq!(node.links().len(), 1);
    node.del("c1", pod.path()).ok();
    node.must_be_empty();
}

#[test]
fn del_works_with_nothing_left() {
    let (node, gone) = (Node::without_agent(), Path::new("/var/run/netns/gone-with-the-pod"));
    node.del("c1", gone).ok();
    node.run("CNI_COMMAND=DEL CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=", &node.config()).ok();
    assert!(!node.dir.join("cni").exists());
    node.start_agent();
    let pod = netns();
    node.add("c1", pod.path()).ok();
    std::fs::remove_file(node.socket()).unwrap();
    node.del("c1", gone).ok();
    assert!(node.links().is_empty() && node.held().is_empty());
}

#[test]
fn del_never_releases_what_a_stale_result_names() {
    let (node, pod, other) = (Node::new(), netns(), netns());
    let stale = node.add("c1", pod.path()).ok();
    node.del("c1", pod.path()).ok();
    let mut config = node.config();
    config["runtimeConfig"] = json!({ "ips": ["10.244.0.1", "fd00:244::1"] });
    let result = node.run(&attachment("ADD", "c2", other.path()), &config).ok();
    assert_eq!(result["ips"], stale["ips"]);
    let mut late = node.config();
    late["prevResult"] = stale;
    node.run(&attachment("DEL", "c1", pod.path()), &late).ok();
    assert_eq!(node.held(), ["10.244.0.1", "fd00:244::1"]);
    node.check("c2", other.path(), &result).ok();
    late["prevResult"] = json!("nonsense");
    node.run(&attachment("DEL", "c2", other.path()), &late).ok();
    node.must_be_empty();
}

#[test]
fn del_finds_a_link_whose_host_side_was_renamed() {
    let (node, pod) = (Node::new(), netns());
    node.add("c1", pod.path()).ok();
    let name = node.links().remove(0);
    let rename = || {
        let ip = |args: &[&str]| std::process::Command::new("ip").args(args).status().unwrap().success();
        ip(&["link", "set", &name, "down"]) && ip(&["link", "set", &name, "name", "veth0"])
    };
    assert!(node.netns.run(rename).unwrap());
    node.del("c1", pod.path()).ok();
    node.must_be_empty();
}

#[test]
fn a_hung_agent_does_not_hang_del() {
    let (node, pod) = (Node::new(), netns());
    node.add("c1", pod.path()).ok();
    node.books().hang = true;
    let started = Instant::now();
    node.del("c1", pod.path()).ok();
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    assert!(node.links().is_empty() && node.held().is_empty());
}

#[test]
fn an_add_that_is_killed_at_any_moment_is_undone_by_del() {
    let (node, pod) = (Node::new(), netns());
    let input = node.config().to_string();
    for step in 0..40 {
        let mut child = node.spawn(&attachment("ADD", "c1", pod.path()), input.as_bytes());
        std::thread::sleep(Duration::from_micros(250 * step));
        child.kill().ok();
        child.wait().unwrap();
        node.del("c1", pod.path()).ok();
        assert!(node.links().is_empty() && node.held().is_empty(), "killed after step {step}");
    }
    node.add("c1", pod.path()).ok();
}
