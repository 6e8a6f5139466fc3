//! The one row that the agent and the programs share about the node as a whole.

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
    /// When the programs last woke the reader of flow events: nanoseconds since boot. Written by the programs.
    pub flow_wake_ns: u64,
    /// When the programs last swept expired connections out of a full table. Written by the programs.
    pub sweep_ns: u64,
}

const _: () = assert!(size_of::<Config>() == 32 && align_of::<Config>() == 8);
