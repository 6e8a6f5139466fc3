//! What the loop needs of the world below it, so that it can be tested without root.

use anyhow::Result;
use common::config::Config;
use policy::Tables;
use policy::tables::MapOp;

pub(crate) trait Datapath {
    /// Pins of an earlier agent were taken over.
    fn adopted(&self) -> bool;
    /// What the maps hold.
    fn read(&self) -> Result<Tables>;
    /// Writes in order; refuses a plan that does not fit before the first write.
    fn apply(&mut self, ops: &[MapOp]) -> Result<()>;
    fn config(&self) -> Result<Config>;

    fn attach_endpoint(&mut self, ifindex: u32) -> Result<()>;
    /// Moves a program attached lately to its final place; false if there is none. May take 20 ms.
    fn settle_endpoint(&mut self) -> Result<bool>;
    /// Succeeds where there is nothing to detach.
    fn detach_endpoint(&mut self, ifindex: u32) -> Result<()>;
    fn endpoint_attached(&mut self, ifindex: u32) -> Result<bool>;
    fn attached_endpoints(&self) -> Result<Vec<u32>>;

    fn counters(&self) -> Result<Vec<api::Counter>>;
    fn fill(&mut self) -> Result<Vec<api::MapFill>>;
    /// Forgets expired connections and those of removed endpoints. How many.
    fn sweep(&mut self) -> Result<u64>;

    /// The name of the interface with this index in the agent's network namespace.
    fn interface(&self, ifindex: u32) -> Option<String>;
}
