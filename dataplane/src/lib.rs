//! The sole owner of maps, programs, links and pins: copies [`policy::tables::Tables`] into the kernel and knows nothing
//! of their meaning. The only crate that calls `aya`.

mod attach;
mod audit;
mod batch;
mod counters;
mod error;
mod flows;
mod heap;
mod kernel;
mod limited;
mod load;
mod look;
mod maps;
mod migrate;
mod native;
mod overlay;
mod pin;
mod rows;
mod standing;
mod sweep;
mod trial;
mod write;

pub use counters::{CounterValue, MapFill};
pub use error::Error;
pub use flows::FlowReader;
pub use heap::one_heap;
pub use load::{Capacities, Hook, Options, OverlayOptions};
pub use migrate::TakenOver;
pub use overlay::{Nodes, Overlay};
pub use pin::PinsLock;
pub use sweep::SweepReport;
pub use trial::{Action, Trial, Trialled};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::config::Config;
use common::endpoint::EndpointRow;
use policy::tables::{Cidr, MapOp, Tables};

/// Takes off whatever agents with these pins have left: links, programs and maps, and what lies on one of `interfaces` without
/// a pin. For a node that no agent is to come back to.
pub fn retire(pins: &Path, interfaces: &[String]) -> Result<(), Error> {
    interfaces.iter().for_each(|interface| attach::detach_underlay(interface));
    match std::fs::remove_dir_all(pins) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Folder { path: pins.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The datapath of one node.
///
/// Dropping it changes nothing in the kernel: everything is pinned.
pub struct Dataplane {
    ebpf: aya::Ebpf,
    maps: maps::Maps,
    pins: pin::Pins,
    hook: Hook,
    adopted: bool,
    /// What the maps hold: read at the start, kept by `apply`.
    tables: Tables,
    /// Endpoints whose programs are on clsact and should be on tcx.
    unsettled: BTreeSet<u32>,
    /// Programs of interfaces that are no endpoints.
    standing: BTreeSet<(&'static str, u32)>,
    /// Where the cgroup programs are.
    cgroup: Option<PathBuf>,
    /// By program, its number in the kernel.
    ids: BTreeMap<&'static str, u32>,
    audit: audit::Audit,
    /// Pins of another layout, whose programs go on judging until [`take_over`](Self::take_over).
    previous: Option<migrate::Previous>,
}

impl Dataplane {
    /// Loads programs and maps, or adopts the pinned maps of an earlier agent and replaces its programs in place.
    pub fn open(options: &Options) -> Result<Self, Error> {
        load::open(options)
    }

    /// Whether pins of an earlier agent were taken over.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// What the maps hold, without asking the kernel.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Reads what the maps hold into [`tables`](Self::tables): for when a write failed.
    pub fn reread(&mut self) -> Result<(), Error> {
        self.tables = self.maps.read()?;
        Ok(())
    }

    /// The row of one endpoint, read from the kernel.
    pub fn endpoint_row(&self, ip: IpAddr) -> Result<Option<EndpointRow>, Error> {
        self.maps.endpoint(ip.into())
    }

    /// What the maps hold, read from the kernel.
    pub fn read(&self) -> Result<Tables, Error> {
        self.maps.read()
    }

    /// Carries out a plan, in order, and counts a generation. A plan that does not fit is refused before its first write.
    pub fn apply(&mut self, plan: &[MapOp]) -> Result<(), Error> {
        if plan.is_empty() {
            return Ok(());
        }
        self.maps.check_fit(&self.tables, plan)?;
        self.audit.disturb();
        let mut rest = plan;
        while !rest.is_empty() {
            let (done, result) = self.maps.write(rest);
            rest.iter().take(done).for_each(|op| self.tables.apply(op));
            result?;
            rest = &rest[done..];
        }
        self.maps.count_generation()
    }

    /// Looks for rows that somebody else has changed, for about as long as `budget`; the writes that put them right. What
    /// `CONFIG` says is put right at once, and so told.
    pub fn audit(&mut self, budget: Duration) -> Result<(Vec<MapOp>, bool), Error> {
        let restored = self.maps.restore_config()?;
        Ok((self.audit.rows(&self.tables, budget)?, restored))
    }

    /// Attaches again what somebody has taken off, and says what it was. `endpoints` are the interfaces that must have ours.
    pub fn mend_programs(&mut self, endpoints: &[u32]) -> Result<Vec<String>, Error> {
        standing::mend(self, endpoints)
    }

    /// As [`mend_programs`](Self::mend_programs), for one interface of which a filter is gone.
    pub fn mend_filters(&mut self, ifindex: u32) -> Result<Vec<String>, Error> {
        standing::filters(self, ifindex)
    }

    /// Epoch, generation and flags as the programs see them.
    pub fn config(&self) -> Result<Config, Error> {
        self.maps.config()
    }

    /// Where pins of another layout are to be taken over from (`Options::migrate`): puts the programs in the place of theirs,
    /// one by one, takes along what can be read, and removes those pins. To be called when the maps hold what they must;
    /// until then nothing that runs has changed. `None`: there is nothing to take over.
    pub fn take_over(&mut self) -> Result<Option<TakenOver>, Error> {
        migrate::take_over(self)
    }

    /// From now on, what pods begin to destinations outside the node that are in none of these blocks is marked for netfilter to
    /// masquerade; `None`: nothing is. Whether anything had to be written.
    pub fn masquerade_beyond(&mut self, native: Option<&BTreeSet<Cidr>>) -> Result<bool, Error> {
        native::set(self, native)
    }

    /// From now on, what is for the pods behind these interfaces, and no others, takes the queue of their device. Whether
    /// anything had to be written.
    pub fn limit(&mut self, ifindexes: &BTreeSet<u32>) -> Result<bool, Error> {
        limited::set(self, ifindexes)
    }

    /// Attaches the programs to the host's side of a pod's veth pair.
    pub fn attach_endpoint(&mut self, ifindex: u32) -> Result<(), Error> {
        attach::endpoint(self, ifindex)
    }

    /// Moves one program of an endpoint attached lately to its final place, which may take 20 ms: for quiet moments. False
    /// if there is nothing left to do.
    pub fn settle_endpoint(&mut self) -> Result<bool, Error> {
        attach::settle(self)
    }

    /// Takes the programs off again; nothing there is fine.
    pub fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), Error> {
        attach::detach_endpoint(self, ifindex)
    }

    /// Whether both programs are attached to this interface now, by the kernel's own account.
    pub fn endpoint_attached(&mut self, ifindex: u32) -> Result<bool, Error> {
        attach::endpoint_attached(self, ifindex)
    }

    /// The interfaces that have our programs.
    pub fn attached_endpoints(&self) -> Result<Vec<u32>, Error> {
        attach::attached_endpoints(self)
    }

    /// Attaches `from_net` to an underlay device.
    pub fn attach_underlay(&mut self, ifindex: u32) -> Result<(), Error> {
        attach::underlay(self, ifindex)
    }

    /// Attaches the programs to the VXLAN device.
    pub fn attach_overlay(&mut self, ifindex: u32) -> Result<(), Error> {
        attach::overlay(self, ifindex)
    }

    /// The other nodes as the programs know them; for whoever follows them.
    pub fn overlay(&self) -> Result<Overlay, Error> {
        Overlay::open(&self.pins)
    }

    /// Translates Services at connect time for the sockets of this cgroup and those below it.
    pub fn attach_cgroup(&mut self, cgroup: &Path) -> Result<(), Error> {
        attach::cgroup(self, cgroup)
    }

    /// The one reader of flow events. A second call opens a second reader, which competes with the first.
    pub fn flows(&mut self) -> Result<FlowReader, Error> {
        FlowReader::open(&self.pins)
    }

    /// Packets and bytes by reason, summed over the CPUs; reasons never seen are left out.
    pub fn counters(&self) -> Result<Vec<CounterValue>, Error> {
        counters::read(&self.maps)
    }

    /// How full each map is.
    pub fn fill(&mut self) -> Result<Vec<MapFill>, Error> {
        let connections = sweep::walk(self)?;
        Ok(counters::fill(&self.maps, &self.tables, connections))
    }

    /// Runs a program on a frame without a network (`BPF_PROG_TEST_RUN`): the verdict, and how long it took.
    pub fn try_out(&mut self, trial: &Trial<'_>) -> Result<Trialled, Error> {
        trial::run(self, trial)
    }

    /// Forgets expired connections.
    pub fn sweep(&mut self) -> Result<SweepReport, Error> {
        sweep::expired(self)
    }
}
