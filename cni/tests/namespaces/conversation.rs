//! The whole conversation with a runtime: what is answered, what is made, and that nothing stays.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::support::{NODE_V4, NODE_V6, Node, attachment, block_on, netns};
use netlink::{GATEWAY_V4, HOST_MAC, Handle, Neighbour};
use serde_json::{Value, json};

const GONE: &str = "/var/run/netns/gone-with-the-pod";

#[test]
fn a_pod_comes_is_checked_and_goes_without_a_trace() {
    let (node, pod) = (Node::new(), netns());
    let result = node.add("c1", pod.path()).ok();
    assert_eq!(result["ips"][0]["address"], "10.244.0.1/32");
    assert_eq!(result["ips"][1]["address"], "fd00:244::1/128");
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(result["interfaces"][1]["mtu"], 1400);
    assert_eq!(result["interfaces"][0]["name"], node.links()[0].as_str());
    assert_eq!(node.check("c1", pod.path(), &result).ok(), Value::Null);
    assert_eq!(node.del("c1", pod.path()).ok(), Value::Null);
    node.must_be_empty();
    assert_eq!(node.del("c1", pod.path()).ok(), Value::Null);
    assert_eq!(block_on(async { Handle::in_netns(&pod).unwrap().links().await.unwrap().len() }), 1);
}

#[test]
fn the_endpoint_is_handed_over_with_the_pods_name_while_its_link_is_down() {
    let (node, pod) = (Node::new(), netns());
    let args = "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1";
    node.run(&format!("{} {args}", attachment("ADD", "c1", pod.path())), &node.config()).ok();
    let books = node.books();
    assert_eq!(books.was_up, [false]);
    let attach = &books.endpoints[&("c1".to_string(), "eth0".to_string())];
    let named = attach.pod.as_ref().unwrap();
    assert_eq!((named.namespace.as_str(), named.name.as_str()), ("shop", "web"));
    assert_eq!(named.uid.as_deref(), Some("u1"));
    assert_eq!(attach.ips, ["10.244.0.1".parse::<IpAddr>().unwrap(), "fd00:244::1".parse().unwrap()]);
    assert_eq!(Path::new(&attach.netns), pod.path());
}

/// Sends a byte from `from` to a listener at `to` and back; returns who the listener saw.
fn talk(from: &netlink::Netns, to: &netlink::Netns, address: &str) -> IpAddr {
    let address: IpAddr = address.parse().unwrap();
    let listener = to.run(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"x").unwrap();
        peer.ip()
    });
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(5));
    let mut stream = from.run(connect).unwrap().unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let seen = answering.join().unwrap();
    // A lost first packet would have been sent again after a second.
    assert_eq!([from, to].map(retransmitted), [0, 0], "{address}");
    seen
}

/// TCP segments that were sent more than once, of a whole namespace.
fn retransmitted(netns: &netlink::Netns) -> u64 {
    let snmp = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let column = names.split(' ').position(|name| name == "RetransSegs").unwrap();
    numbers.split(' ').nth(column).unwrap().parse().unwrap()
}

#[test]
fn the_first_packet_after_add_arrives_both_ways_in_both_families() {
    for (ranges, pod_ip, node_ip) in
        [(vec!["10.244.0.0/24"], "10.244.0.1", NODE_V4), (vec!["fd00:244::/64"], "fd00:244::1", NODE_V6)]
    {
        for from_pod in [true, false] {
            let (mut node, pod) = (Node::new(), netns());
            node.ranges = ranges.clone();
            node.add("c1", pod.path()).ok();
            if from_pod {
                assert_eq!(talk(&pod, &node.netns, node_ip).to_string(), pod_ip);
            } else {
                assert_eq!(talk(&node.netns, &pod, pod_ip).to_string(), node_ip);
            }
        }
    }
}

#[test]
fn the_link_is_as_promised() {
    let (node, pod) = (Node::new(), netns());
    let result = node.add("c1", pod.path()).ok();
    block_on(async {
        let inside = Handle::in_netns(&pod).unwrap();
        let eth0 = inside.link_by_name("eth0").await.unwrap().unwrap();
        assert_eq!((eth0.mac, eth0.mtu, eth0.up), (Some([2, 1, 10, 244, 0, 1]), 1400, true));
        let gateway = Neighbour { ip: GATEWAY_V4.into(), mac: HOST_MAC, permanent: true };
        assert!(inside.neighbours(eth0.index).await.unwrap().contains(&gateway));
        assert!(inside.links().await.unwrap().iter().all(|link| link.up));

        let host = Handle::in_netns(&node.netns).unwrap();
        let name = result["interfaces"][0]["name"].as_str().unwrap();
        let link = host.link_by_name(name).await.unwrap().unwrap();
        assert_eq!((link.mac, link.mtu, link.up), (Some(HOST_MAC), 1400, true));
        let routes = host.routes().await.unwrap();
        let ours: Vec<String> =
            routes.iter().filter(|route| route.protocol == 87).map(ToString::to_string).collect();
        assert_eq!(
            ours,
            [
                format!("10.244.0.1/32 link {} src {NODE_V4}", link.index),
                format!("fd00:244::1/128 link {} src {NODE_V6}", link.index),
            ]
        );
        let settings = node.netns.run(|| {
            [
                "ipv4/conf/X/rp_filter",
                "ipv4/conf/X/forwarding",
                "ipv4/conf/X/proxy_arp",
                "ipv6/conf/X/accept_ra",
            ]
            .map(|setting| netlink::read_sysctl(&setting.replace('X', name)).unwrap())
        });
        assert_eq!(settings.unwrap(), ["2", "1", "0", "0"]);
    });
}

#[test]
fn each_version_gets_its_own_shape() {
    let node = Node::new();
    for (n, version) in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].into_iter().enumerate() {
        let (pod, id) = (netns(), format!("c{n}"));
        let mut config = node.config();
        config["cniVersion"] = version.into();
        let result = node.run(&attachment("ADD", &id, pod.path()), &config).ok();
        assert_eq!(result["cniVersion"], version);
        let family = if version < "1" { json!("6") } else { Value::Null };
        assert_eq!(result["ips"][1]["version"], family);
        let has_mtu = result["interfaces"][1].get("mtu").is_some();
        assert_eq!(has_mtu, version == "1.1.0");
        config["prevResult"] = result;
        let check = node.run(&attachment("CHECK", &id, pod.path()), &config);
        if version < "0.4" {
            assert_eq!(check.code(), 1)
        } else {
            assert_eq!(check.ok(), Value::Null)
        }
        node.run(&attachment("DEL", &id, pod.path()), &config).ok();
    }
    node.must_be_empty();
    for version in ["0.2.0", "1.2.0", "x"] {
        let mut config = node.config();
        config["cniVersion"] = version.into();
        assert_eq!(node.run(&attachment("ADD", "c1", Path::new(GONE)), &config).code(), 1);
    }
}

#[test]
fn version_and_no_command_need_no_configuration() {
    let node = Node::without_agent();
    let all = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(
        node.run_raw("CNI_COMMAND=VERSION", b"").ok(),
        json!({ "cniVersion": "1.1.0", "supportedVersions": all })
    );
    assert_eq!(node.run_raw("CNI_COMMAND=VERSION", br#"{"cniVersion":"0.4.0"}"#).ok()["cniVersion"], "0.4.0");
    let about = node.run_raw("", b"");
    assert!(about.success);
    assert!(about.stdout.starts_with("weir-cni 0.1.0, the CNI plugin of Weir\n"), "{about:?}");
    assert!(about.stdout.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{about:?}");
}

#[test]
fn what_the_runtime_gets_wrong_is_said_with_the_right_code() {
    let (node, pod) = (Node::new(), netns());
    let (config, add) = (node.config(), attachment("ADD", "c1", pod.path()));
    assert_eq!(node.run("CNI_COMMAND=ADD", &config).code(), 4);
    assert_eq!(node.run("CNI_COMMAND=PLAY", &config).code(), 4);
    assert_eq!(node.run_raw(&add, b"{").code(), 6);
    assert_eq!(node.run_raw(&add, b"").code(), 6);
    assert_eq!(node.add("c1", Path::new(GONE)).code(), 3);
    assert_eq!(node.add("c1", Path::new("/etc/passwd")).code(), 3);
    assert_eq!(node.add("c1", node.netns.path()).code(), 4);
    assert_eq!(node.del("c1", node.netns.path()).code(), 4);
    for (field, value, code) in [
        ("/name", json!(null), 7),
        ("/mtu", json!("big"), 7),
        ("/ipam/ranges", json!([]), 7),
        ("/ipam", json!({ "type": "host-local" }), 2),
        ("/nodeIPs", json!(["node-0"]), 7),
    ] {
        let mut wrong = config.clone();
        *wrong.pointer_mut(field).unwrap() = value;
        assert_eq!(node.run(&add, &wrong).code(), code, "{field}");
    }
    assert_eq!(node.run(&format!("{add} CNI_ARGS=X=y"), &config).code(), 4);
    node.must_be_empty();
    node.add("c1", pod.path()).ok();
}

#[test]
fn an_address_and_a_mac_can_be_asked_for() {
    let (node, pod, other) = (Node::new(), netns(), netns());
    let mut config = node.config();
    config["runtimeConfig"] = json!({ "ips": ["10.244.0.77/24"], "mac": "02:aa:bb:cc:dd:ee" });
    let result = node.run(&attachment("ADD", "c1", pod.path()), &config).ok();
    assert_eq!(result["ips"][0]["address"], "10.244.0.77/32");
    assert_eq!(result["interfaces"][1]["mac"], "02:aa:bb:cc:dd:ee");
    node.check("c1", pod.path(), &result).ok();
    let taken = node.run(&attachment("ADD", "c2", other.path()), &config);
    assert_eq!(taken.code(), 11);
    config["runtimeConfig"] = json!({ "ips": ["192.0.2.1"] });
    assert_eq!(node.run(&attachment("ADD", "c2", other.path()), &config).code(), 7);
}

#[test]
fn ports_of_the_host_and_limits_are_handed_on_or_refused_by_name() {
    let (node, pod) = (Node::new(), netns());
    let mut config = node.config();
    config["runtimeConfig"] = json!({
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        "bandwidth": { "ingressRate": 8_000_000, "ingressBurst": 4_294_967_295_u32, "egressRate": 16_000_000 },
    });
    node.run(&attachment("ADD", "c1", pod.path()), &config).ok();
    let attach = node.books().endpoints.values().next().unwrap().clone();
    assert_eq!(attach.port_mappings[0].to_string(), "8080/TCP");
    assert!(attach.ingress_limited);
    block_on(async {
        let (host, inside) = (Handle::in_netns(&node.netns).unwrap(), Handle::in_netns(&pod).unwrap());
        assert_eq!(host.queues(attach.host_ifindex).await.unwrap(), ["tbf"]);
        let eth0 = inside.link_by_name("eth0").await.unwrap().unwrap();
        assert_eq!(inside.queues(eth0.index).await.unwrap(), ["tbf"]);
    });
    node.run(&attachment("DEL", "c1", pod.path()), &config).ok();
    node.must_be_empty();

    for (asked, named) in [
        (json!({ "portMappings": [{ "hostPort": 0, "containerPort": 80 }] }), "portMappings[0].hostPort"),
        (json!({ "bandwidth": { "ingressRate": "fast" } }), "bandwidth.ingressRate"),
    ] {
        config["runtimeConfig"] = asked;
        let refused = node.run(&attachment("ADD", "c1", pod.path()), &config);
        assert_eq!(refused.code(), 7);
        assert!(refused.stdout.contains(named), "{refused:?}");
        node.must_be_empty();
    }
}

#[test]
fn a_chained_result_and_the_dns_are_passed_on() {
    let (node, pod) = (Node::new(), netns());
    let mut config = node.config();
    config["dns"] = json!({ "nameservers": ["10.96.0.10"] });
    config["prevResult"] =
        json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "net1" }], "ips": [], "dns": {} });
    let result = node.run(&attachment("ADD", "c1", pod.path()), &config).ok();
    assert_eq!(result["interfaces"][0]["name"], "net1");
    assert_eq!(result["ips"][0]["interface"], 2);
    assert_eq!(result["dns"], config["dns"]);
}
