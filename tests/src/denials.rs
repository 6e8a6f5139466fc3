//! Silence that is explained. That nothing came back shows a broken network as well as a policy; that an agent reports the
//! drop, and whose policy it was, shows the policy.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use api::Flow;

use crate::stage::Stage;
use crate::traffic::Outcome;

/// How long the report of a drop may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The drops between two ends up to some moment, to tell later ones from.
pub struct Drops {
    from: IpAddr,
    to: IpAddr,
    seen: Vec<Flow>,
}

impl Drops {
    pub async fn so_far(stage: &Stage, from: IpAddr, to: IpAddr) -> Self {
        Self { from, to, seen: stage.drops(from, to).await }
    }

    /// Fails unless policy has dropped something since: of `protocol` (`UDP`), to `port`, `by` as in `ingress shop/web`.
    pub async fn one_more(&self, stage: &Stage, protocol: &str, port: u16, by: &str) {
        let is_it = |drop: &Flow| {
            (drop.reason.as_str(), drop.protocol.as_str(), drop.to.port) == ("policy_denied", protocol, port)
                && whose(drop) == by
        };
        self.wait_for(stage, is_it, &format!("{protocol} port {port} by {by}")).await;
    }

    /// Fails unless something has been dropped since for this reason.
    pub async fn of(&self, stage: &Stage, reason: &str) {
        self.wait_for(stage, |drop| drop.reason == reason, reason).await;
    }

    async fn wait_for(&self, stage: &Stage, is_it: impl Fn(&Flow) -> bool, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut new = stage.drops(self.from, self.to).await;
            new.retain(|drop| !self.seen.contains(drop));
            if new.iter().any(&is_it) {
                return;
            }
            let (from, to) = (self.from, self.to);
            assert!(Instant::now() < deadline, "{from} to {to}: no drop of {what}, only {new:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Who denied: `ingress shop/web`.
fn whose(drop: &Flow) -> String {
    let by = drop.by.iter().map(|by| format!("{} {}", by.direction, by.policies.join(" ")));
    by.collect::<Vec<_>>().join(", ")
}

/// Fails unless nothing comes of a knock, and that because of policy; `port` is 0 where the protocol has none.
pub async fn is_denied(
    stage: &Stage,
    from: IpAddr,
    to: SocketAddr,
    (protocol, by): (&str, &str),
    knock: impl FnOnce() -> Outcome,
) {
    let drops = Drops::so_far(stage, from, to.ip()).await;
    assert_eq!(knock(), Outcome::Silence, "{from} to {to} over {protocol}");
    drops.one_more(stage, protocol, to.port(), by).await;
}
