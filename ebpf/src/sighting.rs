//! One packet, met at one hook: everything that the decision needs, gathered once.
//!
//! It lives in a row of a per-CPU map and not on the stack, for two reasons. Subprograms share 512 bytes of stack, and the
//! verifier follows every constant that is stored there: each combination would be a path of its own, where in a map each
//! value is just unknown. Programs of tc run with bottom halves off, so nothing else on this CPU uses the row meanwhile.

use aya_ebpf::bindings::{__sk_buff, bpf_fib_lookup};
use common::conntrack::{CtEntry, CtKey};
use common::net::Addr;
use common::overlay::Headers;

use crate::judge::Judgement;
use crate::maps::SIGHTINGS;
use crate::packet::Packet;
use crate::route::Hop;

/// Where a packet is met.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    FromPod = 1,
    ToPod = 2,
    FromNet = 3,
}

pub(crate) struct Sighting {
    pub(crate) packet: Packet,
    pub(crate) key: CtKey,
    /// 1 if the packet comes from the lower end of `key`.
    pub(crate) from_low: u8,
    /// A [`Hook`], as a number: whatever the verifier cannot know, an enum would have to be.
    pub(crate) hook: u8,
    /// 1 if the verdict on this packet may be remembered as a shortcut.
    pub(crate) learns: u8,
    /// The length that counts for the way out: of the packet, or of each of the segments it stands for.
    pub(crate) frame: u16,
    /// The device at whose hook we are.
    pub(crate) ifindex: u32,
    /// Bytes, headers included.
    pub(crate) bytes: u32,
    pub(crate) epoch: u32,
    /// Nanoseconds since boot, by the coarse clock (1 to 10 ms).
    pub(crate) now_ns: u64,
    pub(crate) judgement: Judgement,
    /// Room for an entry on its way into a map.
    pub(crate) entry: CtEntry,
    /// Room for the key of a quoted packet's connection.
    pub(crate) quoted: CtKey,
    pub(crate) quoted_source: Addr,
    pub(crate) hop: Hop,
    /// The node that `hop` leads to through the overlay; 0: it leads directly.
    pub(crate) node: u32,
    /// The next number of an outer packet.
    pub(crate) outer_id: u16,
    /// Room for the headers of the overlay.
    pub(crate) headers: Headers,
    /// Room for asking the kernel's routes.
    pub(crate) fib: bpf_fib_lookup,
}

impl Sighting {
    /// This CPU's row, with the facts of this packet.
    #[inline(always)]
    pub(crate) fn begin(skb: *mut __sk_buff, hook: Hook) -> Option<&'static mut Self> {
        let row = SIGHTINGS.get_ptr_mut(0)?;
        // SAFETY: nothing else uses the row of this CPU while the program runs (see above), and any bytes are a value.
        let sighting = unsafe { &mut *row };
        sighting.hook = hook as u8;
        sighting.learns = 0;
        // SAFETY: reading fields of the context that the kernel lets tc programs read.
        unsafe {
            sighting.ifindex = (*skb).ifindex;
            sighting.bytes = (*skb).len;
            let segment = (*skb).gso_size;
            sighting.frame = if segment == 0 { sighting.bytes } else { segment } as u16;
        }
        Some(sighting)
    }

    #[inline(always)]
    pub(crate) fn is_at(&self, hook: Hook) -> bool {
        self.hook == hook as u8
    }
}
