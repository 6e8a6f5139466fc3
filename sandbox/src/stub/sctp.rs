//! As much of SCTP (RFC 9260) as it takes to knock and to answer: INIT, INIT-ACK, ABORT.
//!
//! Kernels without SCTP sockets still pass its packets through every hook, so raw packets measure the truth. The answer
//! carries the pod's name where a real server would put its state cookie.

/// Common header and the one chunk that we look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) verification_tag: u32,
    pub(crate) chunk: Chunk,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Init { tag: u32 },
    InitAck { tag: u32, cookie: Vec<u8> },
    Abort,
}

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const STATE_COOKIE: u16 = 7;

impl Packet {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(self.verification_tag.to_be_bytes());
        bytes.extend([0; 4]);
        match &self.chunk {
            Chunk::Init { tag } => {
                bytes.extend([INIT, 0]);
                bytes.extend(20_u16.to_be_bytes());
                bytes.extend(handshake(*tag));
            }
            Chunk::InitAck { tag, cookie } => {
                // A cookie is a name that we made: far below 64 KiB.
                let parameter = 4 + cookie.len() as u16;
                bytes.extend([INIT_ACK, 0]);
                bytes.extend((20 + parameter).to_be_bytes());
                bytes.extend(handshake(*tag));
                bytes.extend(STATE_COOKIE.to_be_bytes());
                bytes.extend(parameter.to_be_bytes());
                bytes.extend(cookie);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            Chunk::Abort => bytes.extend([ABORT, 0, 0, 4]),
        }
        let checksum = crc32c(&bytes);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` for anything that is cut short, broken, or none of our three chunks.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let mut unsummed = bytes.to_vec();
        let sum = unsummed.get_mut(8..12)?;
        let claimed = u32::from_le_bytes(sum.try_into().ok()?);
        sum.fill(0);
        if crc32c(&unsummed) != claimed {
            return None;
        }
        let chunk = match *bytes.get(12)? {
            INIT => Chunk::Init { tag: word(16)? },
            INIT_ACK => {
                let cookie = match half(32) {
                    Some(STATE_COOKIE) => bytes.get(36..32 + usize::from(half(34)?))?.to_vec(),
                    _ => Vec::new(),
                };
                Chunk::InitAck { tag: word(16)?, cookie }
            }
            ABORT => Chunk::Abort,
            _ => return None,
        };
        Some(Self { source_port: half(0)?, destination_port: half(2)?, verification_tag: word(4)?, chunk })
    }
}

/// The fixed part of INIT and INIT-ACK: tag, window, streams out and in, first TSN.
fn handshake(tag: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..4].copy_from_slice(&tag.to_be_bytes());
    bytes[4..8].copy_from_slice(&65_536_u32.to_be_bytes());
    bytes[8..10].copy_from_slice(&1_u16.to_be_bytes());
    bytes[10..12].copy_from_slice(&1_u16.to_be_bytes());
    bytes[12..16].copy_from_slice(&tag.to_be_bytes());
    bytes
}

/// CRC-32C (Castagnoli), a bit at a time: our packets are few and short.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn every_packet_survives_the_round_trip() {
        let chunks = [
            Chunk::Init { tag: 7 },
            Chunk::InitAck { tag: 8, cookie: b"shop/web".to_vec() },
            Chunk::InitAck { tag: 9, cookie: b"a/b".to_vec() },
            Chunk::Abort,
        ];
        for chunk in chunks {
            let packet = Packet { source_port: 40_000, destination_port: 132, verification_tag: 1, chunk };
            let bytes = packet.encode();
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(Packet::decode(&bytes), Some(packet));
        }
    }

    #[test]
    fn a_flipped_bit_is_no_packet() {
        let mut bytes = Packet {
            source_port: 1,
            destination_port: 2,
            verification_tag: 0,
            chunk: Chunk::Init { tag: 3 },
        }
        .encode();
        bytes[17] ^= 1;
        assert_eq!(Packet::decode(&bytes), None);
        assert_eq!(Packet::decode(&bytes[..6]), None);
    }
}
