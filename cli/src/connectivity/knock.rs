//! What runs in the pods: servers that tell their name by TCP and UDP, and the knocking at their doors.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde::{Deserialize, Serialize};

/// Where servers listen, by TCP and by UDP.
pub(super) const PORT: u16 = 8080;
/// Where they listen too, and no policy lets anybody in.
pub(super) const SHUT_PORT: u16 = 8081;
/// One attempt of several: a lost packet is not an answer.
const ATTEMPT: Duration = Duration::from_secs(1);
const GREETING: &[u8] = b"who\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Door {
    /// A server of ours, which tells its name.
    Server(SocketAddr),
    /// Somebody else's, where a connection is enough.
    Port(SocketAddr),
    /// A Service by its name: the cluster's DNS is asked by this protocol, then the first address of the family by TCP.
    Named { service: String, port: u16, is_v6: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Knock {
    pub(super) door: Door,
    pub(super) protocol: Protocol,
    /// Whoever has not answered by then does not.
    pub(super) patience_ms: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    /// By the server of this name, where it tells one.
    Yes(String),
    Silence,
    /// Somebody said no, or there is no way.
    Error(String),
}

/// Serves until killed.
pub(super) fn serve() -> Result<ExitCode> {
    let name = nix::unistd::gethostname().context("ask for the pod's name")?;
    let name = name.to_string_lossy().into_owned();
    let sockets = [PORT, SHUT_PORT].map(|port| {
        let listener = bound(port, TcpListener::bind).with_context(|| format!("listen on TCP {port}"))?;
        let socket = bound(port, UdpSocket::bind).with_context(|| format!("listen on UDP {port}"))?;
        anyhow::Ok((listener, socket))
    });
    let sockets = sockets.into_iter().collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        for (listener, socket) in &sockets {
            scope.spawn(|| serve_tcp(listener, &name));
            scope.spawn(|| serve_udp(socket, &name));
        }
    });
    Ok(ExitCode::FAILURE)
}

/// By both families, or by IPv4 where there is no other.
fn bound<T>(port: u16, bind: impl Fn(SocketAddr) -> std::io::Result<T>) -> std::io::Result<T> {
    bind((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|_| bind((Ipv4Addr::UNSPECIFIED, port).into()))
}

fn serve_tcp(listener: &TcpListener, name: &str) {
    for mut stream in listener.incoming().flatten() {
        // Whoever hangs up first has heard enough.
        stream.write_all(name.as_bytes()).unwrap_or_default();
    }
}

fn serve_udp(socket: &UdpSocket, name: &str) {
    let mut question = [0; 64];
    loop {
        // What comes back of an answer that nobody waited for is no reason to end.
        if let Ok((_, from)) = socket.recv_from(&mut question) {
            socket.send_to(name.as_bytes(), from).unwrap_or_default();
        }
    }
}

/// Knocks everywhere at once, and prints the answers in the order of the doors.
pub(super) fn knock_all(knocks: &str) -> Result<ExitCode> {
    let knocks: Vec<Knock> = serde_json::from_str(knocks).context("understand where to knock")?;
    let answers: Vec<Answer> = thread::scope(|scope| {
        let knocking: Vec<_> = knocks.iter().map(|knock| scope.spawn(|| answer(knock))).collect();
        let answers = knocking.into_iter().map(|it| it.join());
        answers.map(|it| it.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &answers).context("say what came of it")?;
    out.write_all(b"\n").context("say what came of it")?;
    Ok(ExitCode::SUCCESS)
}

/// Tries again until there is an answer or patience has ended: what has just been made may not be known everywhere yet.
fn answer(knock: &Knock) -> Answer {
    let deadline = Instant::now() + Duration::from_millis(knock.patience_ms);
    let mut last = Answer::Silence;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return last;
        }
        let begun = Instant::now();
        match attempt(knock, left.min(ATTEMPT)) {
            Ok(said) => return Answer::Yes(said),
            Err(error) if is_silence(&error) => last = Answer::Silence,
            Err(error) => {
                last = Answer::Error(format!("{error:#}"));
                let rest = (ATTEMPT / 4).saturating_sub(begun.elapsed());
                thread::sleep(rest.min(deadline.saturating_duration_since(Instant::now())));
            }
        }
    }
}

fn is_silence(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock))
}

fn attempt(knock: &Knock, limit: Duration) -> Result<String> {
    match (&knock.door, knock.protocol) {
        (Door::Server(address), Protocol::Tcp) => ask_tcp(*address, limit),
        (Door::Server(address), Protocol::Udp) => {
            let said = exchange(*address, GREETING, limit)?;
            Ok(String::from_utf8_lossy(&said).into_owned())
        }
        (Door::Port(address), _) => {
            TcpStream::connect_timeout(address, limit)?;
            Ok(String::new())
        }
        (Door::Named { service, port, is_v6 }, protocol) => {
            let resolver = Resolver::read()?;
            let ip = resolver.resolve(service, *is_v6, protocol, limit)?;
            // A denial of what follows is not one of the name server.
            ask_tcp((ip, *port).into(), limit).with_context(|| format!("{service} is {ip}, connect to it"))
        }
    }
}

fn ask_tcp(address: SocketAddr, limit: Duration) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn exchange(address: SocketAddr, question: &[u8], limit: Duration) -> Result<Vec<u8>> {
    let any =
        if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(limit))?;
    socket.send(question)?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// What `/etc/resolv.conf` of a pod says. The C library's resolver loads parts of itself when it runs, and a program that
/// stands alone in its image has none.
#[derive(Debug, PartialEq, Eq)]
struct Resolver {
    server: IpAddr,
    /// Of the pod's own namespace: `NAMESPACE.svc.cluster.local`.
    domain: String,
}

impl Resolver {
    fn read() -> Result<Self> {
        let text = std::fs::read_to_string("/etc/resolv.conf").context("read /etc/resolv.conf")?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let lines = || text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let server = lines().find_map(|words| match words[..] {
            ["nameserver", ip, ..] => ip.parse().ok(),
            _ => None,
        });
        let domain = lines().find_map(|words| match words[..] {
            ["search", domain, ..] => Some(domain.to_owned()),
            _ => None,
        });
        match (server, domain) {
            (Some(server), Some(domain)) => Ok(Self { server, domain }),
            (None, _) => bail!("the pod's /etc/resolv.conf names no server"),
            (_, None) => bail!("the pod's /etc/resolv.conf has no search list"),
        }
    }

    fn resolve(&self, service: &str, is_v6: bool, protocol: Protocol, limit: Duration) -> Result<IpAddr> {
        let name = format!("{service}.{}.", self.domain.trim_end_matches('.'));
        let kind = if is_v6 { RecordType::AAAA } else { RecordType::A };
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(&name).context("a Service's name")?, kind));
        let question = query.to_vec().context("write a question about a name")?;
        let server = SocketAddr::new(self.server, 53);
        let text = match protocol {
            Protocol::Udp => exchange(server, &question, limit)?,
            Protocol::Tcp => {
                let mut stream = TcpStream::connect_timeout(&server, limit)?;
                stream.set_read_timeout(Some(limit))?;
                let length = u16::try_from(question.len()).context("a question of a few bytes")?;
                stream.write_all(&[&length.to_be_bytes(), question.as_slice()].concat())?;
                let mut length = [0; 2];
                stream.read_exact(&mut length)?;
                let mut text = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut text)?;
                text
            }
        };
        let answer = Message::from_vec(&text).with_context(|| format!("understand {server}"))?;
        let code = answer.metadata.response_code;
        if code != ResponseCode::NoError {
            bail!("{server} says of {name} {kind}: {code}");
        }
        let ip = answer.answers.iter().find_map(|record| match &record.data {
            RData::A(ip) => Some(IpAddr::from(ip.0)),
            RData::AAAA(ip) => Some(IpAddr::from(ip.0)),
            _ => None,
        });
        ip.with_context(|| format!("{server} has no {kind} of {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knock(door: Door, protocol: Protocol, patience_ms: u64) -> Answer {
        answer(&Knock { door, protocol, patience_ms })
    }

    #[test]
    fn a_server_tells_its_name_by_tcp_and_by_udp() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (tcp, udp) = (listener.local_addr().unwrap(), socket.local_addr().unwrap());
        // They end with the process, as in a pod.
        thread::spawn(move || serve_tcp(&listener, "open-1"));
        thread::spawn(move || serve_udp(&socket, "open-1"));
        let named = Answer::Yes("open-1".to_owned());
        assert_eq!(knock(Door::Server(tcp), Protocol::Tcp, 60_000), named);
        assert_eq!(knock(Door::Server(udp), Protocol::Udp, 60_000), named);
        assert_eq!(knock(Door::Port(tcp), Protocol::Tcp, 60_000), Answer::Yes(String::new()));
    }

    #[test]
    fn nobody_there_is_an_error_and_no_answer_is_silence() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let Answer::Error(why) = knock(Door::Server(gone), Protocol::Tcp, 300) else { panic!("not refused") };
        assert!(why.contains("refused"), "{why}");
        let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = mute.local_addr().unwrap();
        assert_eq!(knock(Door::Server(address), Protocol::Udp, 300), Answer::Silence);
    }

    #[test]
    fn a_pods_resolver_is_the_first_one_and_its_domain_the_first_of_the_list() {
        let text = "search shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver ::1\n";
        let resolver = Resolver::parse(text).unwrap();
        let domain = "shop.svc.cluster.local".to_owned();
        assert_eq!(resolver, Resolver { server: [10, 96, 0, 10].into(), domain });
        assert!(Resolver::parse("nameserver 10.96.0.10").unwrap_err().to_string().contains("search list"));
        assert!(Resolver::parse("search x").unwrap_err().to_string().contains("names no server"));
    }
}
