//! Nodes that are on links of their own, with a router between them that knows no pods: real traffic through the overlay. Needs
//! root and the binaries beside this one (`cargo xtask test netns` builds them).

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use api::PeerStatus;
use netlink::{Handle, Netns, sysctl};
use nix::sys::socket::{setsockopt, sockopt};
use sandbox::plan::Routing;
use tests::frame;
use tests::load::{Load, busy, check_untroubled};
use tests::node::{FAMILIES, Family};
use tests::raw::{ping, send};
use tests::stage::{NODES, Stage, block_on};
use tests::town::{host_pod, namespace, pod, policy};
use tests::traffic::{Echo, IMPATIENCE, Outcome, PATIENCE, tcp, udp, udp_of};

const ECHO: u16 = 7000;
/// 1,500 bytes of the underlay, less the headers of VXLAN.
const MTU: u32 = 1450;

fn town() -> String {
    [
        namespace("shop", ""),
        pod("shop/web", 0, "app: web", "80"),
        pod("shop/near", 0, "app: near", "80"),
        pod("shop/far", 1, "app: far", "80"),
        pod("shop/other", 1, "app: other", "80"),
        host_pod("shop/host", 1, "app: host", "9000"),
    ]
    .concat()
}

/// In VXLAN, and the router has never heard of pods.
async fn apart() -> Stage {
    let stage = Stage::up_with(&town(), Routing::Vxlan).await;
    let router = Handle::in_netns(&stage.netns("router")).unwrap();
    for route in router.routes().await.unwrap() {
        if ["10.244.", "fd00:244:"].iter().any(|pods| route.destination.to_string().starts_with(pods)) {
            router.delete_route(&route).await.unwrap();
        }
    }
    stage
}

async fn counter(stage: &Stage, node: &str, name: &str) -> u64 {
    let counters = stage.sandbox.status(node).await.unwrap().counters;
    // One that has counted nothing yet is not shown.
    counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.packets)
}

async fn peers(stage: &Stage, node: &str) -> Vec<PeerStatus> {
    stage.sandbox.status(node).await.unwrap().peers
}

/// Waits until the node reaches all pods of the other one this way.
async fn until_all(stage: &Stage, node: &str, way: &str) {
    let started = Instant::now();
    loop {
        let peers = peers(stage, node).await;
        if peers.len() == 2 && peers.iter().all(|peer| peer.way == way) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "not {way}: {peers:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Takes in whatever one connection brings, and answers when that was all.
fn sink(netns: &Netns, at: SocketAddr) -> std::thread::JoinHandle<usize> {
    let listener = netns.run(|| TcpListener::bind(at)).unwrap().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        let length = stream.read_to_end(&mut all).unwrap();
        stream.write_all(b"all").unwrap();
        length
    })
}

#[track_caller]
fn transfer(from: &Netns, to_netns: &Netns, to: SocketAddr, length: usize) {
    let sink = sink(to_netns, to);
    let work = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(&vec![0x5a; length])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    assert_eq!(from.run(work).unwrap().unwrap(), "all", "to {to}");
    assert_eq!(sink.join().unwrap(), length);
}

#[test]
fn pods_and_nodes_reach_each_other_where_the_network_knows_only_nodes() {
    block_on(async {
        let stage = apart().await;
        for node in NODES {
            let peers = peers(&stage, node).await;
            assert!(peers.len() == 2 && peers.iter().all(|peer| peer.way == "vxlan"), "{peers:?}");
        }
        let [web, far, host] = ["shop/web", "shop/far", "node/node-1"].map(|end| stage.netns(end));
        let _echoes = [&web, &far, &host].map(|netns| Echo::start(netns, ECHO));
        for family in FAMILIES {
            // Pod to pod, pod to the other node, node to the other's pod; each both ways.
            for (from, to) in [
                ("shop/far", "shop/web"),
                ("shop/web", "shop/far"),
                ("shop/web", "node/node-1"),
                ("node/node-0", "shop/far"),
                ("node/node-1", "shop/web"),
            ] {
                let (netns, at) = (stage.netns(from), stage.address(to, family, ECHO));
                assert_eq!(tcp(&netns, at, PATIENCE), Outcome::Answered, "{from} to {to}");
                assert_eq!(udp(&netns, at, PATIENCE), Outcome::Answered, "{from} to {to}");
                assert_eq!(ping(&netns, at.ip(), PATIENCE), Outcome::Answered, "{from} to {to}");
                // Whole, in many pieces, and the most that a datagram can be.
                for length in [1400, 30_000, 65_000] {
                    assert_eq!(
                        udp_of(&netns, at, length, PATIENCE),
                        Outcome::Answered,
                        "{from}: {length} to {to}"
                    );
                }
            }
            transfer(&far, &web, stage.address("shop/web", family, 7100), 20_000_000);
            transfer(&web, &far, stage.address("shop/far", family, 7100), 20_000_000);
            transfer(&host, &web, stage.address("shop/web", family, 7101), 2_000_000);
        }
        for node in NODES {
            assert_eq!(counter(&stage, node, "overlay_spoofed").await, 0, "{node}");
        }
        stage.down().await;
    });
}

#[test]
fn policies_see_through_the_overlay_as_without_it() {
    block_on(async {
        let mut stage = apart().await;
        let node_ips = FAMILIES.map(|family| stage.ip("node/node-1", family));
        let blocks = node_ips.map(|ip| format!("{{ipBlock: {{cidr: '{}'}}}}", ipnet::IpNet::from(ip)));
        let rules = format!(
            "ingress: [{{from: [{{podSelector: {{matchLabels: {{app: far}}}}}}, {}]}}]",
            blocks.join(", ")
        );
        stage.apply(&(town() + &policy("shop/web", "app: web", &rules))).await;
        let web = stage.netns("shop/web");
        let _echo = Echo::start(&web, ECHO);
        for family in FAMILIES {
            let to = stage.address("shop/web", family, ECHO);
            assert_eq!(tcp(&stage.netns("shop/far"), to, PATIENCE), Outcome::Answered);
            assert_eq!(udp(&stage.netns("shop/far"), to, PATIENCE), Outcome::Answered);
            // By its own address, which the block names.
            assert_eq!(tcp(&stage.netns("node/node-1"), to, PATIENCE), Outcome::Answered);
            assert_eq!(tcp(&stage.netns("shop/other"), to, IMPATIENCE), Outcome::Silence);
            assert_eq!(stage.drop_reason(stage.ip("shop/other", family), to.ip()).await, "policy_denied");
            assert_eq!(tcp(&stage.netns("shop/near"), to, IMPATIENCE), Outcome::Silence);
        }
        stage.down().await;
    });
}

#[test]
fn line_15_a_pod_cannot_speak_to_the_overlay_of_any_node() {
    block_on(async {
        let stage = apart().await;
        let from = stage.netns("shop/near");
        let before = counter(&stage, NODES[0], "overlay_port").await;
        for node in ["node/node-0", "node/node-1"] {
            for family in FAMILIES {
                let (own, to) = (stage.ip("shop/near", family), stage.ip(node, family));
                let mut reason = String::new();
                // On a busy machine the first may be waited for in vain.
                for _ in 0..10 {
                    send(&from, to, &frame::udp(own, to, 4789).frame());
                    reason = stage.drop_reason(own, to).await;
                    if reason == "overlay_port" {
                        break;
                    }
                }
                assert_eq!(reason, "overlay_port", "{own} to {to}");
            }
        }
        assert!(counter(&stage, NODES[0], "overlay_port").await >= before + 4);
        // What a stranger on the network writes in a node's name comes to nothing.
        let [outside, node] = ["outside", "node/node-0"].map(|end| stage.ip(end, Family::V4));
        let inner =
            frame::udp(stage.ip("shop/far", Family::V4), stage.ip("shop/web", Family::V4), ECHO).frame();
        let receiver = stage.netns("shop/web").run(|| UdpSocket::bind(("0.0.0.0", ECHO))).unwrap().unwrap();
        receiver.set_read_timeout(Some(IMPATIENCE)).unwrap();
        send(&stage.netns("outside"), node, &around(outside, node, &inner));
        assert!(receiver.recv(&mut [0; 100]).is_err());
        assert_eq!(counter(&stage, NODES[0], "overlay_spoofed").await, 1);
        stage.down().await;
    });
}

/// In VXLAN, from its IP header on what `inner` is.
fn around(from: IpAddr, to: IpAddr, inner: &[u8]) -> Vec<u8> {
    let mut payload = [55_555_u16.to_be_bytes(), 4789_u16.to_be_bytes()].concat();
    payload.extend(((16 + inner.len()) as u16).to_be_bytes());
    payload.extend([0, 0, 8, 0, 0, 0, 0, 0, 87, 0]);
    payload.extend(inner);
    frame::Packet::new(from, to, 17, payload).frame()
}

#[test]
fn packets_too_long_for_the_overlay_find_its_mtu() {
    block_on(async {
        let stage = apart().await;
        let [web, far] = ["shop/web", "shop/far"].map(|end| stage.netns(end));
        for netns in [&web, &far] {
            let links = Handle::in_netns(netns).unwrap();
            let link = links.link_by_name("eth0").await.unwrap().unwrap();
            assert_eq!(link.mtu, MTU, "pods know what the overlay takes");
            // As a pod has it that was made before there was an overlay.
            links.set_mtu(link.index, 1500).await.unwrap();
        }
        for (node, end) in [("node/node-0", "shop/web"), ("node/node-1", "shop/far")] {
            let links = Handle::in_netns(&stage.netns(node)).unwrap();
            let ip = stage.ip(end, Family::V4);
            let route =
                links.routes().await.unwrap().into_iter().find(|route| route.destination == ip.into());
            links.set_mtu(route.unwrap().oif, 1500).await.unwrap();
        }
        let _echo = Echo::start(&web, ECHO);
        for family in FAMILIES {
            transfer(&far, &web, stage.address("shop/web", family, 7100), 3_000_000);
            transfer(&web, &far, stage.address("shop/far", family, 7100), 3_000_000);
            let to = stage.address("shop/web", family, ECHO);
            // A datagram over IPv6 that is the first to be too long is lost, as ever; its sender is told.
            let tries = [(); 3].map(|()| udp_of(&far, to, 30_000, PATIENCE));
            assert_eq!(tries[2], Outcome::Answered, "{tries:?} over {family:?}");
        }
        stage.down().await;
    });
}

#[test]
fn datagrams_sent_many_at_a_time_arrive_one_by_one() {
    const LENGTH: usize = 1000;
    const MANY: usize = 12;
    block_on(async {
        let stage = apart().await;
        let [web, far] = ["shop/web", "shop/far"].map(|end| stage.netns(end));
        for family in FAMILIES {
            let to = stage.address("shop/web", family, ECHO);
            let receiver = web.run(|| UdpSocket::bind(to)).unwrap().unwrap();
            receiver.set_read_timeout(Some(PATIENCE)).unwrap();
            let sent: Vec<u8> = (0..LENGTH * MANY).map(|at| (at / LENGTH) as u8).collect();
            let own = SocketAddr::new(stage.ip("shop/far", family), 0);
            let many = || -> std::io::Result<usize> {
                let socket = UdpSocket::bind(own)?;
                setsockopt(&socket, sockopt::UdpGsoSegment, &(LENGTH as i32))?;
                socket.send_to(&sent, to)
            };
            assert_eq!(far.run(many).unwrap().unwrap(), sent.len());
            for number in 0..MANY {
                let mut buffer = [0; 4000];
                let length = receiver.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..length], [number as u8; LENGTH], "datagram {number} over {family:?}");
            }
        }
        stage.down().await;
    });
}

#[test]
fn traffic_through_the_overlay_does_not_notice_that_agents_die_and_come_back() {
    block_on(async {
        let stage = apart().await;
        let web = stage.netns("shop/web");
        let _echo = Echo::start(&web, ECHO);
        let mut load = Load::default();
        busy(&mut load, "across nodes", &stage.netns("shop/far"), stage.addresses("shop/web", ECHO));
        busy(
            &mut load,
            "from the other node",
            &stage.netns("node/node-1"),
            stage.addresses("shop/web", ECHO),
        );
        load.machine(&web);
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            for node in NODES {
                stage.sandbox.kill_agent(node).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            for node in NODES {
                stage.sandbox.start_agent(node).await.unwrap();
            }
        }
        // That nothing is lost meanwhile is shown without an overlay (`netns_restart.rs`); here, that nothing ends.
        check_untroubled(&load.finish(), Duration::from_secs(5));
        stage.down().await;
    });
}

#[test]
fn auto_goes_as_it_is_where_a_probe_came_back_and_through_the_overlay_where_none_does() {
    block_on(async {
        let stage = Stage::up_with(&town(), Routing::Auto).await;
        for node in NODES {
            until_all(&stage, node, "direct").await;
        }
        let answers = |answers: bool| {
            let ignore = if answers { "0" } else { "1" };
            let settings = ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all"];
            let set = || settings.map(|setting| sysctl(setting, ignore).unwrap());
            stage.netns("node/node-1").run(set).unwrap();
        };
        let web = stage.netns("shop/web");
        let far = stage.netns("shop/far");
        let _echoes = [&web, &far].map(|netns| Echo::start(netns, ECHO));
        let talk = |what: &str| {
            for family in FAMILIES {
                for (from, to) in [(&far, "shop/web"), (&web, "shop/far")] {
                    let to = stage.address(to, family, ECHO);
                    assert_eq!(tcp(from, to, PATIENCE), Outcome::Answered, "{what}: {to}");
                    assert_eq!(udp_of(from, to, 5000, PATIENCE), Outcome::Answered, "{what}: {to}");
                }
            }
        };
        talk("both direct");
        // A new agent believes what the last one found, and asks at once.
        answers(false);
        stage.sandbox.kill_agent(NODES[0]).await.unwrap();
        stage.sandbox.start_agent(NODES[0]).await.unwrap();
        until_all(&stage, NODES[0], "vxlan").await;
        until_all(&stage, NODES[1], "direct").await;
        talk("one through the overlay, the other not");
        answers(true);
        until_all(&stage, NODES[0], "direct").await;
        talk("both direct again");
        stage.down().await;
    });
}

#[test]
fn an_overlay_device_that_somebody_deletes_is_made_anew() {
    block_on(async {
        let stage = apart().await;
        let _echo = Echo::start(&stage.netns("shop/web"), ECHO);
        let links = Handle::in_netns(&stage.netns("node/node-0")).unwrap();
        let old = links.link_by_name("weir-vxlan").await.unwrap().expect("the overlay has a device");
        let drift = async || stage.sandbox.status(NODES[0]).await.unwrap().drift;
        // Two rounds of the audit: what is as it must be is not put right.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(drift().await, [], "nothing was wrong");
        links.delete_link(old.index).await.unwrap();
        let began = Instant::now();
        while !drift().await.iter().any(|drift| drift.kind == "link" && drift.repaired == 1) {
            assert!(began.elapsed() < Duration::from_secs(20), "not put right: {:?}", drift().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        eprintln!("put right after {:?}", began.elapsed());
        let new = links.link_by_name("weir-vxlan").await.unwrap().expect("made anew");
        assert_ne!(new.index, old.index);
        assert_eq!(new.mtu, MTU);
        for family in FAMILIES {
            for (from, to) in [("shop/far", "shop/web"), ("node/node-1", "shop/web")] {
                let at = stage.address(to, family, ECHO);
                // Routes come right after the device.
                let outcome = || tcp(&stage.netns(from), at, PATIENCE);
                let answered = (0..5).any(|_| outcome() == Outcome::Answered);
                assert!(answered, "{from} to {at}");
            }
        }
        stage.down().await;
    });
}
