//! What leaves the cluster leaves with the node's address, and nothing else does: by real traffic over both families. Needs
//! root and the binaries beside this one (`cargo xtask test netns` builds them).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use api::{FlowLine, VerdictKind};
use ipnet::IpNet;
use netlink::Netns;
use netlink::nftables::Nftables;
use sandbox::client;
use tests::beyond::Beyond;
use tests::node::FAMILIES;
use tests::raw::ping;
use tests::stage::{NODES, Stage, block_on};
use tests::town::{policy, web_near_and_far};
use tests::traffic::{Echo, IMPATIENCE, Outcome, PATIENCE, ask, connect, tcp, udp, udp_of, udp_socket};

/// With masquerading agents, and a host that knows the nodes' network and nothing of pods.
async fn masquerading(text: &str, mtu: u32, options: &[&str]) -> (Stage, Beyond) {
    let stage = Stage::up(text).await;
    restart(&stage, &[&["--masquerade"], options].concat()).await;
    let nodes = FAMILIES.map(|family| {
        let ip = stage.ip("node/node-0", family);
        IpNet::new(ip, if ip.is_ipv4() { 24 } else { 64 }).unwrap().trunc()
    });
    let beyond = Beyond::the_router(&stage.netns("router"), mtu, &nodes).await;
    (stage, beyond)
}

async fn restart(stage: &Stage, options: &[&str]) {
    for node in NODES {
        stage.sandbox.kill_agent(node).await.unwrap();
        stage.sandbox.start_agent_with(node, options).await.unwrap();
    }
}

/// Whom a server at `to` in `server` sees when `client` connects.
fn seen_by_tcp(client: &Netns, server: &Netns, to: SocketAddr) -> io::Result<IpAddr> {
    let listener = server.run(|| TcpListener::bind(to)).unwrap()?;
    let _stream = client.run(|| connect(to, PATIENCE)).unwrap()?;
    Ok(listener.accept()?.1.ip())
}

/// The same for a datagram, which is answered.
fn seen_by_udp(client: &Netns, server: &Netns, to: SocketAddr) -> io::Result<IpAddr> {
    let listener = server.run(|| UdpSocket::bind(to)).unwrap()?;
    listener.set_read_timeout(Some(PATIENCE))?;
    let socket = client.run(|| udp_socket(to)).unwrap()?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"hello", to)?;
    let (_, from) = listener.recv_from(&mut [0; 64])?;
    listener.send_to(b"hello", from)?;
    assert_eq!(socket.recv_from(&mut [0; 64])?.1, to, "the answer comes from where the question went");
    Ok(from.ip())
}

/// Whether the node's agent shows an allowed flow between these two.
async fn has_flow(stage: &Stage, node: usize, from: IpAddr, to: SocketAddr) -> bool {
    let (_, socket) = stage.sandbox.agents().into_iter().nth(node).unwrap();
    for _ in 0..100 {
        let mut lines = client::Lines::open(&socket, "/v1/flows?verdict=allowed").await.unwrap();
        while let Some(line) = lines.next().await {
            let FlowLine::Flow(flow) = line else { continue };
            let is_it = flow.from.ip == from && flow.to.ip == to.ip() && flow.to.port == to.port();
            if is_it && flow.verdict == VerdictKind::Allowed {
                return true;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[test]
fn a_host_that_knows_no_pod_is_reached_and_sees_the_node_and_pods_and_nodes_see_the_pod() {
    block_on(async {
        let (stage, beyond) = masquerading(&web_near_and_far(), 1500, &[]).await;
        for (pod, node) in [("shop/web", 0), ("shop/far", 1)] {
            let netns = stage.netns(pod);
            for (family, outside) in FAMILIES.into_iter().zip(Beyond::ips()) {
                let node_ip = stage.ip(&format!("node/{}", NODES[node]), family);
                let pod_ip = stage.ip(pod, family);
                let to = SocketAddr::new(outside, 7000);
                assert_eq!(seen_by_tcp(&netns, &beyond.host, to).unwrap(), node_ip, "{pod} to {to}");
                assert_eq!(seen_by_udp(&netns, &beyond.host, to).unwrap(), node_ip, "{pod} to {to}");
                assert_eq!(ping(&netns, outside, PATIENCE), Outcome::Answered, "{pod} to {to}");
                assert!(has_flow(&stage, node, pod_ip, to).await, "the flow is the pod's own: {pod} to {to}");
                // Of two pods with one port each of the node's is its own.
                let other = stage.netns("shop/near");
                let _echo = Echo::start(&beyond.host, 7001);
                let to = SocketAddr::new(outside, 7001);
                let mut streams = [&netns, &other].map(|netns| {
                    let from = netns.run(|| connect(to, PATIENCE)).unwrap();
                    from.unwrap_or_else(|error| panic!("{pod} to {to}: {error}"))
                });
                for _ in 0..3 {
                    streams.iter_mut().for_each(|stream| ask(stream).unwrap());
                }
                // In pieces, there and back.
                assert_eq!(udp_of(&netns, to, 4000, PATIENCE), Outcome::Answered, "{pod} to {to}");

                for peer in ["shop/near", "shop/far", "node/node-0", "node/node-1"] {
                    if peer == pod {
                        continue;
                    }
                    let (server, to) = (stage.netns(peer), stage.address(peer, family, 7002));
                    assert_eq!(seen_by_tcp(&netns, &server, to).unwrap(), pod_ip, "{pod} to {peer}");
                    assert_eq!(seen_by_udp(&netns, &server, to).unwrap(), pod_ip, "{pod} to {peer}");
                }
            }
        }
        stage.down().await;
    });
}

#[test]
fn policies_are_about_the_pod_and_path_mtus_are_found() {
    block_on(async {
        const LENGTH: usize = 300_000;
        let closed = "policyTypes: [Ingress, Egress], ingress: [], egress: [{to: [\
             {ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: '2001:db8:71::/64'}}], ports: [{port: 7000}, \
             {port: 7000, protocol: UDP}]}]";
        let text = web_near_and_far() + &policy("shop/web", "app: web", closed);
        let (stage, beyond) = masquerading(&text, 1300, &[]).await;
        let web = stage.netns("shop/web");
        for outside in Beyond::ips() {
            let [open, shut] = [7000, 7001].map(|port| SocketAddr::new(outside, port));
            assert_eq!(beyond.upload(&web, open, LENGTH).unwrap(), LENGTH, "to {open}");
            let _echoes = [7000, 7001].map(|port| Echo::start(&beyond.host, port));
            assert_eq!(tcp(&web, shut, IMPATIENCE), Outcome::Silence);
            assert_eq!(udp(&web, shut, IMPATIENCE), Outcome::Silence);
            assert_eq!(udp(&web, open, PATIENCE), Outcome::Answered);
            let from = stage.ip("shop/web", if outside.is_ipv4() { FAMILIES[0] } else { FAMILIES[1] });
            assert_eq!(stage.drop_reason(from, outside).await, "policy_denied");
            // Only what the pod has begun comes back to it.
            let stranger = SocketAddr::new(from, 7003);
            assert_eq!(tcp(&stage.netns("outside"), stranger, IMPATIENCE), Outcome::Silence);
        }
        stage.down().await;
    });
}

#[test]
fn it_goes_on_without_the_agent_is_mended_by_the_next_and_can_be_told_what_to_leave_alone() {
    block_on(async {
        let (stage, beyond) = masquerading(&web_near_and_far(), 1500, &[]).await;
        let _echo = Echo::start(&beyond.host, 7000);
        let web = stage.netns("shop/web");
        let to = Beyond::ips().map(|ip| SocketAddr::new(ip, 7000));
        let mut streams = to.map(|to| web.run(|| connect(to, PATIENCE)).unwrap().unwrap());

        stage.sandbox.kill_agent(NODES[0]).await.unwrap();
        streams.iter_mut().for_each(|stream| ask(stream).unwrap());
        for to in to {
            assert_eq!(tcp(&web, to, PATIENCE), Outcome::Answered, "without an agent, to {to}");
        }

        let node = stage.netns("node/node-0");
        node.run(|| Nftables::new().unwrap().remove("weir").unwrap()).unwrap();
        for to in to {
            assert_eq!(udp(&web, to, IMPATIENCE), Outcome::Silence, "without the rules, to {to}");
        }
        let no_ipv4 = ["--masquerade", "--non-masquerade-cidr=203.0.113.0/24"];
        stage.sandbox.start_agent_with(NODES[0], &no_ipv4).await.unwrap();
        streams.iter_mut().for_each(|stream| ask(stream).unwrap());
        assert_eq!(tcp(&web, to[0], IMPATIENCE), Outcome::Silence, "left alone: {}", to[0]);
        assert_eq!(tcp(&web, to[1], PATIENCE), Outcome::Answered, "{}", to[1]);

        // Without the option nothing is masqueraded, and the rules are gone.
        stage.sandbox.kill_agent(NODES[0]).await.unwrap();
        stage.sandbox.start_agent_with(NODES[0], &[]).await.unwrap();
        for to in to {
            assert_eq!(tcp(&web, to, IMPATIENCE), Outcome::Silence, "off, to {to}");
        }
        assert_eq!(node.run(|| Nftables::new().unwrap().read("weir").unwrap()).unwrap(), None);
        stage.down().await;
    });
}
