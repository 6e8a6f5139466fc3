//! Connections that a policy finds already there: cut, kept, or none of its business. Needs root and the binaries beside
//! this one (`cargo xtask test netns` builds them).

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use netlink::Netns;
use tests::denials::{Drops, is_denied};
use tests::node::{FAMILIES, Family};
use tests::stage::{Stage, block_on};
use tests::town::{keeping_policy, policy, web_near_and_far};
use tests::traffic::{Echo, IMPATIENCE, PATIENCE, ask, connect, tcp, udp_socket};

const PORT: u16 = 7000;

/// A conversation of each protocol.
struct Talk {
    name: String,
    tcp: TcpStream,
    udp: UdpSocket,
}

impl Talk {
    fn begin(netns: &Netns, to: SocketAddr) -> Self {
        let open = || -> std::io::Result<_> {
            let udp = udp_socket(to)?;
            udp.connect(to)?;
            Ok((connect(to, PATIENCE)?, udp))
        };
        let (tcp, udp) = netns.run(open).unwrap().unwrap();
        let mut talk = Self { name: format!("to {to}"), tcp, udp };
        talk.goes_on();
        talk
    }

    fn say(&mut self, patience: Duration) -> [Result<(), ErrorKind>; 2] {
        self.tcp.set_read_timeout(Some(patience)).unwrap();
        self.udp.set_read_timeout(Some(patience)).unwrap();
        let datagram = self.udp.send(&[1; 64]).and_then(|_| self.udp.recv(&mut [0; 64]).map(drop));
        [ask(&mut self.tcp), datagram].map(|result| result.map_err(|error| error.kind()))
    }

    #[track_caller]
    fn goes_on(&mut self) {
        assert_eq!(self.say(PATIENCE), [Ok(()); 2], "{}", self.name);
    }

    /// By the policies that `by` names: `ingress shop/web`.
    async fn is_cut(&mut self, stage: &Stage, by: &str) {
        let (from, to) = (self.tcp.local_addr().unwrap().ip(), self.tcp.peer_addr().unwrap());
        let drops = Drops::so_far(stage, from, to.ip()).await;
        assert_eq!(self.say(IMPATIENCE), [Err(ErrorKind::WouldBlock); 2], "{}", self.name);
        for protocol in ["TCP", "UDP"] {
            drops.one_more(stage, protocol, to.port(), by).await;
        }
    }
}

/// A new connection is denied by `shop/web`.
async fn nobody_new(stage: &Stage, from: &str, family: Family) {
    let (netns, source, to) =
        (stage.netns(from), stage.ip(from, family), stage.address("shop/web", family, PORT));
    is_denied(stage, source, to, ("TCP", "ingress shop/web"), || tcp(&netns, to, IMPATIENCE)).await;
}

/// From both pods to `shop/web` over both families.
fn talks_to_web(stage: &Stage) -> Vec<Talk> {
    let talk = |from: &str| {
        let netns = stage.netns(from);
        stage.addresses("shop/web", PORT).map(|to| Talk::begin(&netns, to))
    };
    ["shop/near", "shop/far"].into_iter().flat_map(talk).collect()
}

#[test]
fn line_9_what_a_new_policy_does_not_allow_is_cut_at_its_next_packet_or_kept_as_annotated() {
    block_on(async {
        let mut stage = Stage::up(&web_near_and_far()).await;
        let _echo = Echo::start(&stage.netns("shop/web"), PORT);
        for deny in [
            policy("shop/web", "app: web", "ingress: []"),
            policy("shop/web", "app: web", "ingress: [{ports: [{port: 80}]}]"),
        ] {
            let mut talks = talks_to_web(&stage);
            stage.apply(&(web_near_and_far() + &deny)).await;
            for talk in &mut talks {
                talk.is_cut(&stage, "ingress shop/web").await;
            }
            stage.apply(&web_near_and_far()).await;
            // TCP sends again by itself; what was cut flows again.
            drop(talks);
        }
        // Cut at the sender's end too.
        let mut talks = talks_to_web(&stage);
        let egress = "policyTypes: [Egress], egress: []";
        stage
            .apply(
                &(web_near_and_far()
                    + &policy("shop/near", "app: near", egress)
                    + &policy("shop/far", "app: far", egress)),
            )
            .await;
        let (near, far) = talks.split_at_mut(2);
        for (talks, by) in [(near, "egress shop/near"), (far, "egress shop/far")] {
            for talk in talks {
                talk.is_cut(&stage, by).await;
            }
        }
        stage.apply(&web_near_and_far()).await;

        let mut talks = talks_to_web(&stage);
        stage.apply(&(web_near_and_far() + &keeping_policy("shop/web", "app: web", "ingress: []"))).await;
        talks.iter_mut().for_each(Talk::goes_on);
        for from in ["shop/near", "shop/far"] {
            for family in FAMILIES {
                nobody_new(&stage, from, family).await;
            }
        }
        stage.down().await;
    });
}

#[test]
fn line_9_replies_keep_flowing_to_who_began_before_there_was_a_policy() {
    block_on(async {
        let mut stage = Stage::up(&web_near_and_far()).await;
        let _echoes = ["shop/near", "shop/far"].map(|pod| Echo::start(&stage.netns(pod), PORT));
        let _web = Echo::start(&stage.netns("shop/web"), PORT);
        let web = stage.netns("shop/web");
        let mut talks: Vec<Talk> = ["shop/near", "shop/far"]
            .into_iter()
            .flat_map(|to| stage.addresses(to, PORT))
            .map(|to| Talk::begin(&web, to))
            .collect();
        // Nobody may come in any more; what comes back to it is no coming in.
        stage.apply(&(web_near_and_far() + &policy("shop/web", "app: web", "ingress: []"))).await;
        talks.iter_mut().for_each(Talk::goes_on);
        for family in FAMILIES {
            nobody_new(&stage, "shop/near", family).await;
        }
        // Nor may the others begin anything; their answers are none of that.
        let egress = "policyTypes: [Egress], egress: []";
        let both = policy("shop/near", "app: near", egress) + &policy("shop/far", "app: far", egress);
        stage.apply(&(web_near_and_far() + &both)).await;
        talks.iter_mut().for_each(Talk::goes_on);
        stage.down().await;
    });
}
