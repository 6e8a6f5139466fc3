//! `weir-agent` itself in such a world, as it is installed: fed from a folder, its endpoints handed over its socket by what
//! the plugin would say. What it occupies is what a node pays.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netlink::{Handle, Netns, VethSpec};
use policy::Object;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::memory::{self, Maps};
use super::shape::{self, Shape};
use crate::layout::namespace;
use crate::place;

/// Objects in one file of the folder.
const IN_A_FILE: usize = 500;
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Until whatever the agent does after its last call is done.
const PAUSE: Duration = Duration::from_secs(2);
const UNDERLAY: &str = "underlay";

/// What one agent occupies with its world in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Occupied {
    pub(crate) shape: Shape,
    /// Bytes: resident now, of which its own (the others are pages of its file), and at the most so far.
    pub(crate) rss: u64,
    pub(crate) rss_own: u64,
    pub(crate) rss_peak: u64,
    pub(crate) maps: Maps,
    /// Kernel memory by the account of its own control group, where there is a controller.
    pub(crate) kernel: Option<u64>,
    /// From its start until the world is in force, without endpoints.
    pub(crate) ready_ms: f64,
    pub(crate) rules: u64,
}

pub(crate) fn measure(shape: Shape, binaries: &Path) -> Result<Occupied> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(occupied(shape, &binaries.join("weir-agent")))
}

async fn occupied(shape: Shape, program: &Path) -> Result<Occupied> {
    ensure!(program.is_file(), "{} is missing: cargo build --release -p agent", program.display());
    let folder = Path::new(place::FILES).join(format!("agent-{}-{}", shape.pods, u8::from(shape.unique)));
    let source = folder.join("objects");
    fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
    write_world(&shape, &source)?;
    let (node, pods) = (namespace().await?, namespace().await?);
    let netlink = Handle::in_netns(&node)?;
    veth(&netlink, UNDERLAY, 0, &pods).await?;

    let began = Instant::now();
    let agent = Agent::start(program, &node, &folder)?;
    agent.wait_until_ready()?;
    let ready_ms = began.elapsed().as_secs_f64() * 1e3;
    for index in 0..shape::LOCAL {
        let name = format!("pod{index}");
        let ifindex = veth(&netlink, &name, index + 1, &pods).await?;
        agent.take_in(&attach(&shape, index, &name, ifindex))?;
    }
    std::thread::sleep(PAUSE);
    let status = agent.call("GET", "/v1/status", "")?;
    ensure!(status["last_error"].is_null(), "the agent says: {}", status["last_error"]);
    let taken_in = status["endpoints"].as_array().map_or(0, Vec::len);
    ensure!(taken_in == shape::LOCAL as usize, "{taken_in} endpoints are taken in");
    let fills = status["maps"].as_array().into_iter().flatten();
    let rules =
        fills.filter(|map| map["name"] == common::maps::RULES).find_map(|map| map["entries"].as_u64());
    let process = Path::new("/proc").join(agent.child.id().to_string());
    let group = agent.group.as_ref();
    Ok(Occupied {
        shape,
        rss: memory::field(&process, "VmRSS:")?,
        rss_own: memory::field(&process, "RssAnon:")?,
        rss_peak: memory::field(&process, "VmHWM:")?,
        maps: memory::maps_of(&process)?,
        kernel: group.map(Group::kernel).transpose()?,
        ready_ms,
        rules: rules.context("the agent does not say how many rules there are")?,
    })
}

/// A veth pair; the index of the end that stays here.
async fn veth(netlink: &Handle, name: &str, number: u32, pods: &Netns) -> Result<u32> {
    let [.., high, low] = number.to_be_bytes();
    let spec = VethSpec {
        name,
        mac: [0x02, 0, 0, 0xbe, high, low],
        mtu: 1500,
        peer_name: name,
        peer_mac: [0x02, 0, 0, 0xbf, high, low],
        peer_mtu: 1500,
        peer_netns: pods,
    };
    Ok(netlink.create_veth(&spec).await?.0)
}

fn attach(shape: &Shape, index: u32, ifname: &str, ifindex: u32) -> Value {
    let attachment = shape.attachment(index);
    let pod = attachment.pod.map(|pod| json!({"namespace": pod.namespace, "name": pod.name, "uid": pod.uid}));
    json!({
        "container_id": attachment.container_id,
        "ifname": attachment.ifname,
        "netns": "/proc/self/ns/net",
        "pod": pod,
        "host_ifname": ifname,
        "host_ifindex": ifindex,
        "ips": attachment.ips,
    })
}

/// As the API server would tell it, in files.
fn write_world(shape: &Shape, folder: &Path) -> Result<()> {
    let namespaces = (0..shape::NAMESPACES).map(|index| shape.namespace(index, index));
    let pods = (0..shape.pods).map(|index| shape.pod(index, index));
    let policies = (0..shape.policies).map(|index| shape.policy(index, shape::Variant::default()));
    let mut objects = namespaces.chain(pods).chain(policies).map(|object| as_json(&object)).peekable();
    let mut number = 0;
    while objects.peek().is_some() {
        let items = objects.by_ref().take(IN_A_FILE).collect::<Result<Vec<Value>>>()?;
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let path = folder.join(format!("{number:04}.json"));
        fs::write(&path, list.to_string()).with_context(|| format!("write {}", path.display()))?;
        number += 1;
    }
    Ok(())
}

fn as_json(object: &Object) -> Result<Value> {
    let value = match object {
        Object::Namespace(object) => serde_json::to_value(object),
        Object::Node(object) => serde_json::to_value(object),
        Object::Pod(object) => serde_json::to_value(object),
        Object::NetworkPolicy(object) => serde_json::to_value(object),
        Object::Service(object) => serde_json::to_value(object),
        Object::EndpointSlice(object) => serde_json::to_value(object),
    };
    value.with_context(|| format!("write {} as JSON", object.key()))
}

/// A running agent; it goes with this value, and so does its control group.
struct Agent {
    child: Child,
    folder: PathBuf,
    group: Option<Group>,
}

impl Agent {
    fn start(program: &Path, node: &Netns, folder: &Path) -> Result<Self> {
        let group = Group::new(&format!("weir-bench-{}", std::process::id()))?;
        place::mount_bpffs(&folder.join("bpf"))?;
        let log = fs::File::create(folder.join("agent.log")).context("make the agent's log")?;
        let mut command = place::ourselves("become")?;
        if let Some(group) = &group {
            command.arg("--group").arg(&group.0);
        }
        command.arg("--").arg(program).args(["--node", "node-0", "--underlay", UNDERLAY]);
        command.arg("--source").arg(folder.join("objects")).arg("--pins").arg(folder.join("bpf"));
        command.arg("--socket").arg(folder.join("agent.sock")).arg("--cni-state").arg(folder.join("cni"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(Self { child: place::spawn_in(node, &mut command)?, folder: folder.to_owned(), group })
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if self.folder.join("agent.sock").exists()
                && let Ok(status) = self.call("GET", "/v1/status", "")
                && status["ready"] == true
            {
                return Ok(());
            }
            let log = || fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default();
            let gone = !Path::new(&format!("/proc/{}/exe", self.child.id())).exists();
            ensure!(!gone, "the agent is gone: {}", log());
            ensure!(
                Instant::now() < deadline,
                "not ready after {READY_TIMEOUT:?}; the agent says: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn take_in(&self, attach: &Value) -> Result<()> {
        self.call("PUT", "/v1/endpoints", &attach.to_string())
            .with_context(|| format!("hand over {}", attach["host_ifname"]))?;
        Ok(())
    }

    /// One call on a connection of its own, as the plugin makes it.
    fn call(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let mut stream =
            UnixStream::connect(self.folder.join("agent.sock")).context("connect to the agent")?;
        stream.set_read_timeout(Some(READY_TIMEOUT)).context("set a time-out")?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: weir\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body.as_bytes()))
            .context("ask the agent")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("hear the agent")?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no answer: {answer:?}") };
        ensure!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {head}: {body}");
        serde_json::from_str(body).with_context(|| format!("parse the answer to {method} {path}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after this.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A control group of the memory controller, below our own; gone with this value.
struct Group(PathBuf);

impl Group {
    /// `None` where version 1 of the controller is not mounted: version 2 lets no process be where groups are below it.
    fn new(name: &str) -> Result<Option<Self>> {
        let ours = fs::read_to_string("/proc/self/cgroup").context("read our own control groups")?;
        let line = ours.lines().find_map(|line| line.split_once(":memory:"));
        let Some((_, ours)) = line else { return Ok(None) };
        let path = Path::new("/sys/fs/cgroup/memory").join(ours.trim_start_matches('/')).join(name);
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Some(Self(path)))
    }

    fn kernel(&self) -> Result<u64> {
        let path = self.0.join("memory.kmem.usage_in_bytes");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.trim().parse().with_context(|| format!("{}: {text:?}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process of it has only just been waited for.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
