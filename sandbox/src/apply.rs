//! Turns a sandbox that is up into another cast.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;

use crate::plan::{self, Cast};
use crate::pod::{self, Pod};
use crate::state::Process;
use crate::stub::protocol::{Order, Said};
use crate::supervisor::{Progress, Sandbox, create_pods, write_objects};

/// How long stubs may take to open other ports.
const PATIENCE: Duration = Duration::from_secs(2);

impl Sandbox {
    /// Pods come and go, and everything else is told to the agents. The nodes must be the same.
    ///
    /// After an error part of it is done; applying once more does the rest.
    pub async fn apply(&mut self, cast: Cast, progress: &dyn Fn(Progress)) -> anyhow::Result<()> {
        if cast.nodes != self.cast.nodes {
            bail!("nodes cannot be changed while the sandbox is up");
        }
        self.cast = cast;
        let same = |plan: &plan::Pod, pod: &Pod| pod.uid == plan.uid && pod.node == plan.node;
        let stays = |key: &str, pod: &Pod| self.cast.pod(key).is_some_and(|plan| same(plan, pod));
        let gone: Vec<String> =
            self.pods.iter().filter(|(key, pod)| !stays(key, pod)).map(|(key, _)| key.clone()).collect();
        let ended = gone.iter().filter_map(|key| self.pods.remove(key)).collect();
        self.taken.retain(|name, _| !gone.contains(name));
        self.end_pods(ended).await?;
        self.listen_anew().await;

        let new: Vec<plan::Pod> =
            self.cast.pods.iter().filter(|pod| !self.pods.contains_key(&pod.key())).cloned().collect();
        self.write_names()?;
        // Agents must know a pod before the plugin brings it.
        write_objects(&self.folder, &self.cast, &self.ips())?;
        let pods = create_pods(self, &new).await?;
        self.admit(pods);
        self.wire(progress).await?;
        progress(Progress::Policies);
        self.publish().await
    }

    /// Has the stubs of pods that stay listen where they should now.
    async fn listen_anew(&mut self) {
        let mut asked: BTreeMap<Process, String> = BTreeMap::new();
        for (key, pod) in &mut self.pods {
            let Some(listen) = self.cast.pod(key).map(pod::listen) else { continue };
            if pod.listen != listen {
                pod.puppet.order(Order::Listen(listen.clone()));
                pod.listen = listen;
                asked.insert(pod.puppet.process, key.clone());
            }
        }
        let answers = async {
            while !asked.is_empty()
                && let Some(heard) = self.heard.recv().await
            {
                if let Some(Said::Ready { taken }) = heard.said
                    && let Some(key) = asked.remove(&heard.from)
                {
                    self.taken.insert(key, taken);
                }
            }
        };
        // A stub that does not answer shows in the probes.
        tokio::time::timeout(PATIENCE, answers).await.unwrap_or_default();
    }
}
