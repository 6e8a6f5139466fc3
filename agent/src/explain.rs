//! `weir explain`, live: what the world says, held against what the maps say.

use api::{ExplainQuery, Explanation, Reason, Side, VerdictKind};
use policy::places::Places;
use policy::{Flow, Judgement};

use crate::datapath::Datapath;
use crate::event::Refusal;
use crate::run::Agent;

impl<D: Datapath> Agent<D> {
    pub(crate) fn explain(&self, query: &ExplainQuery) -> Result<Vec<Explanation>, Refusal> {
        if !self.ready {
            return Err(Refusal::now("nothing is in force yet: the first complete list has not arrived"));
        }
        let answers = policy::explain::ask(&self.world, &Places::default(), query)
            .map_err(|unclear| Refusal::caller(unclear.to_string()))?;
        let noted = answers.into_iter().map(|(flow, mut answer)| {
            answer.notes.extend(self.what_is_not_in_force(&flow, &answer));
            answer
        });
        Ok(noted.collect())
    }

    /// For each end that is an endpoint of this node: a plan that was refused leaves the last good generation in force.
    fn what_is_not_in_force(&self, flow: &Flow, answer: &Explanation) -> Vec<String> {
        let in_force = self.datapath.tables().lookup(flow);
        let mut notes = Vec::new();
        let mut compare = |direction: &str, side: &Side, judgement: Option<Judgement>| {
            let Some(judgement) = judgement.filter(|_| side.reason != Reason::OwnNode) else { return };
            if judgement.allowed != (side.verdict == VerdictKind::Allowed) {
                let verdict = if judgement.allowed { "allowed" } else { "denied" };
                let why = self.last_error.as_deref().unwrap_or("the change is on its way");
                notes.push(format!("{direction} is still {verdict} in the maps of {}: {why}", self.node));
            }
        };
        compare("egress", &answer.egress, in_force.egress);
        compare("ingress", &answer.ingress, in_force.ingress);
        notes
    }
}
