//! The parser of the kernel programs, on the host: it agrees with a second one, whatever part of a frame can be read
//! directly, whatever it parsed before, and whatever stands behind the packet's end.

use common::net::{Addr, Be16};
use common::packet::{MALFORMED, Memory, PARSED, Packet, fragment, parse};

use crate::reference::{self, Part, Silence};

/// Makes frames of more than 64 KiB, which a fuzzer would not write by itself.
const BIG: u8 = 0xff;
const BIG_BYTES: usize = 0x1_0080;

/// `input`: how many bytes of the frame are linear, then the frame.
pub fn check(input: &[u8]) {
    let Some((linear, frame)) = input.split_first() else { return };
    let mut frame = frame.to_vec();
    if frame.len() < common::packet::ETH_LEN {
        return;
    }
    if *linear == BIG {
        frame.resize(frame.len() + BIG_BYTES, 0);
    }
    let (answer, packet) = agreed(&frame, usize::from(*linear));
    compare(&frame, answer, &packet);
    if answer == PARSED {
        let end = packet.end as usize;
        assert_eq!(agreed(&frame[..end], usize::from(*linear)), (answer, packet), "without its padding");
        frame.iter_mut().skip(end).for_each(|byte| *byte ^= 0xa5);
        assert_eq!(agreed(&frame, usize::from(*linear)), (answer, packet), "with other padding");
    }
}

/// What the parser says, which does not depend on how it gets at the frame.
fn agreed(frame: &[u8], linear: usize) -> (u32, Packet) {
    let aligned = Aligned::new(frame);
    let all = one(aligned.frame(), frame.len(), 0xff);
    for (linear, before) in [(linear, 0x55), (0, 0), (14 + 20, 1), (14 + 20 + 14, 2)] {
        assert_eq!(one(aligned.frame(), linear, before), all, "{linear} bytes linear");
    }
    all
}

/// Into a packet that holds another packet's values; what the answer does not promise is wiped.
fn one(frame: &[u8], linear: usize, before: u8) -> (u32, Packet) {
    let number = u32::from(before) * 0x0101_0101;
    let addr = Addr([number; 4]);
    let port = Be16::from_wire([before; 2]);
    let mut packet = Packet {
        source: addr,
        destination: addr,
        source_port: port,
        destination_port: port,
        protocol: before,
        tcp_flags: before,
        icmp_type: before,
        hop_limit: before,
        fragment: before,
        fragment_id: number,
        transport: number,
        end: number,
    };
    let answer = parse(Memory::new(frame, linear), &mut packet);
    if answer != PARSED {
        packet = Packet::default();
    } else if packet.fragment == fragment::WHOLE {
        packet.fragment_id = 0;
    }
    (answer, packet)
}

fn compare(frame: &[u8], answer: u32, packet: &Packet) {
    let said = match reference::read(frame) {
        Ok(said) => said,
        Err(Silence::Malformed) => return assert_eq!(answer, MALFORMED, "the second parser says malformed"),
        Err(Silence::NotIp(ethertype)) => return assert_eq!(answer, u32::from(ethertype)),
    };
    let (part, id) = match said.part {
        Part::Whole => (fragment::WHOLE, 0),
        Part::First(id) => (fragment::FIRST, id),
        Part::Later(id) => (fragment::LATER, id),
    };
    let expected = Packet {
        source: said.source.into(),
        destination: said.destination.into(),
        source_port: said.source_port.into(),
        destination_port: said.destination_port.into(),
        protocol: said.protocol,
        tcp_flags: said.tcp_flags,
        icmp_type: said.icmp_type,
        hop_limit: said.hop_limit,
        fragment: part,
        fragment_id: id,
        transport: said.transport as u32,
        end: said.end as u32,
    };
    assert_eq!((answer, *packet), (PARSED, expected), "left: the programs' parser, right: the second one");
}

/// A frame whose IP header stands at a multiple of four, as the kernel has it: else nothing would be read directly.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(frame: &[u8]) -> Self {
        let mut bytes = vec![0; frame.len() + 8];
        let start = bytes.as_ptr().align_offset(4) + 2;
        bytes.truncate(start + frame.len());
        bytes[start..].copy_from_slice(frame);
        Self { bytes, start }
    }

    fn frame(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}
