//! Netlink messages of netfilter: attributes in, attributes out, batches.

use nix::libc;

pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
pub(super) const NEW_SET: u16 = 9;
pub(super) const GET_SET: u16 = 10;
pub(super) const NEW_ROWS: u16 = 12;
pub(super) const GET_ROWS: u16 = 13;

const CONNTRACK: u16 = 1;
const NF_TABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NFPROTO_INET: u8 = 1;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// The header, and after it family, version and resource.
const NETFILTER_HEADER: usize = HEADER + 4;

/// A list of attributes.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("attributes are made here, and are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With the zero at its end that the kernel wants.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nested(self, kind: u16, inside: Self) -> Self {
        self.nested_bytes(kind, &inside.0)
    }

    /// A list that was read.
    pub(super) fn nested_bytes(self, kind: u16, inside: &[u8]) -> Self {
        self.bytes(kind | NESTED, inside)
    }
}

/// A message to nf_tables, numbered when it is sent.
pub(super) fn message(kind: u16, flags: i32, attributes: &Attributes) -> Vec<u8> {
    frame(NF_TABLES << 8 | kind, flags, NFPROTO_INET, 0, &attributes.0)
}

/// Asks for every connection that netfilter knows.
pub(super) fn list_connections() -> Vec<u8> {
    frame(CONNTRACK << 8 | 1, libc::NLM_F_DUMP, 0, 0, &[])
}

pub(super) fn forget_connection(family: u8, attributes: &Attributes) -> Vec<u8> {
    frame(CONNTRACK << 8 | 2, libc::NLM_F_ACK, family, 0, &attributes.0)
}

/// Numbers `messages` from `first` on, makes them one transaction and asks for word of its end. Returns the number of the
/// message whose acknowledgement is that word.
pub(super) fn batch(messages: Vec<Vec<u8>>, first: u32) -> (Vec<u8>, u32) {
    let begin = frame(BATCH_BEGIN, 0, 0, NF_TABLES, &[]);
    let end = frame(BATCH_END, 0, 0, NF_TABLES, &[]);
    let mut all = [vec![begin], messages, vec![end]].concat();
    let last = all.len() - 2;
    let flags = u16::from_ne_bytes([all[last][6], all[last][7]]) | libc::NLM_F_ACK as u16;
    all[last][6..8].copy_from_slice(&flags.to_ne_bytes());
    for (number, message) in (first..).zip(&mut all) {
        message[8..12].copy_from_slice(&number.to_ne_bytes());
    }
    (all.concat(), first + last as u32)
}

fn frame(kind: u16, flags: i32, family: u8, resource: u16, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(NETFILTER_HEADER + rest.len()).expect("messages are made here, and are short");
    let mut frame = Vec::with_capacity(NETFILTER_HEADER + rest.len());
    frame.extend(length.to_ne_bytes());
    frame.extend(kind.to_ne_bytes());
    frame.extend((flags as u16 | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Number, and the sender's port: the kernel knows it.
    frame.extend([0; 8]);
    frame.extend([family, 0]);
    frame.extend(resource.to_be_bytes());
    frame.extend(rest);
    frame
}

/// What the kernel says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// An object's family and attributes.
    Object(u8, &'a [u8]),
    /// Zero is an acknowledgement.
    Error(i32),
    Done,
}

/// The messages in what one read brought: number, whether the answer was disturbed and must be asked for again, answer.
pub(super) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = (u32, bool, Answer<'_>)> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let this = bytes.get(..length).filter(|this| this.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = i32::from(u16::from_ne_bytes([this[4], this[5]]));
        let flags = i32::from(u16::from_ne_bytes([this[6], this[7]]));
        let answer = match kind {
            libc::NLMSG_ERROR => Answer::Error(u32_at(this, HEADER)? as i32),
            libc::NLMSG_DONE => Answer::Done,
            _ => Answer::Object(*this.get(HEADER)?, this.get(NETFILTER_HEADER..)?),
        };
        Some((u32_at(this, 8)?, flags & libc::NLM_F_DUMP_INTR != 0, answer))
    })
}

/// The attributes of a list, each with its number.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !NESTED;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_written() {
        let inside = Attributes::default().text(1, "weir").number(7, 0x0102_0304);
        let list = Attributes::default().nested(3, inside.clone()).bytes(9, &[1, 2, 3]);
        let read: Vec<_> = attributes(&list.0).collect();
        assert_eq!(read, [(3, &inside.0[..]), (9, &[1, 2, 3][..])]);
        let read: Vec<_> = attributes(read[0].1).collect();
        assert_eq!(read, [(1, &b"weir\0"[..]), (7, &[1, 2, 3, 4][..])]);
    }

    #[test]
    fn what_is_cut_short_ends_the_list() {
        let list = Attributes::default().number(1, 5).0;
        for length in 0..list.len() {
            assert_eq!(attributes(&list[..length]).count(), 0, "{length}");
        }
        assert_eq!(answers(&[1, 0, 0, 0, 9, 9]).count(), 0);
    }

    #[test]
    fn a_batch_asks_for_an_acknowledgement_of_its_last_message() {
        let one = message(NEW_TABLE, libc::NLM_F_CREATE, &Attributes::default());
        let (bytes, awaited) = batch(vec![one.clone(), one], 7);
        let numbers: Vec<_> = answers(&bytes).map(|(number, ..)| number).collect();
        assert_eq!(numbers, [7, 8, 9, 10]);
        assert_eq!(awaited, 9);
        let flags = |index: usize| u16::from_ne_bytes([bytes[20 * index + 6], bytes[20 * index + 7]]);
        let asks = |index: usize| i32::from(flags(index)) & libc::NLM_F_ACK != 0;
        assert_eq!([asks(0), asks(1), asks(2), asks(3)], [false, false, true, false]);
    }
}
