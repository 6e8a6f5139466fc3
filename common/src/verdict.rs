//! What happens to one packet, and why.

/// Always the pod's view: `Egress` leaves the pod, `Ingress` enters it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress = 1,
    Egress = 2,
}

impl Direction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Ingress),
            2 => Some(Self::Egress),
            _ => None,
        }
    }
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal => $text:literal,)* }) => {
        $(#[$doc])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)* }

        impl $name {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in flow events, metrics and tables.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Why a packet was dropped. Written to flow events and metrics: append only, never renumber, never reuse.
    DropReason {
        /// A header is cut short, lies about its length, or IPv6 extension headers go deeper than we walk.
        Malformed = 1 => "malformed",
        /// The host's stack sent something to a pod's interface that is for none of the pod's addresses.
        UnknownEndpoint = 2 => "unknown_endpoint",
        /// The source address is not the pod's.
        Spoofed = 3 => "spoofed",
        /// No rule allows the flow, and some policy isolates the endpoint in this direction.
        PolicyDenied = 4 => "policy_denied",
        /// The table of connections is full.
        CtFull = 5 => "ct_full",
        /// A later fragment came before the first one of its datagram.
        FragmentBeforeFirst = 6 => "fragment_before_first",
        /// A router advertisement or redirect from a pod, or neighbour discovery outside its bounds.
        ForbiddenDiscovery = 7 => "forbidden_discovery",
        /// Neither IPv4, IPv6 nor ARP.
        NotIp = 8 => "not_ip",
        /// The destination is a Service's virtual address that was not translated at connect time.
        UntranslatedService = 9 => "untranslated_service",
        /// The kernel found no route.
        NoRoute = 10 => "no_route",
        /// A pod sent to the overlay's own port.
        OverlayPort = 11 => "overlay_port",
        /// A packet out of the overlay whose source is not behind the node that sent it.
        OverlaySpoofed = 12 => "overlay_spoofed",
    }
}

reasons! {
    /// Why a packet passed. The same rules as for [`DropReason`]; the numbers do not overlap with it.
    PassReason {
        /// A rule allows the flow.
        Rule = 128 => "rule",
        /// No policy isolates the endpoint in this direction.
        Open = 129 => "open",
        /// The packet belongs to a connection that was allowed.
        Established = 130 => "established",
        /// The node itself speaks to one of its own pods.
        Node = 131 => "node",
        /// An ICMP error about an allowed flow.
        Related = 132 => "related",
        /// A pod speaks to itself.
        Itself = 133 => "itself",
        /// Neighbour discovery, MLD or ARP between a pod and its gateway.
        Discovery = 134 => "discovery",
        /// Not to or from an endpoint of this node: none of our business.
        Foreign = 135 => "foreign",
    }
}

/// The bit of a packet's mark by which our rule of netfilter knows what to masquerade. None that Kubernetes' own components,
/// or the reference CNI plugins use.
pub const MASQUERADE_MARK: u32 = 1 << 24;

/// The bit of a packet's mark by which `to_pod` knows what was judged already: it comes from another hook of ours, by way of
/// the queue of the pod's device.
pub const JUDGED_MARK: u32 = 1 << 25;

/// Slots of the per-CPU counters: one for each reason, indexed by its number, then the events below.
pub mod counter {
    pub const POLICY_LOOKUPS: u32 = 200;
    pub const FLOW_EVENTS: u32 = 201;
    /// Flow events for which the ring buffer had no room.
    pub const FLOW_EVENTS_LOST: u32 = 202;
    /// Connections that were forgotten because nothing was heard of them.
    pub const CT_EXPIRED: u32 = 203;
    pub const SLOTS: u32 = 256;

    /// One slot of one CPU.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Cell {
        pub packets: u64,
        pub bytes: u64,
    }

    const _: () = assert!(size_of::<Cell>() == 16 && align_of::<Cell>() == 8);
}
