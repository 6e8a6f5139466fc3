//! Packets that no ordinary program sends, from real pods over real links: from the middle of a connection, of a router that
//! is none, behind extension headers, in pieces out of order. Needs root and the binaries beside this one (`cargo xtask
//! test netns` builds them).

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use netlink::Netns;
use tests::denials::{Drops, is_denied};
use tests::frame::{self, ACK, DESTINATION_OPTIONS, Discovery, Flow, HOP_BY_HOP, Packet, SYN};
use tests::node::{FAMILIES, Family};
use tests::raw::{Listener, send};
use tests::stage::{Stage, block_on, counter};
use tests::town::{policy, web_near_and_far};
use tests::traffic::{Echo, IMPATIENCE, Outcome, PATIENCE, ask, connect};

const PORT: u16 = 7000;
const WEB: &str = "ingress shop/web";

/// `shop/web` lets in what comes to one port of UDP.
fn one_port() -> String {
    web_near_and_far() + &policy("shop/web", "app: web", "ingress: [{ports: [{port: 7000, protocol: UDP}]}]")
}

/// The first flow from a pod to a port of another one.
fn flow(stage: &Stage, [from, to]: [&str; 2], family: Family, make: fn(IpAddr, IpAddr, u16) -> Flow) -> Flow {
    make(stage.ip(from, family), stage.ip(to, family), PORT)
}

#[test]
fn line_16_a_packet_from_the_middle_of_a_connection_is_judged() {
    block_on(async {
        let only_far = "ingress: [{from: [{podSelector: {matchLabels: {app: far}}}]}]";
        let stage = Stage::up(&(web_near_and_far() + &policy("shop/web", "app: web", only_far))).await;
        for family in FAMILIES {
            for from in ["shop/near", "shop/far"] {
                let netns = stage.netns(from);
                let flow = flow(&stage, [from, "shop/web"], family, frame::tcp);
                let middle = flow.tcp_packet(ACK).checked().frame();
                let knock = || {
                    let answers = Listener::tcp(&netns, flow.destination);
                    send(&netns, flow.destination, &middle);
                    answers.hears(flow.back(), if from == "shop/far" { PATIENCE } else { IMPATIENCE })
                };
                if from == "shop/far" {
                    // The pod knows of no such connection, and says so.
                    assert_eq!(knock(), Outcome::Answered, "{flow:?}");
                } else {
                    let to = SocketAddr::new(flow.destination, PORT);
                    is_denied(&stage, flow.source, to, ("TCP", WEB), knock).await;
                }
            }
        }
        stage.down().await;
    });
}

#[test]
fn line_16_a_syn_starts_anew_so_that_a_live_connection_opens_nothing_the_other_way() {
    block_on(async {
        let stage = Stage::up(&(web_near_and_far() + &policy("shop/web", "app: web", "ingress: []"))).await;
        let web = stage.netns("shop/web");
        for peer in ["shop/near", "shop/far"] {
            let netns = stage.netns(peer);
            let _echo = Echo::start(&netns, PORT);
            for family in FAMILIES {
                let to = stage.address(peer, family, PORT);
                let mut stream = web.run(|| connect(to, PATIENCE)).unwrap().unwrap();
                ask(&mut stream).unwrap();
                // The other way, between the very same ports.
                let own = stream.local_addr().unwrap();
                let back = frame::tcp(to.ip(), own.ip(), own.port()).from_port(PORT);
                let syn = back.tcp_packet(SYN).checked().frame();
                let drops = Drops::so_far(&stage, back.source, back.destination).await;
                send(&netns, back.destination, &syn);
                drops.one_more(&stage, "TCP", own.port(), WEB).await;
                ask(&mut stream).unwrap();
            }
        }
        stage.down().await;
    });
}

#[test]
fn line_10_a_pod_that_plays_the_router_is_not_heard() {
    block_on(async {
        let stage = Stage::up(&web_near_and_far()).await;
        let near = stage.netns("shop/near");
        let own = stage.ip("shop/near", Family::V6);
        let IpAddr::V6(own) = own else { panic!("{own} is no IPv6 address") };
        let IpAddr::V6(web) = stage.ip("shop/web", Family::V6) else { panic!("no IPv6 address") };
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad);
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        for kind in [Discovery::RouterAdvertisement, Discovery::Redirect] {
            for source in [link_local, own] {
                for to in [netlink::GATEWAY_V6, all_nodes, web] {
                    let before = counter(&stage, "forbidden_discovery").await;
                    send(&near, to.into(), &kind.packet(source, to).frame());
                    let about = format!("{kind:?} from {source} to {to}");
                    assert_eq!(
                        stage.drop_reason(source.into(), to.into()).await,
                        "forbidden_discovery",
                        "{about}"
                    );
                    assert_eq!(counter(&stage, "forbidden_discovery").await, before + 1, "{about}");
                }
            }
        }
        // What a host may say to its router passes by the same way.
        let before = counter(&stage, "discovery").await;
        send(
            &near,
            netlink::GATEWAY_V6.into(),
            &Discovery::RouterSolicitation.packet(link_local, netlink::GATEWAY_V6).frame(),
        );
        assert!(counter(&stage, "discovery").await > before);
        stage.down().await;
    });
}

/// A socket at a flow's source, for the answers to what is sent by other ways.
fn at_source(netns: &Netns, flow: Flow) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind((flow.source, flow.source_port))).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn answer(socket: &UdpSocket, patience: Duration) -> Outcome {
    socket.set_read_timeout(Some(patience)).unwrap();
    if socket.recv(&mut [0; 2000]).is_ok() { Outcome::Answered } else { Outcome::Silence }
}

#[test]
fn line_12_extension_headers_are_walked_four_deep_on_the_way_between_pods() {
    block_on(async {
        let stage = Stage::up(&one_port()).await;
        let _echo = Echo::start(&stage.netns("shop/web"), PORT);
        // Short ones: a kernel takes no more than seven bytes of padding.
        let kinds =
            [HOP_BY_HOP, DESTINATION_OPTIONS, DESTINATION_OPTIONS, DESTINATION_OPTIONS, DESTINATION_OPTIONS];
        let dressed = |flow: Flow, depth: usize| -> Vec<u8> {
            let packet = flow.packet().checked();
            kinds[..depth]
                .iter()
                .fold(packet, |packet: Packet, kind| packet.extension_of(*kind, 0, 8))
                .frame()
        };
        for from in ["shop/near", "shop/far"] {
            let netns = stage.netns(from);
            let open = flow(&stage, [from, "shop/web"], Family::V6, frame::udp);
            let shut = Flow { destination_port: PORT + 1, ..open };
            let socket = at_source(&netns, open);
            for depth in 1..=4 {
                send(&netns, open.destination, &dressed(open, depth));
                assert_eq!(answer(&socket, PATIENCE), Outcome::Answered, "{depth} headers from {from}");
                let knock = || {
                    send(&netns, shut.destination, &dressed(shut, depth));
                    answer(&socket, IMPATIENCE)
                };
                let to = SocketAddr::new(shut.destination, shut.destination_port);
                is_denied(&stage, shut.source, to, ("UDP", WEB), knock).await;
            }
            let before = counter(&stage, "malformed").await;
            send(&netns, open.destination, &dressed(open, 5));
            assert_eq!(answer(&socket, IMPATIENCE), Outcome::Silence, "five headers from {from}");
            assert_eq!(counter(&stage, "malformed").await, before + 1, "five headers from {from}");
        }
        stage.down().await;
    });
}

#[test]
fn line_12_a_fragment_before_its_first_is_dropped_with_its_own_reason() {
    block_on(async {
        let stage = Stage::up(&one_port()).await;
        let _echo = Echo::start(&stage.netns("shop/web"), PORT);
        for from in ["shop/near", "shop/far"] {
            let netns = stage.netns(from);
            for family in FAMILIES {
                let flow = flow(&stage, [from, "shop/web"], family, frame::udp);
                let socket = at_source(&netns, flow);
                let drops = Drops::so_far(&stage, flow.source, flow.destination).await;
                let (first, later) = flow.packet().checked().fragments(0x7777);
                send(&netns, flow.destination, &later);
                drops.of(&stage, "fragment_before_first").await;
                // The kernel has nothing to put together with what comes now.
                send(&netns, flow.destination, &first);
                assert_eq!(answer(&socket, IMPATIENCE), Outcome::Silence, "{flow:?}");
                send(&netns, flow.destination, &later);
                assert_eq!(answer(&socket, PATIENCE), Outcome::Answered, "{flow:?}");
            }
        }
        stage.down().await;
    });
}
