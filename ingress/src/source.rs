//! The thread that follows what is to be served.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ::kubernetes::{Access, Api, Watches};
use anyhow::{Context as _, Result, anyhow};
use ingress::admin::{Admin, Phase};
use ingress::files::Files;
use ingress::kubernetes::{self, Address, Ending, Identity, Publish};
use ingress::serving::{Changed, Serving};
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;
use tracing::warn;

use crate::config::Cluster;

/// A folder that is gone is looked for so often.
const RETURN: Duration = Duration::from_secs(1);

/// What is heard of the thread.
pub(crate) struct Source {
    /// Everything has been read once and is served. An error: it never will be.
    pub(crate) begun: oneshot::Receiver<()>,
    ended: oneshot::Receiver<anyhow::Error>,
    ending: watch::Sender<Option<Ending>>,
}

impl Source {
    /// Follows the files, if there are any, and else the API server.
    pub(crate) fn start(
        files: Vec<PathBuf>,
        cluster: Cluster,
        serving: Serving,
        admin: Arc<Admin>,
    ) -> Result<Self> {
        let (begin, begun) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (ending, told) = watch::channel(None);
        let follow = move || {
            let followed = if files.is_empty() {
                follow_cluster(cluster, serving, begin, &admin, told)
            } else {
                drop(told);
                follow_files(files, serving, begin)
            };
            if let Err(error) = followed {
                // If nobody listens any more, the proxy is ending.
                drop(end.send(error));
            }
        };
        thread::Builder::new()
            .name("source".into())
            .spawn(follow)
            .context("start the thread that follows the objects")?;
        Ok(Self { begun, ended, ending })
    }

    /// Why the source can no longer be followed, once that is so.
    pub(crate) async fn error(&mut self) -> anyhow::Error {
        match (&mut self.ended).await {
            Ok(error) => error,
            Err(_) => anyhow!("the thread that follows the objects ended without a word"),
        }
    }

    /// Follows no longer. For good: takes back what was written to the API server, if anything was.
    pub(crate) async fn end(mut self, how: Ending) {
        self.ending.send_replace(Some(how));
        // Files have nothing to take back, and their thread waits for changes for ever.
        if self.ending.receiver_count() > 0 {
            drop(self.error().await);
        }
    }
}

fn follow_files(files: Vec<PathBuf>, mut serving: Serving, begin: oneshot::Sender<()>) -> Result<()> {
    let mut watches = Watches::new()
        .context("watch the files: no inotify instance to be had (fs.inotify.max_user_instances)")?;
    let mut files = Files::new(files);
    let mut read = |watches: &mut Watches| -> Result<()> {
        let (world, warnings) = files.read(&mut |folder| watches.add(folder))?;
        serving.serve(&world, warnings, Changed::Everything);
        Ok(())
    };
    read(&mut watches)?;
    // Nobody to tell: the proxy is ending.
    begin.send(()).unwrap_or_default();
    let mut lost = false;
    loop {
        watches.wait(lost.then_some(RETURN)).context("wait for changes in the files")?;
        let outcome = read(&mut watches);
        if let (Err(error), false) = (&outcome, lost) {
            warn!("{error:#}; what was read before stays in force");
        }
        lost = outcome.is_err();
    }
}

fn follow_cluster(
    cluster: Cluster,
    serving: Serving,
    begin: oneshot::Sender<()>,
    admin: &Admin,
    ending: watch::Receiver<Option<Ending>>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime of the source")?;
    let followed = async {
        let access = match (&cluster.api_server, &cluster.kubeconfig) {
            (Some(url), _) => Access::by_url(url, &cluster.token_file, &cluster.ca_file)?,
            (None, Some(file)) => Access::by_kubeconfig(file).await?,
            (None, None) => Access::in_pod().context(
                "nothing to serve: expected --files, --api-server, --kubeconfig, or to run in a pod",
            )?,
        };
        let options = kubernetes::Options {
            identity: Identity {
                name: cluster.pod_name,
                namespace: cluster.pod_namespace,
                lease: cluster.lease,
            },
            publish: Publish {
                addresses: cluster.publish_addresses.iter().map(|text| Address::parse(text)).collect(),
                service: cluster.publish_service,
                pods: cluster.publish_pods,
                keep: cluster.keep_status,
            },
            ending,
        };
        let mut begin = Some(begin);
        let progress = |missing: Option<String>| match missing {
            Some(missing) => admin.enter(Phase::Starting(missing)),
            None => {
                if let Some(begin) = begin.take() {
                    begin.send(()).unwrap_or_default();
                }
            }
        };
        kubernetes::follow(Api::new(access), options, serving, progress).await;
        Ok(())
    };
    LocalSet::new().block_on(&runtime, followed)
}
