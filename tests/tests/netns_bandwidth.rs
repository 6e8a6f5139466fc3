//! Limits of bandwidth (`kubernetes.io/ingress-bandwidth`, `kubernetes.io/egress-bandwidth`), measured with real traffic, on one
//! node and across. Needs root and the binaries beside this one (`cargo xtask test netns` builds them).

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use netlink::Netns;
use tests::node::FAMILIES;
use tests::stage::{Stage, block_on};
use tests::town::{namespace, pod, policy};
use tests::traffic::{IMPATIENCE, Outcome, connect, tcp};

/// Bits per second; the annotations say `8M`.
const LIMIT: f64 = 8_000_000.0;
/// A second and a half at the limit.
const LENGTH: usize = 1_500_000;

fn town() -> String {
    let limited = |direction: &str| {
        format!("metadata: {{annotations: {{kubernetes.io/{direction}-bandwidth: 8M}}, name: {direction}")
    };
    let slow = |direction: &str| {
        let plain = pod(&format!("shop/{direction}"), 0, "app: slow", "80");
        plain.replace(&format!("metadata: {{name: {direction}"), &limited(direction))
    };
    [
        namespace("shop", ""),
        slow("ingress"),
        slow("egress"),
        pod("shop/near", 0, "app: near", "80"),
        pod("shop/far", 1, "app: far", "80"),
    ]
    .concat()
}

/// Bits per second of one connection, from its first byte to the word that all have arrived.
fn speed(from: &Netns, to: &Netns, address: SocketAddr) -> f64 {
    let listener = to.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let sink = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        let length = stream.read_to_end(&mut all).unwrap();
        stream.write_all(b"all").unwrap();
        length
    });
    let mut stream = from.run(|| connect(address, Duration::from_secs(20))).unwrap().unwrap();
    let began = Instant::now();
    stream.write_all(&vec![0x5a; LENGTH]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_exact(&mut [0; 3]).unwrap();
    let took = began.elapsed();
    assert_eq!(sink.join().unwrap(), LENGTH);
    LENGTH as f64 * 8.0 / took.as_secs_f64()
}

#[test]
fn a_pod_takes_in_and_sends_what_its_annotations_say_and_others_are_not_held_up() {
    block_on(async {
        let stage = Stage::up(&town()).await;
        let speed = |from: &str, to: &str, family| {
            let speed = speed(&stage.netns(from), &stage.netns(to), stage.address(to, family, 7000));
            eprintln!("{from} to {to} over {family:?}: {:.1} Mbit/s", speed / 1e6);
            speed
        };
        for family in FAMILIES {
            for other in ["shop/near", "shop/far", "node/node-0"] {
                for (from, to) in [(other, "shop/ingress"), ("shop/egress", other)] {
                    let speed = speed(from, to, family);
                    assert!(speed < 1.5 * LIMIT && speed > 0.4 * LIMIT, "{from} to {to}: {speed} bit/s");
                }
            }
            // One direction is limited and not the other.
            for (from, to) in
                [("shop/ingress", "shop/near"), ("shop/far", "shop/egress"), ("shop/near", "shop/far")]
            {
                let speed = speed(from, to, family);
                assert!(speed > 3.0 * LIMIT, "{from} to {to}: {speed} bit/s");
            }
        }
        stage.down().await;
    });
}

#[test]
fn a_limited_pod_is_judged_as_any_other_and_its_limit_goes_on_without_the_agent() {
    block_on(async {
        let closed = policy(
            "shop/slow",
            "app: slow",
            "ingress: [{from: [{podSelector: {matchLabels: {app: near}}}]}]",
        );
        let stage = Stage::up(&(town() + &closed)).await;
        let ingress = stage.netns("shop/ingress");
        let _echo = tests::traffic::Echo::start(&ingress, 7000);
        for round in ["with the agent", "without"] {
            for family in FAMILIES {
                let to = stage.address("shop/ingress", family, 7000);
                for denied in ["shop/far", "shop/egress", "outside"] {
                    assert_eq!(
                        tcp(&stage.netns(denied), to, IMPATIENCE),
                        Outcome::Silence,
                        "{round}: {denied}"
                    );
                }
                let to = stage.address("shop/ingress", family, 7001);
                let speed = speed(&stage.netns("shop/near"), &ingress, to);
                assert!(speed < 1.5 * LIMIT && speed > 0.4 * LIMIT, "{round}: {speed} bit/s");
            }
            if round == "with the agent" {
                stage.sandbox.kill_agent("node-0").await.unwrap();
            }
        }
        stage.down().await;
    });
}
