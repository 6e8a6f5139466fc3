//! Bytes as a play: each sixteen of them are one frame at one hook, or a change of policy.
//!
//! Fixed records are what makes mutation aware of structure: a byte that changes is another port, flag, header or hook, not
//! rubbish. Rubbish has its own bytes at the end: one that is written anywhere into the frame, and how much is cut off.

use std::net::IpAddr;

use common::net::protocol::{SCTP, TCP, UDP};
use tests::frame::{
    AUTHENTICATION, DESTINATION_OPTIONS, Discovery, ETH_LEN, Flow, HOP_BY_HOP, Packet, ROUTING, echo_reply,
    echo_request, port_unreachable, too_big,
};
use tests::node::Party;

/// Bytes a step.
pub const RECORD: usize = 16;
/// Steps that count.
pub const LONGEST: usize = 24;

/// Where a frame is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A pod sends it.
    FromPod(usize),
    /// The stack forwards it to a pod.
    Forwarded(usize),
    /// The node itself sends it to a pod.
    FromNode(usize),
    FromNet,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    Policies(usize),
    Frame(Place, Vec<u8>),
}

const PORTS: [u16; 8] = [80, 81, 53, 1024, 2047, 2048, 65535, 0];
const EXTENSIONS: [u8; 4] = [HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, AUTHENTICATION];
const DISCOVERY: [Discovery; 9] = [
    Discovery::NeighbourSolicitation,
    Discovery::NeighbourAdvertisement,
    Discovery::RouterSolicitation,
    Discovery::RouterAdvertisement,
    Discovery::Redirect,
    Discovery::MldQuery,
    Discovery::MldReport,
    Discovery::MldDone,
    Discovery::Mldv2Report,
];

/// What was sent so far, for answers and errors about it.
#[derive(Default)]
pub struct Sent {
    flows: Vec<Flow>,
    frames: Vec<Vec<u8>>,
}

/// The records of an input; the first byte says which policies hold at the beginning.
pub fn records(input: &[u8]) -> (usize, impl Iterator<Item = &[u8; RECORD]>) {
    let (first, rest) = input.split_first().unwrap_or((&0, &[]));
    (usize::from(*first), rest.as_chunks().0.iter().take(LONGEST))
}

impl Sent {
    /// What a record means, in a town where `party` knows everybody by number.
    pub fn step(&mut self, record: &[u8; RECORD], party: impl Fn(usize) -> Party) -> Step {
        let byte = |at: usize| usize::from(record[at]);
        let place = match record[0] & 7 {
            0 | 1 => Place::FromPod(byte(0)),
            2 | 3 => Place::Forwarded(byte(0)),
            4 => Place::FromNode(byte(1) >> 3),
            5 | 6 => Place::FromNet,
            _ => return Step::Policies(byte(1)),
        };
        let is_v6 = record[0] & 0x10 != 0;
        let ip = |number: usize| -> IpAddr {
            let party = party(number & 7);
            if is_v6 { party.v6.into() } else { party.v4.into() }
        };
        let mut flow = Flow {
            source: ip(byte(1)),
            destination: ip(byte(1) >> 3),
            source_port: 40000 + u16::from(record[3]),
            destination_port: PORTS[byte(4) % PORTS.len()],
            protocol: TCP,
        };
        if record[3] & 0x80 != 0 {
            flow.source_port = PORTS[byte(3) % PORTS.len()];
        }
        // Bit 3: an answer to something sent before.
        if record[0] & 8 != 0 && !self.flows.is_empty() {
            flow = self.flows[byte(3) % self.flows.len()].back();
        }
        let packet = self.packet(record, &mut flow);
        let frame = bend(record, dress(record, packet, flow.source.is_ipv6()).frame());
        self.flows.push(flow);
        self.frames.push(frame.clone());
        Step::Frame(place, frame)
    }

    fn packet(&self, record: &[u8; RECORD], flow: &mut Flow) -> Packet {
        let (source, destination) = (flow.source, flow.destination);
        let is_answer = record[0] & 8 != 0;
        let about = self.frames.get(usize::from(record[6]) % self.frames.len().max(1));
        let about = about.filter(|frame| frame.len() > ETH_LEN);
        match record[2] & 15 {
            0..=5 if is_answer && flow.protocol != TCP => flow.packet(),
            0..=5 => {
                flow.protocol = TCP;
                flow.tcp_packet(record[5])
            }
            6 | 7 => {
                flow.protocol = UDP;
                flow.packet()
            }
            8 => {
                flow.protocol = SCTP;
                flow.packet()
            }
            9 => echo_request(source, destination, u16::from(record[6])),
            10 => echo_reply(source, destination, u16::from(record[6])),
            11 => match (source, destination) {
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    DISCOVERY[usize::from(record[6]) % DISCOVERY.len()].packet(source, destination)
                }
                _ => flow.packet(),
            },
            12 => about.map_or_else(|| flow.packet(), |frame| too_big(source, frame, destination)),
            13 => about.map_or_else(|| flow.packet(), |frame| port_unreachable(source, frame, destination)),
            14 => Packet::new(source, destination, record[6], vec![record[5]; 40]),
            _ => flow.packet(),
        }
    }
}

/// Another input made of this one, `size` bytes of `data`: steps that come, go, change places or are repeated, or bytes within
/// one step, which `bytes` (of a slice: how many are used, how many there may be) mutates. Returns its size.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    bytes: impl FnOnce(&mut [u8], usize, usize) -> usize,
) -> usize {
    let count = size.saturating_sub(1) / RECORD;
    let most = (max_size.saturating_sub(1) / RECORD).min(LONGEST);
    let start = |record: usize| 1 + record * RECORD;
    let (one, other) = (seed as usize >> 4, seed as usize >> 16);
    match seed & 15 {
        _ if most == 0 => return bytes(data, size, max_size),
        // A new step: a copy of one that is there, or zeros.
        0..=3 if count < most || count == 0 => {
            let at = one % (count + 1);
            data.copy_within(start(at)..start(count), start(at + 1));
            let from = other % (count + 1);
            // Steps from `at` on have moved.
            let from = if from >= at { from + 1 } else { from };
            if from <= count {
                data.copy_within(start(from)..start(from + 1), start(at));
            } else {
                data[start(at)..start(at + 1)].fill(0);
            }
            return start(count + 1);
        }
        4 if count > 1 => {
            data.copy_within(start(one % count + 1)..start(count), start(one % count));
            return start(count - 1);
        }
        5 if count > 1 => {
            for offset in 0..RECORD {
                data.swap(start(one % count) + offset, start(other % count) + offset);
            }
            return start(count);
        }
        6 => data[0] = data[0].wrapping_add(1),
        _ if count > 0 => {
            let record = &mut data[start(one % count)..start(one % count + 1)];
            bytes(record, RECORD, RECORD);
        }
        _ => return bytes(data, size, max_size),
    }
    start(count)
}

/// Options, extension headers, and being a fragment.
fn dress(record: &[u8; RECORD], packet: Packet, is_v6: bool) -> Packet {
    let [kind, length, id] = [record[8], record[9], record[10]];
    let extension = |packet: Packet, kind: u8| {
        if is_v6 { packet.extension(EXTENSIONS[usize::from(kind) % 4]) } else { packet.options(kind % 11) }
    };
    let packet = if record[7] & 1 != 0 { extension(packet, kind) } else { packet };
    let packet = if record[7] & 2 != 0 { extension(packet, kind >> 2) } else { packet };
    let packet = if record[7] & 4 != 0 && is_v6 {
        packet.extension_of(kind, length, 8 + usize::from(length % 8) * 8)
    } else {
        packet
    };
    let packet = if record[7] & 8 != 0 {
        packet.fragment(u32::from(id), u16::from(length >> 1), length & 1 != 0)
    } else {
        packet
    };
    let packet = if record[7] & 16 != 0 { extension(packet, kind >> 4) } else { packet };
    let packet = if record[7] & 32 != 0 { packet.hop_limit(length) } else { packet };
    if record[7] & 64 != 0 { packet.cut(usize::from(length)) } else { packet }
}

/// Cut short, padded, and with one byte that is not as it should be.
fn bend(record: &[u8; RECORD], mut frame: Vec<u8>) -> Vec<u8> {
    match record[11] {
        0 => {}
        padding @ 1..0x80 => frame.resize(frame.len() + usize::from(padding), record[14]),
        cut => frame.truncate(frame.len().saturating_sub(usize::from(cut - 0x80))),
    }
    if record[15] & 1 != 0 && !frame.is_empty() {
        let at = usize::from(u16::from_le_bytes([record[12], record[13]])) % frame.len();
        frame[at] = record[14];
    }
    frame
}
