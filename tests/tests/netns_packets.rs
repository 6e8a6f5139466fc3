//! Packets beside the ordinary ones: liars, pings, errors on the way, fragments. Needs root and the binaries beside this
//! one (`cargo xtask test netns` builds them).

use std::net::{IpAddr, SocketAddr, UdpSocket};

use tests::beyond::Beyond;
use tests::denials::is_denied;
use tests::frame;
use tests::node::{FAMILIES, Family};
use tests::raw::{ping, send};
use tests::stage::{Stage, block_on, counter};
use tests::town::{policy, web_near_and_far};
use tests::traffic::{Echo, IMPATIENCE, Outcome, PATIENCE, udp, udp_of};

#[test]
fn line_15_a_source_that_is_not_the_pods_is_dropped_at_its_own_veth() {
    block_on(async {
        let stage = Stage::up(&web_near_and_far()).await;
        let web = stage.netns("shop/web");
        let open = |family| {
            let any = SocketAddr::new(stage.ip("shop/web", family), 53);
            web.run(|| UdpSocket::bind(any)).unwrap().unwrap()
        };
        for family in FAMILIES {
            let receiver = open(family);
            receiver.set_read_timeout(Some(IMPATIENCE)).unwrap();
            let to = stage.ip("shop/web", family);
            for liar in ["shop/near", "shop/far"] {
                // Another pod's, its node's, and one from nowhere.
                let nowhere: IpAddr =
                    if family == Family::V4 { [192, 0, 2, 9].into() } else { "2001:db8::9".parse().unwrap() };
                let sources = [stage.ip("shop/web", family), stage.ip("node/node-1", family), nowhere];
                let before = counter(&stage, "spoofed").await;
                for source in sources {
                    send(&stage.netns(liar), to, &frame::udp(source, to, 53).frame());
                }
                assert_eq!(receiver.recv(&mut [0; 100]).ok(), None, "from {liar}");
                assert_eq!(counter(&stage, "spoofed").await, before + 3, "from {liar} over {family:?}");
                assert_eq!(stage.drop_reason(nowhere, to).await, "spoofed");
            }
            // The same packet under its own name arrives (its checksum is left out, which IPv6 does not take).
            if family == Family::V4 {
                let own = stage.ip("shop/near", family);
                send(&stage.netns("shop/near"), to, &frame::udp(own, to, 53).frame());
                assert!(receiver.recv(&mut [0; 100]).is_ok());
            }
        }
        stage.down().await;
    });
}

#[test]
fn line_10_pings_follow_rules_for_all_ports() {
    block_on(async {
        let mut stage = Stage::up(&web_near_and_far()).await;
        for (rules, near, far) in [
            (None, Outcome::Answered, Outcome::Answered),
            (Some("ingress: [{ports: [{port: 80}]}]"), Outcome::Silence, Outcome::Silence),
            (
                Some("ingress: [{from: [{podSelector: {matchLabels: {app: far}}}]}]"),
                Outcome::Silence,
                Outcome::Answered,
            ),
            (
                Some("ingress: [{from: [{podSelector: {matchLabels: {app: near}}}], ports: []}]"),
                Outcome::Answered,
                Outcome::Silence,
            ),
        ] {
            let rules = rules.map(|rules| policy("shop/web", "app: web", rules)).unwrap_or_default();
            stage.apply(&(web_near_and_far() + &rules)).await;
            for family in FAMILIES {
                let to = stage.ip("shop/web", family);
                for (from, expected) in [("shop/near", &near), ("shop/far", &far)] {
                    let netns = stage.netns(from);
                    if *expected == Outcome::Answered {
                        assert_eq!(ping(&netns, to, PATIENCE), Outcome::Answered, "{from} to {to}: {rules}");
                    } else {
                        let icmp = if family == Family::V4 { "ICMP" } else { "ICMPv6" };
                        let (from, to) = (stage.ip(from, family), SocketAddr::new(to, 0));
                        let knock = || ping(&netns, to.ip(), IMPATIENCE);
                        is_denied(&stage, from, to, (icmp, "ingress shop/web"), knock).await;
                    }
                }
                // Its own node always, and what it asks itself.
                assert_eq!(ping(&stage.netns("node/node-0"), to, PATIENCE), Outcome::Answered, "{rules}");
                let out = stage.ip("outside", family);
                assert_eq!(ping(&stage.netns("shop/web"), out, PATIENCE), Outcome::Answered, "{rules}");
            }
        }
        stage.down().await;
    });
}

#[test]
fn line_10_errors_about_an_allowed_flow_pass_so_that_it_finds_its_path_mtu() {
    block_on(async {
        const LENGTH: usize = 300_000;
        let closed = "policyTypes: [Ingress, Egress], ingress: [], egress: [{to: [\
             {ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: '2001:db8:71::/64'}}], ports: [{port: 7000}]}]";
        let stage = Stage::up(&(web_near_and_far() + &policy("shop/web", "app: web", closed))).await;
        let anywhere = ["0.0.0.0/0", "::/0"].map(|block| block.parse().unwrap());
        let narrow = Beyond::the_router(&stage.netns("router"), 1300, &anywhere).await;
        let web = stage.netns("shop/web");
        for ip in Beyond::ips() {
            let to = SocketAddr::new(ip, 7000);
            let before = counter(&stage, "related").await;
            assert_eq!(narrow.upload(&web, to, LENGTH).unwrap(), LENGTH, "to {to}");
            assert!(counter(&stage, "related").await > before, "the router had to say something about {to}");
        }
        stage.down().await;
    });
}

#[test]
fn line_12_fragments_follow_their_first_whether_it_passes_or_not() {
    block_on(async {
        let only = "ingress: [{from: [{podSelector: {matchLabels: {app: far}}}, \
             {podSelector: {matchLabels: {app: near}}}], ports: [{port: 7000, protocol: UDP}]}]";
        let stage = Stage::up(&(web_near_and_far() + &policy("shop/web", "app: web", only))).await;
        let web = stage.netns("shop/web");
        let _echoes = [7000, 7001].map(|port| Echo::start(&web, port));
        for from in ["shop/near", "shop/far"] {
            let netns = stage.netns(from);
            for family in FAMILIES {
                let [open, shut] = [7000, 7001].map(|port| stage.address("shop/web", family, port));
                // Whole, in three pieces, in many.
                for length in [100, 4000, 30_000] {
                    assert_eq!(
                        udp_of(&netns, open, length, PATIENCE),
                        Outcome::Answered,
                        "{from}: {length} to {open}"
                    );
                    let source = stage.ip(from, family);
                    let knock = || udp_of(&netns, shut, length, IMPATIENCE);
                    is_denied(&stage, source, shut, ("UDP", "ingress shop/web"), knock).await;
                }
                assert_eq!(udp(&netns, open, PATIENCE), Outcome::Answered);
            }
        }
        stage.down().await;
    });
}
