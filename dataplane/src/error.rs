//! What can go wrong, by operation and object.

use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;

use common::release::KERNEL_FLOOR;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("make folder `{}`: it must lie on a bpffs (mount -t bpf bpf DIR)", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` is not on a bpffs: mount one there (mount -t bpf bpf DIR)", path.display())]
    NotBpffs { path: PathBuf },
    #[error("the pins in `{}` are another agent's, which is running: one agent to a node; stop it first", path.display())]
    Taken { path: PathBuf },
    #[error(
        "the kernel is {found}, and Weir needs {}.{} or later: boot a newer one, or keep this node out of the cluster",
        KERNEL_FLOOR.0,
        KERNEL_FLOOR.1
    )]
    OldKernel { found: String },
    #[error("the kernel has no BTF (/sys/kernel/btf/vmlinux): it must be built with CONFIG_DEBUG_INFO_BTF")]
    NoBtf,
    #[error(
        "pins in `{}` have layout {found}, this agent needs layout {wanted}: take over from them with --migrate, or run the \
         agent that made them",
        path.display()
    )]
    Layout { path: PathBuf, found: String, wanted: u32 },
    #[error(
        "pinned map `{}` has rows of {} and {} bytes (key and value), this agent needs {} and {}: run the agent that made it, or \
         take the endpoints of this node down and remove its pins",
        path.display(), found.0, found.1, wanted.0, wanted.1
    )]
    Rows { path: PathBuf, map: &'static str, found: (u32, u32), wanted: (u32, u32) },
    #[error("load the kernel programs")]
    LoadObject(#[source] Box<EbpfError>),
    #[error("load program `{program}`")]
    Load {
        program: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("attach program `{program}` to `{target}`")]
    Attach {
        program: &'static str,
        target: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("take over link `{}`", path.display())]
    Link {
        path: PathBuf,
        #[source]
        source: LinkError,
    },
    #[error("pin link `{}`", path.display())]
    Pin {
        path: PathBuf,
        #[source]
        source: Box<PinError>,
    },
    #[error("open cgroup `{}`", path.display())]
    Cgroup {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{operation} map `{map}`")]
    Map {
        operation: &'static str,
        map: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error("map `{map}` is too small: the plan needs {wanted} of {capacity} rows; nothing was written")]
    Full { map: &'static str, wanted: usize, capacity: usize },
    #[error("interface {ifindex} is gone")]
    NoInterface { ifindex: u32 },
    #[error("ask for the time")]
    Clock(#[source] std::io::Error),
    #[error("read flow events")]
    Flows(#[source] std::io::Error),
    #[error("the object lacks {kind} `{name}`: rebuild")]
    Missing { kind: &'static str, name: &'static str },
}

impl Error {
    pub(crate) fn map(operation: &'static str, map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { operation, map, source: Box::new(source) }
    }

    /// Whether the same call may succeed later without anybody changing anything here.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Map { .. } | Self::Full { .. } | Self::Flows(_))
    }
}
