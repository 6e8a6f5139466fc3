//! What the loop needs of the world below it, so that it can be tested without root.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use common::config::Config;
use common::endpoint::EndpointRow;
use policy::Tables;
use policy::tables::{Cidr, MapOp};

/// A plan that is not in force.
#[derive(Debug)]
pub(crate) enum Unapplied {
    /// Nothing of it was written.
    Refused(anyhow::Error),
    /// What of it was written nobody knows.
    CutShort(anyhow::Error),
}

pub(crate) trait Datapath {
    /// Pins of an earlier agent were taken over.
    fn adopted(&self) -> bool;
    /// What the maps hold, as they were read last and written since.
    fn tables(&self) -> &Tables;
    /// Reads them again: for when something was written that may not have arrived.
    fn reread(&mut self) -> Result<()>;
    /// An endpoint's row as the kernel has it.
    fn endpoint_row(&self, ip: IpAddr) -> Result<Option<EndpointRow>>;
    /// Writes in order; refuses a plan that does not fit before the first write.
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), Unapplied>;
    fn config(&self) -> Result<Config>;

    /// What pods begin to destinations beyond these blocks is marked for netfilter; `None`: nothing is. Whether anything had
    /// to be written.
    fn masquerade_beyond(&mut self, native: Option<&BTreeSet<Cidr>>) -> Result<bool>;
    /// What is for the pods behind these interfaces, and no others, takes the queue of their device.
    fn limit(&mut self, ifindexes: &BTreeSet<u32>) -> Result<()>;
    /// Puts an end to the pins of another layout, if there are any; the maps hold what they must.
    fn take_over(&mut self) -> Result<()>;
    fn attach_endpoint(&mut self, ifindex: u32) -> Result<()>;
    /// Moves a program attached lately to its final place; false if there is none. May take 20 ms.
    fn settle_endpoint(&mut self) -> Result<bool>;
    /// Succeeds where there is nothing to detach.
    fn detach_endpoint(&mut self, ifindex: u32) -> Result<()>;
    fn endpoint_attached(&mut self, ifindex: u32) -> Result<bool>;
    fn attached_endpoints(&self) -> Result<Vec<u32>>;

    /// The device of the overlay is this one now.
    fn attach_overlay(&mut self, ifindex: u32) -> Result<()>;
    /// Attaches again what somebody has taken off these endpoints, the other devices or the cgroup; what that was.
    fn mend_programs(&mut self, endpoints: &[u32]) -> Result<Vec<String>>;
    /// The same of the filters of one interface.
    fn mend_filters(&mut self, ifindex: u32) -> Result<Vec<String>>;
    /// Reads rows for about as long as `budget`: the writes that put right what differs from [`tables`](Self::tables), and
    /// whether the configuration did, which is put right by now.
    fn audit(&mut self, budget: Duration) -> Result<(Vec<MapOp>, bool)>;

    fn counters(&self) -> Result<Vec<api::Counter>>;
    fn fill(&mut self) -> Result<Vec<api::MapFill>>;
    /// Forgets expired connections and those of removed endpoints. How many.
    fn sweep(&mut self) -> Result<u64>;

    /// The name of the interface with this index in the agent's network namespace.
    fn interface(&self, ifindex: u32) -> Option<String>;
}
