//! `weir capture`: the packets of one pod, as the pod's own interface sees them.
//!
//! Packets between pods are put straight into the other pod, past the host's side of its pair of links, where a capture on
//! the node sees only half of a conversation. So this listens inside the pod's network namespace, which sees all that the pod
//! sends and receives. What was dropped on the way is not among it: `weir flows --verdict denied` shows that.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use api::{EndpointStatus, Status};
use common::packet::{Memory, PARSED, Packet, parse};
use netlink::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::sockopt::RcvBuf;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
};

use crate::agents::{Which, unless_closed};

#[derive(clap::Args)]
#[command(
    after_help = "Ends with Ctrl-C, after --count packets or after --seconds. Needs root on the pod's node."
)]
pub(crate) struct Args {
    /// The pod, as `namespace/name` or `name`, or one of its addresses
    #[arg(value_name = "POD|IP")]
    pod: String,
    /// Write a pcap file in place of a line for each packet; `-` is the standard output
    #[arg(short, long, value_name = "FILE.pcap")]
    write: Option<PathBuf>,
    /// End after so many packets
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    /// End after so long
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Only packets from or to this port
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    #[command(flatten)]
    which: Which,
}

/// More than any packet has, however many segments the kernel has put together.
const LONGEST: usize = 256 << 10;
/// Room for what comes while we write.
const BUFFER: usize = 8 << 20;
const LOOPBACK: u16 = 772;
const OUTGOING: u8 = 4;

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let statuses = args.which.statuses()?;
    let (agent, endpoint) = find(&statuses, &args.pod)?;
    let packets = listen(&open(agent, endpoint)?)
        .with_context(|| format!("listen in pod {} (this needs root)", endpoint.name))?;
    let mut out = Output::new(args.write.as_deref())?;
    let ips: Vec<String> = endpoint.ips.iter().map(ToString::to_string).collect();
    eprintln!("weir: capturing {} ({}), Ctrl-C ends it", endpoint.name, ips.join(", "));
    let captured = follow(&packets, &args, &mut out);
    let count = out.count;
    unless_closed(captured)?;
    eprintln!("weir: {count} packets");
    Ok(ExitCode::SUCCESS)
}

/// The one endpoint that is meant, and its agent's status.
fn find<'a>(statuses: &'a [Status], wanted: &str) -> Result<(&'a Status, &'a EndpointStatus)> {
    let ip: Option<IpAddr> = wanted.parse().ok();
    let is_meant = |endpoint: &EndpointStatus| match ip {
        Some(ip) => endpoint.ips.contains(&ip),
        None => {
            endpoint.name == wanted || endpoint.name.split_once('/').is_some_and(|(_, name)| name == wanted)
        }
    };
    let all =
        statuses.iter().flat_map(|status| status.endpoints.iter().map(move |endpoint| (status, endpoint)));
    let mut found: Vec<_> = all.filter(|(_, endpoint)| is_meant(endpoint)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let nodes: Vec<_> = statuses.iter().map(|status| status.node.as_str()).collect();
            bail!(
                "no pod {wanted} is managed by the agent of {}; `weir status` shows those that are, and a pod of another node \
                 is captured there",
                nodes.join(", ")
            )
        }
        _ => {
            let names: Vec<_> = found.iter().map(|(_, endpoint)| endpoint.name.as_str()).collect();
            bail!("{wanted} may be any of these: {}", names.join(", "))
        }
    }
}

/// The pod's network namespace: by the path that the runtime gave, as we see it or as the agent does.
fn open(agent: &Status, endpoint: &EndpointStatus) -> Result<Netns> {
    let path = endpoint.netns.as_deref().with_context(|| {
        format!("the agent of {} is too old to say where pod {} lives", agent.node, endpoint.name)
    })?;
    Netns::open(path)
        .or_else(|error| Netns::open(format!("/proc/{}/root{path}", agent.pid)).map_err(|_| error))
        .with_context(|| format!("pod {}: is this its node, and are we root?", endpoint.name))
}

/// A socket that sees every packet of every interface of the namespace, from now on.
fn listen(netns: &Netns) -> Result<OwnedFd> {
    let _inside = netns.enter()?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    // As much of it as we may have.
    setsockopt(&socket, RcvBuf, &BUFFER)?;
    Ok(socket)
}

fn follow(packets: &OwnedFd, args: &Args, out: &mut Output) -> Result<()> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGINT);
    ends.add(Signal::SIGTERM);
    ends.thread_block().context("wait for Ctrl-C")?;
    let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC).context("wait for Ctrl-C")?;
    let deadline = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut buffer = vec![0; LONGEST];
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
        // Not longer, so that what was seen is soon on the screen or in the file.
        let patience = left.map_or(200, |left| left.as_millis().clamp(1, 200));
        let mut ready = [
            PollFd::new(packets.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let patience = PollTimeout::from(u16::try_from(patience).unwrap_or(200));
        if poll(&mut ready, patience).context("wait for packets")? == 0 {
            out.flush()?;
            continue;
        }
        if ready[1].any() == Some(true) {
            return out.flush();
        }
        while let Some((frame, from)) = receive(packets, &mut buffer)? {
            if from.hatype() == LOOPBACK || !args.port.is_none_or(|port| has_port(frame, port)) {
                continue;
            }
            out.packet(SystemTime::now(), from.pkttype() == OUTGOING, frame)?;
            if args.count.is_some_and(|count| out.count >= count) {
                return out.flush();
            }
        }
    }
}

fn receive<'a>(packets: &OwnedFd, buffer: &'a mut [u8]) -> Result<Option<(&'a [u8], LinkAddr)>> {
    let received = recvfrom::<LinkAddr>(packets.as_raw_fd(), buffer);
    match received {
        Ok((length, Some(from))) => Ok(Some((&buffer[..length], from))),
        Ok((_, None)) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(None),
        // The pod, and with it its interface, is gone.
        Err(nix::errno::Errno::ENETDOWN) => Ok(None),
        Err(errno) => Err(errno).context("receive packets"),
    }
}

fn packet(frame: &[u8]) -> Option<Packet> {
    let mut packet = Packet::default();
    (parse(Memory::new(frame, 0), &mut packet) == PARSED).then_some(packet)
}

fn has_port(frame: &[u8], port: u16) -> bool {
    packet(frame).is_some_and(|packet| {
        packet.source_port.to_host() == port || packet.destination_port.to_host() == port
    })
}

/// Where packets go.
struct Output {
    out: BufWriter<Box<dyn Write>>,
    is_pcap: bool,
    count: u64,
}

impl Output {
    fn new(file: Option<&Path>) -> Result<Self> {
        let out: Box<dyn Write> = match file {
            Some(path) if path == Path::new("-") => {
                if io::stdout().is_terminal() {
                    bail!(
                        "-w -: a pcap file is nothing for a terminal; send it to a file or to a reader of such files"
                    );
                }
                Box::new(io::stdout())
            }
            Some(path) => Box::new(File::create(path).with_context(|| format!("-w {}", path.display()))?),
            None => Box::new(io::stdout()),
        };
        let mut output = Self { out: BufWriter::new(out), is_pcap: file.is_some(), count: 0 };
        if output.is_pcap {
            output.out.write_all(&pcap_head())?;
            output.flush()?;
        }
        Ok(output)
    }

    fn packet(&mut self, at: SystemTime, is_sent: bool, frame: &[u8]) -> Result<()> {
        self.count += 1;
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.is_pcap {
            self.out.write_all(&pcap_record(since, frame.len()))?;
            self.out.write_all(frame)?;
        } else {
            writeln!(self.out, "{}", line(since, is_sent, frame))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }
}

/// Microseconds, Ethernet.
fn pcap_head() -> Vec<u8> {
    let words = [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, LONGEST as u32, 1];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn pcap_record(since: Duration, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let words = [since.as_secs() as u32, since.subsec_micros(), length, length];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// `14:03:07.123456 > 10.244.0.2:43210 10.244.1.3:80 TCP SYN 74 bytes`, in UTC; `>` is sent by the pod, `<` received.
fn line(since: Duration, is_sent: bool, frame: &[u8]) -> String {
    let seconds = since.as_secs() % 86_400;
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let head = format!("{time}.{:06} {}", since.subsec_micros(), if is_sent { '>' } else { '<' });
    let Some(packet) = packet(frame) else {
        let ethertype = frame.get(12..14).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        return format!("{head} ethertype {ethertype:#06x} {} bytes", frame.len());
    };
    let end = |ip: IpAddr, port: u16| match (ip, port) {
        (ip, 0) => ip.to_string(),
        (IpAddr::V4(ip), port) => format!("{ip}:{port}"),
        (IpAddr::V6(ip), port) => format!("[{ip}]:{port}"),
    };
    let flags = ["FIN", "SYN", "RST", "PSH", "ACK"];
    let set = flags.iter().enumerate().filter(|(bit, _)| packet.tcp_flags & (1 << bit) != 0);
    let set: Vec<&str> = set.map(|(_, flag)| *flag).collect();
    let flags = if set.is_empty() { String::new() } else { format!(" {}", set.join(",")) };
    format!(
        "{head} {} {} {}{flags} {} bytes",
        end(packet.source.to_ip(), packet.source_port.to_host()),
        end(packet.destination.to_ip(), packet.destination_port.to_host()),
        api::protocol_name(packet.protocol),
        frame.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN from 10.244.0.2:43210 to 10.244.1.3:80.
    fn syn() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 244, 0, 2, 10, 244, 1, 3]);
        frame.extend([0xa8, 0xca, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
        frame
    }

    fn endpoint(name: &str, ip: &str) -> EndpointStatus {
        EndpointStatus { name: name.into(), ips: vec![ip.parse().unwrap()], ..EndpointStatus::default() }
    }

    #[test]
    fn a_packet_is_a_line_that_says_who_speaks_to_whom() {
        let at = Duration::new(50_587, 123_456_000);
        assert_eq!(
            line(at, true, &syn()),
            "14:03:07.123456 > 10.244.0.2:43210 10.244.1.3:80 TCP SYN 54 bytes"
        );
        let mut arp = syn();
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(line(at, false, &arp), "14:03:07.123456 < ethertype 0x0806 54 bytes");
        assert!(has_port(&syn(), 80) && has_port(&syn(), 43_210) && !has_port(&syn(), 81));
        assert!(!has_port(&arp, 80));
    }

    #[test]
    fn a_pcap_file_begins_and_goes_on_as_its_readers_expect() {
        assert_eq!(pcap_head().len(), 24);
        assert_eq!(&pcap_head()[..8], &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        let record = pcap_record(Duration::new(7, 9_000), 54);
        assert_eq!(record, [7, 0, 0, 0, 9, 0, 0, 0, 54, 0, 0, 0, 54, 0, 0, 0]);
    }

    #[test]
    fn a_pod_is_found_by_its_name_or_address_and_what_is_unclear_is_said() {
        let status = Status {
            node: "node-0".into(),
            endpoints: vec![
                endpoint("shop/web", "10.244.0.2"),
                endpoint("ops/web", "10.244.0.3"),
                endpoint("shop/db", "10.244.0.4"),
            ],
            ..Status::default()
        };
        let statuses = [status];
        for (wanted, name) in [("shop/web", "shop/web"), ("db", "shop/db"), ("10.244.0.3", "ops/web")] {
            assert_eq!(find(&statuses, wanted).unwrap().1.name, name);
        }
        let error = |wanted| find(&statuses, wanted).unwrap_err().to_string();
        assert_eq!(error("web"), "web may be any of these: shop/web, ops/web");
        assert!(error("10.9.9.9").starts_with("no pod 10.9.9.9 is managed by the agent of node-0"));
    }
}
