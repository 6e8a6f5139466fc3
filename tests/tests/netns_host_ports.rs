//! Ports of the node that lead to its pods (`hostPort`), by real traffic over both families. Needs root and the binaries
//! beside this one (`cargo xtask test netns` builds them).

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{Shutdown, SocketAddr, UdpSocket};

use netlink::Netns;
use netlink::nftables::Nftables;
use tests::node::{FAMILIES, Family};
use tests::stage::{NODES, Stage, block_on};
use tests::town::{namespace, pod, policy};
use tests::traffic::{IMPATIENCE, PATIENCE, connect, udp_socket};

/// `shop/web` with TCP 8080 and UDP 5353 of node-0, a neighbour, and one far away.
fn town() -> String {
    [
        namespace("shop", ""),
        web(""),
        pod("shop/near", 0, "app: near", "80"),
        pod("shop/far", 1, "app: far", "80"),
    ]
    .concat()
}

/// `at` is more of the mapping, as in YAML.
fn web(at: &str) -> String {
    pod("shop/web", 0, "app: web", "80 53/UDP")
        .replace("containerPort: 80", &format!("containerPort: 80, hostPort: 8080{at}"))
        .replace("containerPort: 53", &format!("containerPort: 53, hostPort: 5353{at}"))
}

/// The name of the pod that answers.
fn by_tcp(from: &Netns, to: SocketAddr) -> io::Result<String> {
    from.run(|| connect(to, PATIENCE).and_then(|stream| greeting(&stream))).unwrap()
}

fn greeting(stream: &std::net::TcpStream) -> io::Result<String> {
    let mut name = String::new();
    BufReader::new(stream).read_line(&mut name)?;
    Ok(name.trim_end().to_owned())
}

fn by_udp(from: &Netns, to: SocketAddr) -> io::Result<String> {
    let socket = from.run(|| udp_socket(to)).unwrap()?;
    socket.set_read_timeout(Some(PATIENCE))?;
    ask(&socket, to)
}

fn ask(socket: &UdpSocket, to: SocketAddr) -> io::Result<String> {
    socket.send_to(b"who", to)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, to, "the answer comes from where the question went");
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Nobody answers, or somebody says that nobody is there.
fn is_closed(from: &Netns, to: SocketAddr) -> bool {
    from.run(|| connect(to, IMPATIENCE).and_then(|stream| greeting(&stream))).unwrap().is_err()
}

#[test]
fn a_port_of_the_node_leads_to_its_pod_from_everywhere_and_its_answers_come_back() {
    block_on(async {
        let stage = Stage::up(&town()).await;
        for family in FAMILIES {
            let [tcp, udp] = [8080, 5353].map(|port| stage.address("node/node-0", family, port));
            for from in ["outside", "node/node-0", "node/node-1", "shop/near", "shop/far", "shop/web"] {
                let netns = stage.netns(from);
                for _ in 0..2 {
                    assert_eq!(by_tcp(&netns, tcp).unwrap(), "shop/web", "{from} to {tcp}");
                    assert_eq!(by_udp(&netns, udp).unwrap(), "shop/web", "{from} to {udp}");
                }
            }
            // Its own ports are what they were, and other ports and other protocols of the node lead nowhere.
            let own = stage.address("shop/web", family, 80);
            assert_eq!(by_tcp(&stage.netns("shop/near"), own).unwrap(), "shop/web");
            for (node, port) in [("node/node-0", 80), ("node/node-0", 5353), ("node/node-1", 8080)] {
                assert!(
                    is_closed(&stage.netns("outside"), stage.address(node, family, port)),
                    "{node} {port}"
                );
            }
        }
        // The other node has no rules at all.
        let has_table = |node: &str| {
            stage.netns(node).run(|| Nftables::new().unwrap().read("weir").unwrap().is_some()).unwrap()
        };
        assert!(has_table("node/node-0") && !has_table("node/node-1"));
        stage.down().await;
    });
}

#[test]
fn policy_is_about_the_real_client_and_goes_on_without_the_agent() {
    block_on(async {
        let probe = Stage::up(&town()).await;
        let outside = FAMILIES.map(|family| probe.ip("outside", family));
        let blocks =
            outside.map(|ip| format!("{{ipBlock: {{cidr: '{}'}}}}", ipnet::IpNet::from(ip))).join(", ");
        let mut stage = probe;
        let closed = policy("shop/web", "app: web", &format!("ingress: [{{from: [{blocks}]}}]"));
        stage.apply(&(town() + &closed)).await;
        let check = |stage: &Stage, when: &str| {
            for family in FAMILIES {
                let [tcp, udp] = [8080, 5353].map(|port| stage.address("node/node-0", family, port));
                let outside = stage.netns("outside");
                assert_eq!(by_tcp(&outside, tcp).unwrap(), "shop/web", "{when}");
                assert_eq!(by_udp(&outside, udp).unwrap(), "shop/web", "{when}");
                // The node itself always, and so the pod itself.
                assert_eq!(by_tcp(&stage.netns("node/node-0"), tcp).unwrap(), "shop/web", "{when}");
                assert_eq!(by_tcp(&stage.netns("shop/web"), tcp).unwrap(), "shop/web", "{when}");
                for from in ["node/node-1", "shop/near", "shop/far"] {
                    assert!(is_closed(&stage.netns(from), tcp), "{when}: {from} to {tcp}");
                }
            }
        };
        check(&stage, "with the agent");
        let held = FAMILIES.map(|family| {
            let to = stage.address("node/node-0", family, 8080);
            let stream = stage.netns("outside").run(|| connect(to, PATIENCE)).unwrap().unwrap();
            assert_eq!(greeting(&stream).unwrap(), "shop/web");
            stream
        });
        for (from, family) in [("shop/near", Family::V4), ("shop/far", Family::V6)] {
            let reason = stage.drop_reason(stage.ip(from, family), stage.ip("shop/web", family)).await;
            assert_eq!(reason, "policy_denied", "of {from} itself");
        }
        stage.sandbox.kill_agent(NODES[0]).await.unwrap();
        check(&stage, "without an agent");
        stage.netns("node/node-0").run(|| Nftables::new().unwrap().remove("weir").unwrap()).unwrap();
        stage.sandbox.start_agent(NODES[0]).await.unwrap();
        check(&stage, "with the next agent, which made the rules anew");
        for mut stream in held {
            // The pod hangs up when its client does.
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "a connection from before goes on to its end");
        }
        stage.down().await;
    });
}

#[test]
fn a_port_goes_with_its_pod_is_one_pods_only_and_may_be_one_addresses_only() {
    block_on(async {
        let rest = [namespace("shop", ""), pod("shop/near", 0, "app: near", "80")].concat();
        let mut stage = Stage::up(&(rest.clone() + &web(""))).await;
        let outside = stage.netns("outside");
        let tcp = FAMILIES.map(|family| stage.address("node/node-0", family, 8080));
        let udp = FAMILIES.map(|family| stage.address("node/node-0", family, 5353));
        let sockets = udp.map(|to| {
            let socket = outside.run(|| udp_socket(to)).unwrap().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(ask(&socket, to).unwrap(), "shop/web");
            socket
        });

        // A client that keeps its port finds the next pod.
        let next = web("").replace("web", "next");
        stage.apply(&(rest.clone() + &next)).await;
        for (socket, (tcp, udp)) in sockets.iter().zip(tcp.into_iter().zip(udp)) {
            assert_eq!(ask(socket, udp).unwrap(), "shop/next");
            assert_eq!(by_tcp(&outside, tcp).unwrap(), "shop/next");
        }

        stage.apply(&rest).await;
        for to in tcp {
            assert!(is_closed(&outside, to), "{to}");
        }
        let table = stage.netns("node/node-0").run(|| Nftables::new().unwrap().read("weir").unwrap());
        assert_eq!(table.unwrap(), None, "nothing is left");

        // For the node's IPv4 address only.
        let at = format!(", hostIP: {}", tcp[0].ip());
        stage.apply(&(rest.clone() + &web(&at))).await;
        assert_eq!(by_tcp(&outside, tcp[0]).unwrap(), "shop/web");
        assert!(is_closed(&outside, tcp[1]));

        let both = [rest, web(&at), web("").replace("web", "second")].concat();
        let error = stage.try_apply(&both).await.unwrap_err();
        assert!(error.contains("hostPort 8080/TCP of this node leads to Pod shop/web already"), "{error}");
        assert_eq!(by_tcp(&outside, tcp[0]).unwrap(), "shop/web");
        stage.down().await;
    });
}
