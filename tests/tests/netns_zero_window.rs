//! Isolation holds from the first instant, and nothing allowed is denied once ADD has returned on the pod's own node: pods
//! start while others hammer the addresses that they are about to get, while they themselves send before they can, and while
//! policies come and go that change no answer. `WEIR_STARTS` says how many (60 unless told). Needs root and the binaries
//! beside this one (`cargo xtask test netns` builds them).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink::Netns;
use sandbox::Progress;
use tests::eager::Eager;
use tests::node::Family;
use tests::stage::{Stage, block_on, counter};
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
        pod("shop/friend-0", 0, "app: friend", "53/UDP"),
        pod("shop/friend-1", 1, "app: friend", "53/UDP"),
        pod("shop/open", 0, "app: open", "53/UDP"),
        policy(
            "shop/guarded",
            "app: guarded",
            "policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}], \
             egress: [{to: [{podSelector: {matchLabels: {app: friend}}}]}]",
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

/// Policies that come and go and change no answer: some are nobody's business, some select the pods that start and allow
/// what is allowed already.
struct Churn {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Churn {
    fn start(stage: &Stage) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, draft) = (Arc::clone(&stop), stage.folder().join("churn.draft"));
        let place = stage.objects().join("churn.yaml");
        let thread = std::thread::spawn(move || {
            let mut round = 0;
            while !until.load(Ordering::Relaxed) {
                std::fs::write(&draft, harmless(round)).expect("write a draft");
                std::fs::rename(&draft, &place).expect("put it in place");
                round += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            // What the sandbox waits for is its own file and nothing beside it.
            std::fs::remove_file(&place).expect("take it away");
        });
        Self { stop, thread }
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("churn that does not panic");
    }
}

fn harmless(round: usize) -> String {
    let friends = "{podSelector: {matchLabels: {app: friend}}}";
    let mut text = policy(
        "shop/unrelated",
        "app: nobody",
        &format!("ingress: [{{from: [{friends}], ports: [{{port: {}}}]}}]", 1 + round % 1000),
    );
    if round.is_multiple_of(2) {
        let ingress = format!("ingress: [{{from: [{friends}], ports: [{{port: 53, protocol: UDP}}]}}]");
        text += &policy("shop/more-ingress", "app: guarded", &ingress);
    }
    if round.is_multiple_of(3) {
        let egress = format!(
            "policyTypes: [Egress], egress: [{{to: [{friends}]}}, {{to: [{friends}], ports: [{{port: 53}}]}}]"
        );
        text += &policy("shop/more-egress", "app: guarded", &egress);
    }
    text
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
        let names = ["shop/friend-0", "shop/friend-1"];
        let friends = names.map(|friend| stage.netns(friend));
        let friendly = names.map(|friend| stage.addresses(friend, PORT)).concat();
        let targets = Arc::new(Mutex::new(Vec::new()));
        let hammers =
            ["shop/hammer-0", "shop/hammer-1"].map(|pod| Hammer::start(&stage.netns(pod), &targets));

        let (mut started, mut denied, mut eager) = (0, Vec::new(), Vec::new());
        for wave in 1..=starts.div_ceil(2 * WAVE) {
            let ahead = [next(&stage, 0), next(&stage, 1)];
            *targets.lock().unwrap() = [&ahead[0][..], &ahead[1], &open].concat();
            let senders = Eager::start(&stage.folder().join("netns"), &open, &friendly);
            let churn = Mutex::new(Some(Churn::start(&stage)));
            let reached = Mutex::new([BTreeSet::new(), BTreeSet::new()]);
            let went_out = Mutex::new(Vec::new());
            let at_once = |progress: Progress| match progress {
                // The last plugin of the wave has returned this moment.
                Progress::Pods(done, total) if done == total && total > 0 => {
                    let knock = |node: usize| knock_once(&friends[node], &ahead[node], 2 * WAVE);
                    *reached.lock().unwrap() = [knock(0), knock(1)];
                    let out = |pod: &Netns| missing(&friendly, &knock_once(pod, &friendly, friendly.len()));
                    *went_out.lock().unwrap() = senders.pods().iter().map(out).collect();
                }
                Progress::Policies => churn.lock().unwrap().take().map_or((), Churn::finish),
                _ => {}
            };
            stage.manifests.write(&town(wave));
            let cast = stage.manifests.cast(Some(stage.sandbox.cast()));
            stage.sandbox.apply(cast, &at_once).await.unwrap();
            eager.extend(senders.finish());
            let reached = reached.into_inner().unwrap();
            for number in 0..WAVE {
                for node in 0..2 {
                    started += 1;
                    for address in stage.addresses(&format!("shop/guarded-{wave}-{number}-{node}"), PORT) {
                        assert!(ahead[node].contains(&address), "{address} was not foreseen: {ahead:?}");
                        if !reached[node].contains(&address) {
                            let from = stage.ip(names[node], family_of(address));
                            denied.push((from, address, stage.drop_reason(from, address.ip()).await));
                        }
                    }
                }
            }
            let went_out = went_out.into_inner().unwrap();
            assert_eq!(went_out.len(), 2 * WAVE, "the pods of the wave");
            let silent = went_out.iter().flatten().count();
            assert_eq!(silent, 0, "{went_out:?} {}", why_not_out(&stage, wave, &friendly).await);
        }
        let (sent, passed): (Vec<u64>, Vec<_>) = hammers.map(Hammer::finish).into_iter().unzip();
        let dropped = counter(&stage, "policy_denied").await;
        let (pods, eagerly): (usize, u64) = (eager.len(), eager.iter().map(|sent| sent.count).sum());
        eprintln!(
            "{started} starts, {sent:?} packets sent to them, {eagerly} from {pods} of them, {dropped} dropped, \
             passed {passed:?}, denied {denied:?}"
        );
        for passed in passed {
            assert_eq!(passed, open.into(), "passed before the policy");
        }
        for sent in &eager {
            assert!(sent.answered.is_disjoint(&open.into()), "left before the policy: {sent:?}");
            assert!(sent.count > 0, "never had a way out: {sent:?}");
        }
        assert_eq!(pods, started, "each pod was eager");
        assert!(eager.iter().any(|sent| !sent.answered.is_empty()), "nobody who may answers");
        assert_eq!(denied, Vec::new(), "denied after ADD had returned, and why");
        assert!(dropped > started as u64, "only {dropped} of {sent:?} hit");
        stage.down().await;
    });
}

fn missing(wanted: &[SocketAddr], answered: &BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
    wanted.iter().filter(|address| !answered.contains(address)).copied().collect()
}

fn family_of(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Why a pod of the wave did not reach its friends.
async fn why_not_out(stage: &Stage, wave: usize, friendly: &[SocketAddr]) -> String {
    let mut said = "denied after ADD had returned:".to_owned();
    for number in 0..WAVE {
        for node in 0..2 {
            let pod = format!("shop/guarded-{wave}-{number}-{node}");
            for to in friendly {
                let drops = stage.drops(stage.ip(&pod, family_of(*to)), to.ip()).await;
                let reasons: Vec<_> = drops.iter().map(|drop| &drop.reason).collect();
                said += &format!("\n{pod} to {to}: {reasons:?}");
            }
        }
    }
    said
}
