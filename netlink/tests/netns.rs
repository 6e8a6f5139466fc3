//! The crate against the real kernel, in namespaces of its own. Needs root.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink::{
    Change, Fault, GATEWAY_V4, GATEWAY_V6, HOST_MAC, Handle, HostSide, Monitor, Neighbour, Netns,
    ROUTE_PROTOCOL, Route, VethSpec, sysctl,
};

const POD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x05];

/// A new namespace, with one sentence for whoever runs this without the right to make it.
fn netns() -> Netns {
    Netns::new_anonymous().expect("these tests need root, because they make network namespaces")
}

struct Pair {
    node: Netns,
    pod: Netns,
    here: Handle,
    inside: Handle,
    host: u32,
    eth0: u32,
}

/// `weir0` on the node, `eth0` in the pod.
async fn pair() -> Pair {
    let (node, pod) = (netns(), netns());
    let (here, inside) = (Handle::in_netns(&node).unwrap(), Handle::in_netns(&pod).unwrap());
    let (host, eth0) = here.create_veth(&spec("weir0", "eth0", &pod)).await.unwrap();
    Pair { node, pod, here, inside, host, eth0 }
}

fn spec<'a>(name: &'a str, peer_name: &'a str, peer_netns: &'a Netns) -> VethSpec<'a> {
    VethSpec { name, mac: HOST_MAC, mtu: 1400, peer_name, peer_mac: POD_MAC, peer_mtu: 1400, peer_netns }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn entering_a_namespace_ends_with_the_guard_even_after_a_panic() {
    let (outside, inside) = (Netns::current().unwrap(), netns());
    assert!(!inside.is_current().unwrap());
    let panicked = std::panic::catch_unwind(|| {
        let _guard = inside.enter().unwrap();
        assert!(inside.is_current().unwrap());
        assert!(!outside.is_current().unwrap());
        panic!("on purpose");
    });
    assert!(panicked.is_err());
    assert!(outside.is_current().unwrap());
}

#[test]
fn a_helper_thread_is_inside_and_the_caller_is_not() {
    let inside = netns();
    assert!(inside.run(|| inside.is_current().unwrap()).unwrap());
    assert!(!inside.is_current().unwrap());
    assert!(inside.try_clone().unwrap().is_same_as(&inside).unwrap());
}

#[test]
fn a_namespace_at_a_path_can_be_opened_and_leaves_nothing_behind() {
    let path = std::env::temp_dir().join(format!("weir-netns-{}", std::process::id()));
    let made = Netns::create_at(&path).expect("this test needs root, because it mounts a namespace");
    assert!(Netns::open(&path).unwrap().is_same_as(&made).unwrap());
    assert!(!made.is_current().unwrap());
    let again = Netns::create_at(&path).unwrap_err();
    assert!(again.is_already_there(), "{again}");
    drop(made);
    assert!(!path.exists());
    assert_eq!(
        Netns::open(&path).unwrap_err().to_string(),
        format!("open network namespace {}", path.display())
    );
}

#[test]
fn a_plain_file_is_no_namespace() {
    let error = Netns::open("/etc/passwd").unwrap_err();
    assert_eq!(error.to_string(), "/etc/passwd is no network namespace");
}

#[tokio::test]
async fn a_veth_pair_is_born_whole_and_down_with_its_other_end_inside() {
    let Pair { here, inside, host, eth0, .. } = pair().await;
    let link = here.link_by_name("weir0").await.unwrap().unwrap();
    assert_eq!((link.index, link.mac, link.mtu, link.up), (host, Some(HOST_MAC), 1400, false));
    assert_eq!((link.peer, link.kind.as_str()), (Some(eth0), "veth"));
    let peer = inside.link_by_name("eth0").await.unwrap().unwrap();
    assert_eq!((peer.index, peer.mac, peer.mtu, peer.up), (eth0, Some(POD_MAC), 1400, false));
    assert!(here.link_by_name("eth0").await.unwrap().is_none());
}

#[tokio::test]
async fn a_name_that_is_taken_on_either_side_is_refused_and_leaves_nothing() {
    let Pair { pod, here, inside, .. } = pair().await;
    let taken = here.create_veth(&spec("weir0", "eth1", &pod)).await.unwrap_err();
    assert!(taken.is_already_there(), "{taken}");
    assert!(inside.link_by_name("eth1").await.unwrap().is_none());
    let taken = here.create_veth(&spec("weir1", "eth0", &pod)).await.unwrap_err();
    assert!(taken.is_already_there(), "{taken}");
    assert!(here.link_by_name("weir1").await.unwrap().is_none());
}

#[tokio::test]
async fn deleting_one_end_takes_the_other_and_a_second_time_says_not_there() {
    let Pair { here, inside, host, .. } = pair().await;
    here.delete_link(host).await.unwrap();
    assert!(inside.link_by_name("eth0").await.unwrap().is_none());
    assert!(here.delete_link(host).await.unwrap_err().is_not_there());
}

#[tokio::test]
async fn addresses_neighbours_and_routes_read_back_as_written() {
    let Pair { inside, eth0, .. } = pair().await;
    inside.add_address(eth0, net("10.244.0.5/32")).await.unwrap();
    inside.add_address(eth0, net("fd00:244::5/128")).await.unwrap();
    assert_eq!(inside.addresses(eth0).await.unwrap(), [net("10.244.0.5/32"), net("fd00:244::5/128")]);
    inside.set_up(eth0).await.unwrap();

    for gateway in [GATEWAY_V4.into(), GATEWAY_V6.into()] {
        inside.add_neighbour(eth0, gateway, HOST_MAC).await.unwrap();
        let neighbour = Neighbour { ip: gateway, mac: HOST_MAC, permanent: true };
        assert!(inside.neighbours(eth0).await.unwrap().contains(&neighbour));
    }

    let route = |destination, via: Option<IpAddr>, onlink| Route {
        destination: net(destination),
        via,
        oif: eth0,
        source: None,
        onlink,
        protocol: ROUTE_PROTOCOL,
        link_scope: via.is_none(),
    };
    let routes = [
        route("169.254.1.1/32", None, false),
        route("0.0.0.0/0", Some(GATEWAY_V4.into()), false),
        route("::/0", Some(GATEWAY_V6.into()), true),
    ];
    for route in &routes {
        inside.add_route(route).await.unwrap();
        assert!(inside.add_route(route).await.unwrap_err().is_already_there());
        inside.replace_route(route).await.unwrap();
        assert!(inside.routes().await.unwrap().contains(route), "{route}");
    }
    for route in &routes {
        inside.delete_route(route).await.unwrap();
        assert!(inside.delete_route(route).await.unwrap_err().is_not_there(), "{route}");
    }
}

#[tokio::test]
async fn a_neighbour_on_a_link_that_is_down_outlives_setting_it_up() {
    let Pair { here, inside, host, eth0, .. } = pair().await;
    inside.set_up(eth0).await.unwrap();
    here.add_neighbour(host, ip("10.244.0.5"), POD_MAC).await.unwrap();
    here.add_neighbour(host, ip("fd00:244::5"), POD_MAC).await.unwrap();
    here.set_up(host).await.unwrap();
    let known = here.neighbours(host).await.unwrap();
    for pod in [ip("10.244.0.5"), ip("fd00:244::5")] {
        assert!(known.contains(&Neighbour { ip: pod, mac: POD_MAC, permanent: true }), "{known:?}");
    }
    here.set_down(host).await.unwrap();
    assert!(!here.link_by_name("weir0").await.unwrap().unwrap().up);
}

/// Datagrams that came from outside; from a new namespace, so this counts from zero.
fn received(netns: &Netns) -> u64 {
    let snmp = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let numbers = snmp.lines().filter(|line| line.starts_with("Ip:")).nth(1).unwrap();
    numbers.split(' ').nth(3).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_packet_sent_right_after_waiting_for_the_link_is_not_lost() {
    let limit = Duration::from_secs(10);
    for _ in 0..20 {
        let Pair { node, pod, here, inside, host, eth0 } = pair().await;
        inside.add_address(eth0, net("10.244.0.5/24")).await.unwrap();
        inside.set_up(eth0).await.unwrap();
        inside.add_neighbour(eth0, ip("10.244.0.1"), HOST_MAC).await.unwrap();
        assert!(!inside.wait_until_can_send("eth0", Duration::ZERO).await.unwrap());
        let socket = pod.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();

        here.set_up(host).await.unwrap();
        assert!(inside.wait_until_can_send("eth0", limit).await.unwrap());
        socket.send_to(b"x", "10.244.0.1:9").unwrap();

        let sent = Instant::now();
        while received(&node) == 0 {
            assert!(sent.elapsed() < limit, "the packet was lost");
        }
    }
}

#[tokio::test]
async fn an_address_is_local_soon_after_it_was_added() {
    let Pair { inside, eth0, .. } = pair().await;
    for own in ["10.244.0.5/32", "fd00:244::5/128"] {
        assert!(!inside.wait_until_local(net(own).addr(), Duration::ZERO).await.unwrap());
        inside.add_address(eth0, net(own)).await.unwrap();
        inside.set_up(eth0).await.unwrap();
        assert!(inside.wait_until_local(net(own).addr(), Duration::from_secs(5)).await.unwrap());
    }
}

#[tokio::test]
async fn a_bridge_takes_ports() {
    let Pair { here, host, .. } = pair().await;
    let bridge = here.create_bridge("br0").await.unwrap();
    here.set_master(host, bridge).await.unwrap();
    here.set_mtu(host, 1300).await.unwrap();
    let links = here.links().await.unwrap();
    let port = links.iter().find(|link| link.index == host).unwrap();
    assert_eq!((port.master, port.mtu), (Some(bridge), 1300));
    assert!(links.iter().any(|link| link.name == "br0" && link.kind == "bridge"));
}

#[tokio::test]
async fn settings_are_those_of_the_threads_namespace() {
    let Pair { node, pod, .. } = pair().await;
    let _inside = node.enter().unwrap();
    netlink::sysctl("ipv4/conf/weir0/rp_filter", "2").unwrap();
    assert_eq!(netlink::read_sysctl("ipv4/conf/weir0/rp_filter").unwrap(), "2");
    let other = pod.run(|| netlink::read_sysctl("ipv4/conf/weir0/rp_filter")).unwrap().unwrap_err();
    assert!(other.is_not_there());
    assert_eq!(other.to_string(), "read /proc/sys/net/ipv4/conf/weir0/rp_filter");
}

#[tokio::test]
async fn a_refused_request_names_the_operation_and_the_object() {
    let Pair { here, host, .. } = pair().await;
    let down = Route {
        destination: net("10.244.0.5/32"),
        via: None,
        oif: host,
        source: None,
        onlink: false,
        protocol: ROUTE_PROTOCOL,
        link_scope: true,
    };
    let error = here.add_route(&down).await.unwrap_err();
    assert_eq!(error.to_string(), format!("add route 10.244.0.5/32 link {host}"));
    assert_eq!(error.errno(), Some(nix::libc::ENETDOWN));
}

#[tokio::test]
async fn a_handle_may_be_used_by_any_task() {
    let Pair { here, .. } = pair().await;
    let links = tokio::spawn(async move { here.links().await }).await.unwrap().unwrap();
    assert_eq!(links.len(), 2);
}

/// Whatever is told until it contains what is waited for.
async fn told(monitor: &mut Monitor, wanted: Change) {
    let told = async { while !monitor.next().await.unwrap().contains(&wanted) {} };
    tokio::time::timeout(Duration::from_secs(5), told)
        .await
        .unwrap_or_else(|_| panic!("{wanted:?} is not told"));
}

#[tokio::test]
async fn what_somebody_changes_is_told_with_its_place() {
    let Pair { node, pod: _pod, here, host, .. } = pair().await;
    // A monitor belongs to the namespace that its thread was in.
    let _inside = node.enter().unwrap();
    let mut monitor = Monitor::new().unwrap();
    here.set_up(host).await.unwrap();
    told(&mut monitor, Change::Link(host)).await;

    let side = HostSide {
        name: "weir0",
        ifindex: host,
        ips: &[ip("10.244.0.5")],
        mac: Some(POD_MAC),
        node_ips: &[],
    };
    let route = side.routes().next().unwrap();
    here.add_route(&route).await.unwrap();
    here.delete_route(&route).await.unwrap();
    told(&mut monitor, Change::Route).await;
    here.add_neighbour(host, ip("10.244.0.5"), POD_MAC).await.unwrap();
    told(&mut monitor, Change::Link(host)).await;
    sysctl("ipv4/conf/weir0/forwarding", "0").unwrap();
    sysctl("ipv4/conf/weir0/forwarding", "1").unwrap();
    told(&mut monitor, Change::Link(host)).await;
}

#[tokio::test]
async fn every_fault_of_the_hosts_side_is_found_and_mended_once() {
    let Pair { node, pod: _pod, here, inside, host, eth0 } = pair().await;
    let _inside = node.enter().unwrap();
    inside.set_up(eth0).await.unwrap();
    let ips = [ip("10.244.0.5"), ip("fd00:244::5")];
    let side = HostSide { name: "weir0", ifindex: host, ips: &ips, mac: Some(POD_MAC), node_ips: &[] };
    let faults = async || {
        let routes = here.own_routes().await.unwrap().into_iter().collect();
        side.faults(&here, &routes).await.unwrap()
    };
    for fault in faults().await {
        // A link must be up before it has routes.
        if !matches!(fault, Fault::Route(_)) {
            side.mend(&here, &fault).await.unwrap();
        }
    }
    let left = faults().await;
    assert!(left.len() == 2 && left.iter().all(|fault| matches!(fault, Fault::Route(_))), "{left:?}");
    for fault in &left {
        side.mend(&here, fault).await.unwrap();
    }
    assert_eq!(faults().await, []);

    sysctl("ipv6/conf/weir0/accept_ra", "2").unwrap();
    let [Fault::Setting { setting, value: "0", found }] = &side.silent_faults()[..] else {
        panic!("no fault")
    };
    assert_eq!((setting.as_str(), found.as_str()), ("ipv6/conf/weir0/accept_ra", "2"));
    here.add_neighbour(host, ips[0], [2, 0, 0, 0, 0, 9]).await.unwrap();
    here.set_down(host).await.unwrap();
    let found = faults().await;
    assert!(found.contains(&Fault::Down) && found.contains(&Fault::Neighbour(ips[0])), "{found:?}");
    here.delete_link(host).await.unwrap();
    assert_eq!(faults().await, [], "what is gone lacks nothing");
}
