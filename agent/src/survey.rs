//! What a person must do something about: pods that another plugin has wired, and addresses that are no longer right or have
//! run out.

use std::time::Duration;

use tokio::time::Instant;

use crate::cidrs;
use crate::datapath::Datapath;
use crate::endpoints::pod_name;
use crate::run::Agent;

/// A pod on its way out keeps its address in the API for a moment after its interface is gone.
const CERTAIN: Duration = Duration::from_secs(25);

impl<D: Datapath> Agent<D> {
    pub(crate) fn survey(&mut self) {
        if !self.ready {
            return;
        }
        self.let_orphans_go();
        let now = Instant::now();
        let mut unmanaged = std::mem::take(&mut self.unmanaged);
        self.unmanaged = self
            .world
            .unattached()
            .map(|(namespace, name, ips)| {
                let pod = format!("{namespace}/{name} ({})", ips[0]);
                let since = unmanaged.remove(&pod).unwrap_or(now);
                (pod, since)
            })
            .collect();
        let names = self.unmanaged_names();
        let complaint = (!names.is_empty()).then(|| {
            format!(
                "Node {}: these pods were wired by another plugin, so no policy of theirs is enforced: {}; delete them, and \
                 they come back managed",
                self.node,
                names.join(", ")
            )
        });
        self.complain("unmanaged", complaint.into_iter().collect());

        let endpoints: Vec<_> =
            self.records.iter().map(|attach| (pod_name(attach).unwrap_or_default(), &attach.ips)).collect();
        let pods = endpoints.iter().map(|(name, ips)| (name.as_str(), ips.as_slice()));
        let mut complaints = Vec::new();
        if let Some(own) = self.world.node() {
            complaints.extend(cidrs::strangers(own, pods));
            complaints.extend(cidrs::exhausted(own, endpoints.iter().flat_map(|(_, ips)| ips.iter())));
        }
        self.complain("addresses", complaints);
    }

    /// Those of which it is certain by now.
    pub(crate) fn unmanaged_names(&self) -> Vec<String> {
        let certain = self.unmanaged.iter().filter(|(_, since)| since.elapsed() >= CERTAIN);
        certain.map(|(pod, _)| pod.clone()).collect()
    }
}
