//! What somebody else changed in the datapath is found and put right: programs taken off, map rows edited by hand.
//!
//! The kernel tells of neither, so both are asked for, often and cheaply. After a row was wrong, live connections are judged
//! once more: which of them were judged by it cannot be told.

use std::time::Duration;

use policy::tables::MapOp;
use tracing::warn;

use crate::datapath::{Datapath, Unapplied};
use crate::drift::{Kind, Mended};
use crate::host_rules;
use crate::notice;
use crate::run::Agent;

/// How often.
pub(crate) const PERIOD: Duration = Duration::from_millis(500);
/// Reading rows may take so long each time: two parts in a thousand of a core.
const BUDGET: Duration = Duration::from_millis(1);
/// Of many rows, so many are named.
const NAMED: usize = 8;

impl<D: Datapath> Agent<D> {
    pub(crate) fn audit(&mut self) {
        // Before that the maps are an earlier agent's, and a plan says what is wrong with them.
        if !self.ready {
            return;
        }
        let mut complaints = Vec::new();
        let interfaces: Vec<u32> = self.records.iter().map(|attach| attach.host_ifindex).collect();
        match self.datapath.mend_programs(&interfaces) {
            Ok(mended) => self.programs_mended(mended),
            Err(error) => complaints.push(format!("{error:#}")),
        }
        if let Err(error) = self.audit_rows() {
            complaints.push(format!("{error:#}"));
        }
        self.audits += 1;
        if self.audits.is_multiple_of(2) {
            complaints.extend(self.audit_host_rules());
        }
        self.complain("audit", complaints);
    }

    /// A filter of this interface is gone.
    pub(crate) fn filter_gone(&mut self, ifindex: u32) {
        if !self.ready {
            return;
        }
        match self.datapath.mend_filters(ifindex) {
            Ok(mended) => self.programs_mended(mended),
            Err(error) => warn!(ifindex, error = format!("{error:#}"), "filters cannot be looked after"),
        }
    }

    fn programs_mended(&mut self, mended: Vec<String>) {
        if !mended.is_empty() {
            // What was put back is where new programs begin, not where they end.
            self.move_soon();
        }
        self.mended(mended.into_iter().map(|what| Mended { kind: Kind::Program, what }).collect());
    }

    /// Once a second: asking netfilter costs more than asking for programs.
    fn audit_host_rules(&mut self) -> Option<String> {
        if self.masquerade.mend(&mut self.datapath) {
            self.mended(vec![Mended { kind: Kind::Row, what: "rows of what is not masqueraded".into() }]);
        }
        match self.host_rules.as_mut()?.mend() {
            Ok(false) => None,
            Ok(true) => {
                let what = format!("table {} of netfilter", host_rules::TABLE);
                self.mended(vec![Mended { kind: Kind::Nft, what }]);
                None
            }
            Err(error) => Some(format!("{error:#}")),
        }
    }

    fn audit_rows(&mut self) -> anyhow::Result<()> {
        let (mut mends, restored) = self.datapath.audit(BUDGET)?;
        let mut rows: Vec<String> = mends.iter().take(NAMED).map(|op| format!("row: {op:?}")).collect();
        if mends.len() > NAMED {
            rows.push(format!("{} rows more", mends.len() - NAMED));
        }
        rows.extend(restored.then(|| "row of CONFIG".to_owned()));
        if !mends.is_empty() {
            mends.push(MapOp::AdvanceEpoch);
            match self.datapath.apply(&mends) {
                Ok(()) => {}
                // Found again the next time.
                Err(Unapplied::Refused(error) | Unapplied::CutShort(error)) => return Err(error),
            }
        }
        self.mended(rows.into_iter().map(|what| Mended { kind: Kind::Row, what }).collect());
        Ok(())
    }

    /// Counts and tells what was put right.
    pub(crate) fn mended(&mut self, mended: Vec<Mended>) {
        for Mended { kind, what } in mended {
            warn!(kind = kind.as_str(), "changed by somebody else, put right: {what}");
            self.meter.mended(kind);
            self.notices.tell(notice::of_drift(&what, &self.node));
        }
    }
}
