//! Traffic that goes on and on, and notices when anything happens to it.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink::Netns;
use nix::sys::socket::{setsockopt, sockopt};

use crate::traffic::{GLANCE, IMPATIENCE, Outcome, PATIENCE, ask, connect, udp_socket};

/// What one kind of traffic saw, from beginning to end.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub name: String,
    /// Requests answered, datagrams arrived, connections made or (by a stranger) not made.
    pub done: u64,
    /// The longest time without progress.
    pub longest: Duration,
    /// When that ended, since the beginning.
    pub longest_at: Duration,
    /// Resets, losses, doubles, doors open that should be shut.
    pub faults: Vec<String>,
}

/// Much traffic at once; it runs until it is asked what it saw.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Default for Load {
    fn default() -> Self {
        Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() }
    }
}

impl Load {
    fn start(
        &mut self,
        name: &str,
        netns: &Netns,
        work: impl FnOnce(&AtomicBool, &mut Record) + Send + 'static,
    ) {
        let (netns, stop) = (netns.try_clone().expect("a namespace"), Arc::clone(&self.stop));
        let mut record = Record::new(name);
        self.threads.push(std::thread::spawn(move || {
            let _inside = netns.enter().expect("enter");
            record.restart();
            work(&stop, &mut record);
            record.seen
        }));
    }

    /// Request and response on one connection.
    pub fn requests(&mut self, name: &str, netns: &Netns, to: SocketAddr) {
        self.start(name, netns, move |stop, record| {
            let mut stream = match connect(to, PATIENCE) {
                Ok(stream) => stream,
                Err(error) => return record.fault(format!("not connected: {error}")),
            };
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = ask(&mut stream) {
                    return record.fault(format!("broken: {error}"));
                }
                record.progress();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
    }

    /// One connection after the other.
    pub fn connections(&mut self, name: &str, netns: &Netns, to: SocketAddr) {
        self.start(name, netns, move |stop, record| {
            while !stop.load(Ordering::Relaxed) {
                match connect(to, PATIENCE).and_then(|mut stream| ask(&mut stream)) {
                    Ok(()) => record.progress(),
                    Err(error) => record.fault(format!("connection {}: {error}", record.seen.done)),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }

    /// One connection after the other, none of which must come about.
    pub fn vain_connections(&mut self, name: &str, netns: &Netns, to: SocketAddr) {
        self.start(name, netns, move |stop, record| {
            while !stop.load(Ordering::Relaxed) {
                match connect(to, IMPATIENCE / 5) {
                    Err(error) if error.kind() == std::io::ErrorKind::TimedOut => record.progress(),
                    Err(error) => record.fault(format!("answered: {error}")),
                    Ok(_) => record.fault("connected".into()),
                }
            }
        });
    }

    /// Numbered datagrams, one each millisecond; every one is to arrive once and in order.
    pub fn datagrams(&mut self, name: &str, from: &Netns, to: &Netns, address: SocketAddr) {
        let open = || UdpSocket::bind(SocketAddr::new(address.ip(), address.port()));
        let receiver = to.run(open).expect("enter").expect("listen");
        // A second of them, should the receiver be held up. Root may.
        setsockopt(&receiver, sockopt::RcvBufForce, &(1 << 20)).expect("a larger buffer");
        let sent_all = Arc::new(AtomicBool::new(false));
        let sent = Arc::clone(&sent_all);
        self.start(&format!("{name}, sent"), from, move |stop, record| {
            let socket = udp_socket(address).expect("a socket");
            while !stop.load(Ordering::Relaxed) {
                match socket.send_to(&record.seen.done.to_be_bytes(), address) {
                    Ok(_) => record.progress(),
                    Err(error) => record.fault(format!("not sent: {error}")),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            sent.store(true, Ordering::Release);
        });
        self.start(&format!("{name}, arrived"), to, move |_, record| {
            receiver.set_read_timeout(Some(GLANCE)).expect("a timeout");
            let (mut arrived, mut last) = (BTreeSet::new(), None);
            loop {
                let done = sent_all.load(Ordering::Acquire);
                let mut buffer = [0; 8];
                match receiver.recv(&mut buffer) {
                    Ok(_) => {
                        let number = u64::from_be_bytes(buffer);
                        if !arrived.insert(number) || Some(number) < last {
                            record.fault(format!("datagram {number} came twice or late"));
                        }
                        last = Some(number);
                        record.progress();
                    }
                    Err(_) if done => break,
                    Err(_) => {}
                }
            }
            let count = last.map_or(0, |last| last + 1);
            if count != record.seen.done {
                record.fault(format!("{} of {count} arrived", record.seen.done));
            }
        });
    }

    /// Only sleeps, a millisecond at a time: what holds this up holds everything up.
    pub fn machine(&mut self, netns: &Netns) {
        self.start("the machine", netns, |stop, record| {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                record.progress();
            }
        });
    }

    /// Ends all of it.
    pub fn finish(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("traffic that does not panic")).collect()
    }
}

struct Record {
    seen: Seen,
    began: Instant,
    last: Instant,
}

impl Record {
    fn new(name: &str) -> Self {
        let now = Instant::now();
        Self { seen: Seen { name: name.to_owned(), ..Seen::default() }, began: now, last: now }
    }

    fn restart(&mut self) {
        self.began = Instant::now();
        self.last = self.began;
    }

    fn progress(&mut self) {
        self.seen.done += 1;
        let now = Instant::now();
        let took = now - self.last;
        if took > self.seen.longest {
            self.seen.longest = took;
            self.seen.longest_at = now - self.began;
        }
        self.last = now;
    }

    fn fault(&mut self, what: String) {
        self.seen.faults.push(what);
    }
}

/// Traffic from `from`, in both families, that nothing may hold up: a connection in use, and new ones.
pub fn busy(load: &mut Load, name: &str, from: &Netns, to: [SocketAddr; 2]) {
    for (family, address) in ["IPv4", "IPv6"].into_iter().zip(to) {
        load.requests(&format!("{name}, requests over {family}"), from, address);
    }
    load.connections(&format!("{name}, connections"), from, to[0]);
}

/// Whether nothing of it went wrong, and nothing but the machine itself held it up.
#[track_caller]
pub fn check_untroubled(seen: &[Seen], longest: Duration) {
    let machine =
        seen.iter().find(|seen| seen.name == "the machine").map_or(Duration::ZERO, |seen| seen.longest);
    for Seen { name, done, faults, .. } in seen {
        assert!(faults.is_empty(), "{name}: {} faults: {:?}", faults.len(), &faults[..faults.len().min(5)]);
        assert!(*done > 10, "{name}: only {done}");
    }
    for Seen { name, longest: took, longest_at, .. } in seen {
        assert!(
            *took < longest + machine,
            "{name}: stood still for {took:?} at {longest_at:?} (machine {machine:?})"
        );
    }
}

/// What a denied attempt must come to.
pub const DENIED: Outcome = Outcome::Silence;
