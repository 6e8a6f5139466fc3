//! What the tests of a whole sandbox share.

#![allow(dead_code, reason = "each test program uses its part")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use api::VerdictKind;
use sandbox::plan::{Cast, Options, Protocol};
use sandbox::report::{Probe, Report};
use sandbox::{Binaries, Sandbox, assemble};

pub(crate) fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and loads eBPF programs: run it as root"
    );
}

/// Runs on a runtime such as a sandbox needs.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A file of manifests that goes away with its owner.
pub(crate) struct Manifests {
    path: PathBuf,
}

impl Manifests {
    pub(crate) fn new(text: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("weir-sandbox-{}-{count}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }

    pub(crate) fn cast(&self, before: Option<&Cast>) -> Cast {
        assemble::cast(&Options::new(vec![self.path.clone()]), before).unwrap()
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

pub(crate) async fn up(manifests: &Manifests) -> Sandbox {
    require_root();
    Sandbox::up(manifests.cast(None), Binaries::beside_us().unwrap(), &|_| ()).await.unwrap()
}

pub(crate) async fn probe(sandbox: &mut Sandbox) -> Report {
    sandbox.probe(false, &|_| ()).await.unwrap()
}

/// The probes from one end to another on one port, both families.
pub(crate) fn probes<'a>(
    report: &'a Report,
    from: &str,
    to: &str,
    port: u16,
    protocol: Protocol,
) -> Vec<&'a Probe> {
    let is = |probe: &&Probe| {
        probe.from == from && probe.to == to && probe.port == port && probe.protocol == protocol
    };
    let found: Vec<_> = report.probes.iter().filter(is).collect();
    assert_eq!(found.len(), 2, "one probe a family from {from} to {to}:{port}/{protocol}: {found:#?}");
    found
}

/// Fails unless both families have this verdict.
#[track_caller]
pub(crate) fn check(
    report: &Report,
    from: &str,
    to: &str,
    port: u16,
    protocol: Protocol,
    verdict: VerdictKind,
) {
    for probe in probes(report, from, to, port, protocol) {
        assert_eq!(probe.verdict, verdict, "{probe:#?}\n{:#?}", report.warnings);
    }
}

pub(crate) fn pod(name: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
         spec: {{containers: [{{name: c, image: x, ports: [{ports}]}}]}}\n"
    )
}

pub(crate) const NAMESPACE: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";

/// A policy for the pods `app: NAME`: nobody but `app: FROM` may come in.
pub(crate) fn only_from(name: &str, from: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {name}}}}}, \
         ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {from}}}}}}}]}}]}}\n"
    )
}
