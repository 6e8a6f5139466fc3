//! The parser of `common`, over a socket buffer.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use common::packet::{Frame, Wire};
pub(crate) use common::packet::{MALFORMED, PARSED, Packet, echo_ports, fragment};

/// Fills `packet`, which may hold another packet's values; says whether it could ([`PARSED`], [`MALFORMED`], or the
/// EtherType of something that is not IP).
#[inline(always)]
pub(crate) fn parse(skb: *mut __sk_buff, packet: &mut Packet) -> u32 {
    common::packet::parse(Skb(skb), packet)
}

#[derive(Clone, Copy)]
struct Skb(*mut __sk_buff);

impl Frame for Skb {
    #[inline(always)]
    fn ethertype(self) -> u16 {
        // SAFETY: reading a field of the context that the kernel lets tc programs read; the number is in network order.
        u16::from_be(unsafe { (*self.0).protocol } as u16)
    }

    #[inline(always)]
    fn size(self) -> u32 {
        TcContext::new(self.0).len()
    }

    #[inline(always)]
    fn make_linear(self, wanted: usize) {
        let ctx = TcContext::new(self.0);
        if ctx.data() + wanted > ctx.data_end() && ctx.len() as usize >= wanted {
            let _pulled = ctx.pull_data(wanted as u32);
        }
    }

    /// The kernel puts IP headers on a four-byte boundary (`NET_IP_ALIGN`), and the verifier insists on it where the
    /// processor does: so words are read as words, and not byte by byte.
    #[inline(always)]
    fn direct<T: Wire>(&self, at: usize) -> Option<&T> {
        let ctx = TcContext::new(self.0);
        let start = ctx.data() + at;
        if start + size_of::<T>() > ctx.data_end() {
            return None;
        }
        // SAFETY: the bounds were checked on the line above, alignment as said, and any bytes are a `Wire`.
        Some(unsafe { &*(start as *const T) })
    }

    #[inline(always)]
    fn load<T: Wire>(self, at: usize) -> Option<T> {
        TcContext::new(self.0).load(at).ok()
    }
}
