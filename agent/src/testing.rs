//! What the tests share: a datapath in memory, and a folder that goes away.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use common::config::Config;
use common::endpoint::EndpointRow;
use common::net::Addr;
use policy::tables::{Cidr, MapOp};
use policy::{ObjectKey, Tables};

use crate::datapath::{Datapath, Unapplied};
use crate::source::{Change, Update};

/// What the kernel would hold. It outlives the agent, as pins do.
#[derive(Default)]
pub(crate) struct Kernel {
    pub(crate) tables: Tables,
    pub(crate) generation: u64,
    /// What is not masqueraded; `None`: nothing is.
    pub(crate) native: Option<BTreeSet<Cidr>>,
    pub(crate) limited: BTreeSet<u32>,
    pub(crate) interfaces: BTreeMap<u32, String>,
    pub(crate) attached: BTreeSet<u32>,
    pub(crate) settled: BTreeSet<u32>,
    /// Plans of more writes than this do not fit.
    pub(crate) room: Option<usize>,
    /// Writes fail after so many.
    pub(crate) breaks_after: Option<usize>,
    pub(crate) attach_fails: bool,
    /// Everything that was done, in order.
    pub(crate) log: Vec<String>,
}

#[derive(Clone, Default)]
pub(crate) struct MemoryDatapath {
    pub(crate) kernel: Rc<RefCell<Kernel>>,
    pub(crate) adopted: bool,
    /// As they were read last and written since.
    tables: Tables,
}

impl MemoryDatapath {
    /// What a new agent finds.
    pub(crate) fn reopened(&self) -> Self {
        let tables = self.kernel.borrow().tables.clone();
        Self { tables, ..self.clone() }
    }
}

impl Datapath for MemoryDatapath {
    fn adopted(&self) -> bool {
        self.adopted
    }

    fn tables(&self) -> &Tables {
        &self.tables
    }

    fn reread(&mut self) -> Result<()> {
        self.tables = self.kernel.borrow().tables.clone();
        Ok(())
    }

    fn endpoint_row(&self, ip: IpAddr) -> Result<Option<EndpointRow>> {
        Ok(self.kernel.borrow().tables.endpoints.get(&Addr::from(ip)).copied())
    }

    fn apply(&mut self, ops: &[MapOp]) -> Result<(), Unapplied> {
        let mut kernel = self.kernel.borrow_mut();
        if kernel.room.is_some_and(|room| ops.len() > room) {
            return Err(Unapplied::Refused(anyhow!("map `RULES` is too small")));
        }
        for (index, op) in ops.iter().enumerate() {
            if kernel.breaks_after == Some(index) {
                return Err(Unapplied::CutShort(anyhow!("write map `RULES`")));
            }
            kernel.tables.apply(op);
            self.tables.apply(op);
        }
        kernel.generation += 1;
        kernel.log.push("apply".into());
        Ok(())
    }

    fn config(&self) -> Result<Config> {
        Ok(Config { generation: self.kernel.borrow().generation, ..Config::default() })
    }

    fn masquerade_beyond(&mut self, native: Option<&BTreeSet<Cidr>>) -> Result<bool> {
        let mut kernel = self.kernel.borrow_mut();
        let news = kernel.native.as_ref() != native;
        if news {
            kernel.native = native.cloned();
            kernel.log.push("native".into());
        }
        Ok(news)
    }

    fn limit(&mut self, ifindexes: &BTreeSet<u32>) -> Result<()> {
        self.kernel.borrow_mut().limited = ifindexes.clone();
        Ok(())
    }

    fn take_over(&mut self) -> Result<()> {
        Ok(())
    }

    fn attach_endpoint(&mut self, ifindex: u32) -> Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        if kernel.attach_fails {
            bail!("attach program `from_pod` to {ifindex}");
        }
        kernel.attached.insert(ifindex);
        kernel.log.push(format!("attach {ifindex}"));
        Ok(())
    }

    fn settle_endpoint(&mut self) -> Result<bool> {
        let mut kernel = self.kernel.borrow_mut();
        let unsettled = kernel.attached.difference(&kernel.settled).next().copied();
        Ok(unsettled.is_some_and(|ifindex| kernel.settled.insert(ifindex)))
    }

    fn detach_endpoint(&mut self, ifindex: u32) -> Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        if kernel.attached.remove(&ifindex) {
            kernel.log.push(format!("detach {ifindex}"));
        }
        Ok(())
    }

    fn endpoint_attached(&mut self, ifindex: u32) -> Result<bool> {
        Ok(self.kernel.borrow().attached.contains(&ifindex))
    }

    fn attached_endpoints(&self) -> Result<Vec<u32>> {
        Ok(self.kernel.borrow().attached.iter().copied().collect())
    }

    fn attach_overlay(&mut self, ifindex: u32) -> Result<()> {
        self.kernel.borrow_mut().log.push(format!("overlay {ifindex}"));
        Ok(())
    }

    fn mend_programs(&mut self, endpoints: &[u32]) -> Result<Vec<String>> {
        let mut kernel = self.kernel.borrow_mut();
        let missing: Vec<u32> =
            endpoints.iter().copied().filter(|ifindex| kernel.attached.insert(*ifindex)).collect();
        Ok(missing.into_iter().map(|ifindex| format!("programs of {ifindex}")).collect())
    }

    fn mend_filters(&mut self, ifindex: u32) -> Result<Vec<String>> {
        self.mend_programs(&[ifindex])
    }

    fn audit(&mut self, _: Duration) -> Result<(Vec<MapOp>, bool)> {
        let held = self.kernel.borrow().tables.clone();
        Ok((policy::plan(&held, &self.tables), false))
    }

    fn counters(&self) -> Result<Vec<api::Counter>> {
        Ok(Vec::new())
    }

    fn fill(&mut self) -> Result<Vec<api::MapFill>> {
        Ok(Vec::new())
    }

    fn sweep(&mut self) -> Result<u64> {
        Ok(0)
    }

    fn interface(&self, ifindex: u32) -> Option<String> {
        self.kernel.borrow().interfaces.get(&ifindex).cloned()
    }
}

/// A folder of this test's own, gone with this value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("weir-agent-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A panic in a drop would hide the test's own.
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// A source that reads texts: each is all there is.
#[derive(Default)]
pub(crate) struct Script {
    told: BTreeSet<ObjectKey>,
}

impl Script {
    pub(crate) fn read(&mut self, yaml: &str) -> Update {
        let documents = policy::manifest::documents("test.yaml", yaml).unwrap();
        let objects: Vec<_> =
            documents.iter().map(|document| policy::manifest::object(document).unwrap().unwrap()).collect();
        let told = objects.iter().map(|(object, _)| object.key()).collect();
        let gone = std::mem::replace(&mut self.told, told);
        let gone = gone.difference(&self.told).cloned().map(Change::Delete);
        let changes = objects.into_iter().map(|(object, warnings)| Change::Apply(object, warnings));
        Update {
            changes: changes.chain(gone).collect(),
            complete: true,
            warnings: Vec::new(),
            revision: Some(api::source_revision([yaml.as_bytes()])),
            arrived: None,
        }
    }
}

pub(crate) const NODES: &str = "
apiVersion: v1
kind: Node
metadata: { name: node-0 }
spec: { podCIDRs: [10.244.0.0/24] }
status: { addresses: [{ type: InternalIP, address: 172.30.0.10 }] }
---
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { kubernetes.io/metadata.name: shop } }
";

/// Of namespace `shop`, on `node-0`.
pub(crate) fn pod(name: &str, ip: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{ namespace: shop, name: {name}, labels: {{ app: {name} }} }}
spec: {{ nodeName: node-0, containers: [{{ name: main, image: none, ports: [{{ containerPort: 80 }}] }}] }}
status: {{ phase: Running, podIP: {ip}, podIPs: [{{ ip: {ip} }}] }}
"
    )
}

/// Closes `shop`'s pods with this label to everybody but `app: client` on port 80.
pub(crate) fn policy(name: &str, app: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ namespace: shop, name: {name} }}
spec:
  podSelector: {{ matchLabels: {{ app: {app} }} }}
  ingress:
  - from: [{{ podSelector: {{ matchLabels: {{ app: client }} }} }}]
    ports: [{{ port: 80 }}]
"
    )
}
