//! Programs that cannot wait: they send from a pod's namespace from the moment there is one, before the plugin has wired it,
//! to whom they may and to whom they may not.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink::Netns;

use crate::traffic::udp_socket;

/// Between two rounds of a sender, and two looks for new pods: the agents and the plugins need the processor too.
const PAUSE: Duration = Duration::from_micros(300);
/// Whom a pod may reach is asked in one round of so many: who is flooded loses packets that no policy denied.
const SELDOM: u64 = 100;
/// However late it is told to stop, each sender has sent something by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one pod's sender has done.
#[derive(Debug)]
pub struct Sent {
    pub pod: PathBuf,
    /// Datagrams that found a way out of the pod.
    pub count: u64,
    /// Who answered.
    pub answered: BTreeSet<SocketAddr>,
}

/// Watches for new pods, and sends from each.
pub struct Eager {
    stop: Arc<AtomicBool>,
    pods: Arc<Mutex<Vec<Netns>>>,
    watcher: JoinHandle<Vec<Sent>>,
}

impl Eager {
    /// From every pod whose namespace appears in this folder from now on, to those it must not reach, and seldom to those it may.
    pub fn start(folder: &Path, shut: &[SocketAddr], open: &[SocketAddr]) -> Self {
        let (stop, pods) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut known = namespaces(folder);
        let (folder, shut, open) = (folder.to_owned(), shut.to_vec(), open.to_vec());
        let (until, found) = (Arc::clone(&stop), Arc::clone(&pods));
        let watcher = std::thread::spawn(move || {
            let mut senders = Vec::new();
            while !until.load(Ordering::Relaxed) {
                for path in namespaces(&folder) {
                    // A file that is none yet becomes one in a moment.
                    let Ok(netns) = Netns::open(&path) else { continue };
                    if known.insert(path) {
                        found.lock().expect("pods").push(netns.try_clone().expect("a namespace"));
                        let (shut, open, until) = (shut.clone(), open.clone(), Arc::clone(&until));
                        senders.push(std::thread::spawn(move || send(&netns, &shut, &open, &until)));
                    }
                }
                std::thread::sleep(PAUSE);
            }
            senders.into_iter().map(|sender| sender.join().expect("a sender that does not panic")).collect()
        });
        Self { stop, pods, watcher }
    }

    /// The pods that were found so far.
    pub fn pods(&self) -> Vec<Netns> {
        let pods = self.pods.lock().expect("pods");
        pods.iter().map(|pod| pod.try_clone().expect("a namespace")).collect()
    }

    pub fn finish(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.join().expect("a watcher that does not panic")
    }
}

/// Pods' namespaces are named as containers are: 64 digits. One that goes away meanwhile is no pod any more.
fn namespaces(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder of namespaces").flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.len() == 64))
        .collect()
}

fn send(netns: &Netns, shut: &[SocketAddr], open: &[SocketAddr], until: &AtomicBool) -> Sent {
    let _inside = netns.enter().expect("enter");
    let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let sockets: [UdpSocket; 2] = any.map(|ip| {
        let socket = udp_socket(SocketAddr::new(ip, 0)).expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        socket
    });
    let mut sent = Sent { pod: netns.path().to_owned(), count: 0, answered: BTreeSet::new() };
    let mut deadline = None;
    for round in 0_u64.. {
        let seldom = if round % SELDOM == 0 { open } else { &[] };
        for target in shut.iter().chain(seldom) {
            // Until it is wired there is no way out.
            let way_out = sockets[usize::from(target.is_ipv6())].send_to(b"let me out", target).is_ok();
            sent.count += u64::from(way_out);
        }
        for socket in &sockets {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 100]) {
                sent.answered.insert(from);
            }
        }
        if until.load(Ordering::Relaxed) {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            if sent.count > 0 || Instant::now() > deadline {
                break;
            }
        }
        std::thread::sleep(PAUSE);
    }
    sent
}
