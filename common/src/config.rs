//! The rows about the node as a whole: what the agent tells the programs, and what the programs tell themselves.

/// Value of the only `CONFIG` row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Goes up when answers may have changed: connections judged in an older epoch are judged once more.
    pub epoch: u32,
    /// A sum of the `Config` flags.
    pub flags: u32,
    /// How many plans have been carried out. A new agent goes on counting.
    pub generation: u64,
}

const _: () = assert!(size_of::<Config>() == 16 && align_of::<Config>() == 8);

impl Config {
    /// What pods begin to destinations outside the node that are not in `NATIVE` leaves with the node's address.
    pub const MASQUERADE: u32 = 1;
    /// `LIMITED` has rows.
    pub const LIMITS: u32 = 2;
}

/// Value of the only `LOAD` row: what the programs keep in mind, and nobody else writes. Times are nanoseconds since boot.
///
/// Apart from [`Config`], which every packet reads: this row is written with every new connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections in `CT` without a reply. A sweep counts anew: what two CPUs miscount together does not stay.
    pub half_open: i64,
    /// When a connection last went into `CT_HALF`.
    pub overflowed_ns: u64,
    /// When `CT` was last swept because it was full.
    pub sweep_ns: u64,
    /// When the last flow event was put into the ring.
    pub flow_event_ns: u64,
}

const _: () = assert!(size_of::<Load>() == 32 && align_of::<Load>() == 8);
