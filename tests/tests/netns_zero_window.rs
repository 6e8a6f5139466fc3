//! Isolation holds from the first instant, and nothing allowed is denied once ADD has returned on the pod's own node: pods
//! start while others hammer the addresses that they are about to get. `WEIR_STARTS` says how many (60 unless told). Needs
//! root and the binaries beside this one (`cargo xtask test netns` builds them).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink::Netns;
use sandbox::Progress;
use tests::stage::{NODES, Stage, block_on};
use tests::town::{namespace, pod, policy};
use tests::traffic::udp_socket;

const PORT: u16 = 53;
/// Pods of each node that start at once: as many plugins as the sandbox runs at a time.
const WAVE: usize = 2;
/// So many addresses beyond the last are hammered: those that the next wave will have.
const AHEAD: u16 = WAVE as u16;

fn town(wave: usize) -> String {
    let mut text = [
        namespace("shop", ""),
        pod("shop/hammer-0", 0, "app: hammer", ""),
        pod("shop/hammer-1", 1, "app: hammer", ""),
        pod("shop/friend-0", 0, "app: friend", ""),
        pod("shop/friend-1", 1, "app: friend", ""),
        pod("shop/open", 0, "app: open", "53/UDP"),
        policy(
            "shop/guarded",
            "app: guarded",
            "ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]",
        ),
    ]
    .concat();
    for number in 0..WAVE {
        for node in 0..2 {
            text += &pod(&format!("shop/guarded-{wave}-{number}-{node}"), node, "app: guarded", "53/UDP");
        }
    }
    text
}

/// The addresses after the last that a node's pods have, of each family: what comes next.
fn next(stage: &Stage, node: usize) -> Vec<SocketAddr> {
    let here =
        |key: &str| stage.sandbox.cast().pod(key).is_some_and(|pod| pod.node == node && !pod.host_network);
    let ips = stage.sandbox.ips();
    let taken: Vec<IpAddr> =
        ips.iter().filter(|(key, _)| here(key)).flat_map(|(_, ips)| ips.clone()).collect();
    let last4 =
        taken.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip.to_bits()) } else { None }).max();
    let last6 =
        taken.iter().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip.to_bits()) } else { None }).max();
    let (last4, last6) = (last4.expect("a pod with IPv4"), last6.expect("a pod with IPv6"));
    (1..=AHEAD)
        .flat_map(|step| {
            let v4: IpAddr = Ipv4Addr::from_bits(last4 + u32::from(step)).into();
            [v4, Ipv6Addr::from_bits(last6 + u128::from(step)).into()]
        })
        .map(|ip| SocketAddr::new(ip, PORT))
        .collect()
}

/// Sends to all its targets without a pause, and counts whatever comes back.
struct Hammer {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<BTreeSet<SocketAddr>>,
}

impl Hammer {
    fn start(netns: &Netns, targets: &Arc<Mutex<Vec<SocketAddr>>>) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let any = |v6| if v6 { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
        let open = || [false, true].map(|v6| udp_socket(SocketAddr::new(any(v6), 0)).expect("a socket"));
        let sockets = netns.run(open).expect("enter");
        let (targets, until, count) = (Arc::clone(targets), Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            sockets
                .iter()
                .for_each(|socket| socket.set_nonblocking(true).expect("a socket that does not block"));
            let mut answered = BTreeSet::new();
            while !until.load(Ordering::Relaxed) {
                let targets = targets.lock().expect("targets").clone();
                for target in targets {
                    // Where nobody is yet, the node says so to an earlier datagram's sender.
                    let sent = sockets[usize::from(target.is_ipv6())].send_to(b"let me in", target);
                    count.fetch_add(u64::from(sent.is_ok()), Ordering::Relaxed);
                }
                for socket in &sockets {
                    while let Ok((_, from)) = socket.recv_from(&mut [0; 100]) {
                        answered.insert(from);
                    }
                }
                // The agents and the pods need the processor too.
                std::thread::yield_now();
            }
            answered
        });
        Self { stop, sent, thread }
    }

    fn finish(self) -> (u64, BTreeSet<SocketAddr>) {
        self.stop.store(true, Ordering::Relaxed);
        let answered = self.thread.join().expect("a hammer that does not panic");
        (self.sent.load(Ordering::Relaxed), answered)
    }
}

/// One datagram to each target, the first of its connection; which of them answered.
fn knock_once(netns: &Netns, targets: &[SocketAddr], wanted: usize) -> BTreeSet<SocketAddr> {
    let work = || {
        let sockets: Vec<UdpSocket> =
            targets.iter().map(|target| udp_socket(*target).expect("a socket")).collect();
        for (socket, target) in sockets.iter().zip(targets) {
            socket.set_nonblocking(true).expect("a socket that does not block");
            // Addresses that nobody got yet are among them.
            socket.send_to(b"hello", target).ok();
        }
        // Each was asked once: who was denied never answers, and who is busy does so late.
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut answered = BTreeSet::new();
        while answered.len() < wanted && Instant::now() < deadline {
            for socket in &sockets {
                if let Ok((_, from)) = socket.recv_from(&mut [0; 100]) {
                    answered.insert(from);
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        answered
    };
    netns.run(work).expect("enter")
}

/// A node's range holds so many pods of a wave after the other.
const MOST: usize = 400;

#[test]
fn line_14_no_packet_passes_before_the_policy_and_none_is_denied_after_add() {
    let mut left: usize =
        std::env::var("WEIR_STARTS").map_or(60, |starts| starts.parse().expect("WEIR_STARTS: a number"));
    while left > 0 {
        let starts = left.min(MOST);
        start_pods(starts);
        left -= starts;
    }
}

/// As many starts, in a sandbox of their own.
fn start_pods(starts: usize) {
    block_on(async {
        let mut stage = Stage::up(&town(0)).await;
        // Nobody guards it: by its answers a hammer shows that it would notice.
        let open = stage.addresses("shop/open", PORT);
        let friends = ["shop/friend-0", "shop/friend-1"].map(|friend| stage.netns(friend));
        let targets = Arc::new(Mutex::new(Vec::new()));
        let hammers =
            ["shop/hammer-0", "shop/hammer-1"].map(|pod| Hammer::start(&stage.netns(pod), &targets));

        let (mut started, mut denied) = (0, Vec::new());
        for wave in 1..=starts.div_ceil(2 * WAVE) {
            let ahead = [next(&stage, 0), next(&stage, 1)];
            *targets.lock().unwrap() = [&ahead[0][..], &ahead[1], &open].concat();
            let reached = Mutex::new([BTreeSet::new(), BTreeSet::new()]);
            let at_once = |progress: Progress| {
                // The last plugin of the wave has returned this moment.
                if matches!(progress, Progress::Pods(done, total) if done == total && total > 0) {
                    let knock = |node: usize| knock_once(&friends[node], &ahead[node], 2 * WAVE);
                    *reached.lock().unwrap() = [knock(0), knock(1)];
                }
            };
            stage.manifests.write(&town(wave));
            let cast = stage.manifests.cast(Some(stage.sandbox.cast()));
            stage.sandbox.apply(cast, &at_once).await.unwrap();
            let reached = reached.into_inner().unwrap();
            for number in 0..WAVE {
                for node in 0..2 {
                    started += 1;
                    for address in stage.addresses(&format!("shop/guarded-{wave}-{number}-{node}"), PORT) {
                        assert!(ahead[node].contains(&address), "{address} was not foreseen: {ahead:?}");
                        if !reached[node].contains(&address) {
                            denied.push(address);
                        }
                    }
                }
            }
        }
        let (sent, passed): (Vec<u64>, Vec<_>) = hammers.map(Hammer::finish).into_iter().unzip();
        let mut dropped = 0;
        for node in NODES {
            let counters = stage.sandbox.status(node).await.unwrap().counters;
            dropped += counters
                .iter()
                .filter(|counter| counter.name == "policy_denied")
                .map(|counter| counter.packets)
                .sum::<u64>();
        }
        eprintln!(
            "{started} starts, {sent:?} packets sent, {dropped} dropped, passed {passed:?}, denied {denied:?}"
        );
        for passed in passed {
            assert_eq!(passed, open.into(), "passed before the policy");
        }
        assert_eq!(denied, Vec::<SocketAddr>::new(), "denied after ADD had returned");
        assert!(dropped > 20 * started, "only {dropped} of {sent:?} hit");
        stage.down().await;
    });
}
