//! Single packets and connections from inside a namespace, and what came of them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netlink::Netns;

/// What came of a knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Refused,
    /// Nothing came back.
    Silence,
    Failed(String),
}

use Outcome::{Answered, Failed, Refused, Silence};

impl Outcome {
    fn of<T>(result: io::Result<T>) -> Self {
        match result {
            Ok(_) => Answered,
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Refused,
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Silence,
                _ => Failed(error.to_string()),
            },
        }
    }
}

/// How long a knock waits where it should be answered.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// And where it should not.
pub const IMPATIENCE: Duration = Duration::from_millis(250);

/// A TCP connection from `netns`, with one request and its answer.
pub fn tcp(netns: &Netns, to: SocketAddr, patience: Duration) -> Outcome {
    netns.run(|| Outcome::of(connect(to, patience).and_then(|mut stream| ask(&mut stream)))).expect("enter")
}

/// To be called inside a namespace.
pub fn connect(to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and its answer, to an [`Echo`].
pub fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[7; 64])?;
    stream.read_exact(&mut [0; 64])
}

/// A datagram from `netns` and its answer.
pub fn udp(netns: &Netns, to: SocketAddr, patience: Duration) -> Outcome {
    udp_of(netns, to, 64, patience)
}

/// A datagram of `length` bytes, which is to come back whole.
pub fn udp_of(netns: &Netns, to: SocketAddr, length: usize, patience: Duration) -> Outcome {
    netns
        .run(|| {
            Outcome::of(udp_socket(to).and_then(|socket| {
                socket.connect(to)?;
                socket.set_read_timeout(Some(patience))?;
                let sent = vec![0x5a; length];
                socket.send(&sent)?;
                let mut buffer = vec![0; 65536];
                let received = socket.recv(&mut buffer)?;
                let whole = buffer[..received] == sent;
                if whole { Ok(()) } else { Err(io::Error::other("came back changed")) }
            }))
        })
        .expect("enter")
}

/// A socket of the family of `to`, inside the namespace of the calling thread.
pub fn udp_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind(SocketAddr::new(any, 0))
}

/// How often those who wait look whether they should end.
pub(crate) const GLANCE: Duration = Duration::from_millis(20);

/// Gives back what it gets, over TCP and UDP, on one port of one namespace, both families. Ends when dropped.
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    pub fn start(netns: &Netns, port: u16) -> Self {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let open = || -> io::Result<_> { Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?)) };
        let (tcp, udp) = netns.run(open).expect("enter").expect("listen on both families");
        let stop = Arc::new(AtomicBool::new(false));
        let (for_tcp, for_udp) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            std::thread::spawn(move || accept(&tcp, &for_tcp)),
            std::thread::spawn(move || give_back(&udp, &for_udp)),
        ];
        Self { stop, threads }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A server that panicked has said so, and its clients saw it.
            thread.join().ok();
        }
    }
}

fn accept(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    listener.set_nonblocking(true).expect("a socket that does not block");
    let mut streams = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let stop = Arc::clone(stop);
                streams.push(std::thread::spawn(move || answer(stream, &stop)));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    for stream in streams {
        stream.join().ok();
    }
}

fn answer(mut stream: TcpStream, stop: &AtomicBool) {
    stream.set_nonblocking(false).expect("a socket that blocks");
    stream.set_read_timeout(Some(GLANCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option of every TCP socket");
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) if stream.write_all(&buffer[..length]).is_err() => return,
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return;
            }
            _ => {}
        }
    }
}

fn give_back(socket: &UdpSocket, stop: &AtomicBool) {
    socket.set_read_timeout(Some(GLANCE)).expect("a timeout");
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        // Who has gone meanwhile gets none.
        socket.send_to(&buffer[..length], from).ok();
    }
}
