//! One machine of the cluster from outside: namespaces with a PID 1, and cgroups.
//!
//! No namespace is mounted anywhere and none has a name: all hang on PID 1, so that its death takes every process, link
//! and mount with it, whoever died before. What remains are cgroups and the disk, whose paths the state knows.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::orders::Orders;
use crate::process;

/// How long the kernel may take to end what was killed, and to let go of its cgroups.
const DYING: Duration = Duration::from_secs(20);

/// A machine that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) name: String,
    /// Its PID 1, as this machine's own PID namespace knows it.
    pub(crate) pid: i32,
    /// In clock ticks since boot: no other process has both.
    begun: u64,
}

/// The cgroup of a machine in each hierarchy, empty where it has none.
pub(crate) fn cgroups(name: &str) -> Result<Vec<(String, PathBuf)>> {
    let own = fs::read_to_string("/proc/self/cgroup").context("read our own cgroups")?;
    let root = Path::new("/sys/fs/cgroup");
    let mut cgroups = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            bail!("/proc/self/cgroup: `{line}` is not NUMBER:CONTROLLERS:PATH")
        };
        let hierarchy = match (number, controllers) {
            ("0", "") => "unified",
            (_, named) => named.strip_prefix("name=").unwrap_or(named),
        };
        let mount = root.join(hierarchy);
        if mount.is_dir() {
            let parent = mount.join(path.trim_start_matches('/'));
            cgroups.push((hierarchy.to_owned(), parent.join(name)));
        }
    }
    ensure!(
        cgroups.iter().any(|(hierarchy, _)| hierarchy == "unified"),
        "/sys/fs/cgroup/unified is missing: a cluster runs on machines whose cgroups are hybrid (v1 with a v2 tree \
         beside), not on pure v2; see docs/cluster.md"
    );
    Ok(cgroups)
}

/// Makes a machine's cgroups.
pub(crate) fn make_cgroups(cgroups: &[(String, PathBuf)]) -> Result<()> {
    for (hierarchy, path) in cgroups {
        fs::create_dir_all(path).with_context(|| format!("make the cgroup {}", path.display()))?;
        if hierarchy == "cpuset" {
            // Empty ones take no process.
            for name in ["cpuset.cpus", "cpuset.mems"] {
                let parent = path.parent().context("a cgroup below the root")?.join(name);
                let value =
                    fs::read_to_string(&parent).with_context(|| format!("read {}", parent.display()))?;
                fs::write(path.join(name), value).with_context(|| format!("write {name}"))?;
            }
        }
    }
    Ok(())
}

/// Ends whatever is left in these cgroups, and removes them with all below.
pub(crate) fn remove_cgroups<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let deadline = Instant::now() + DYING;
    let mut left: Vec<&PathBuf> = paths.into_iter().filter(|path| path.exists()).collect();
    while !left.is_empty() {
        for path in &left {
            for folder in folders_below(path) {
                let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                for pid in processes.lines().filter_map(|line| line.parse().ok()) {
                    // It may have ended by itself.
                    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                }
                // One with something in it stays until the next round.
                fs::remove_dir(folder).ok();
            }
        }
        left.retain(|path| path.exists());
        if !left.is_empty() {
            ensure!(Instant::now() < deadline, "the cgroup {} does not go away", left[0].display());
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// This folder and those below it, the deepest first.
fn folders_below(path: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Ok(entries) = fs::read_dir(path) {
        let inner = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        inner.for_each(|entry| folders.extend(folders_below(&entry.path())));
    }
    folders.push(path.to_owned());
    folders
}

impl Machine {
    /// Starts the machine that `orders` describe, in cgroups that are there.
    pub(crate) fn start(orders: &Orders, file: &Path, cgroups: &[(String, PathBuf)]) -> Result<Self> {
        let name = orders.name.clone();
        let text = serde_json::to_vec_pretty(orders).context("write down a machine's orders")?;
        fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        let log = orders.logs.join(format!("{name}.log"));
        let log = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let mut command = process::ourselves();
        command.args(["cluster", "machine"]).arg(file);
        for (_, path) in cgroups {
            command.arg("--cgroup").arg(path);
        }
        let output = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .output()
            .context("start xtask")?;
        ensure!(output.status.success(), "{name} did not start: see its log in {}", orders.logs.display());
        let pid = String::from_utf8_lossy(&output.stdout);
        let pid = pid.trim().parse().with_context(|| format!("`{pid}` is not the PID of {name}"))?;
        let begun = begun(pid).with_context(|| format!("{name} ended at once: see its log"))?;
        Ok(Self { name, pid, begun })
    }

    pub(crate) fn is_alive(&self) -> bool {
        begun(self.pid) == Some(self.begun)
    }

    /// Pulls the plug, and waits until nothing of it runs.
    pub(crate) fn kill(&self) -> Result<()> {
        if self.is_alive() {
            kill(Pid::from_raw(self.pid), Signal::SIGKILL)
                .with_context(|| format!("kill PID 1 of {}", self.name))?;
        }
        let deadline = Instant::now() + DYING;
        while self.is_alive() {
            ensure!(Instant::now() < deadline, "{} does not die: its PID 1 is {}", self.name, self.pid);
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its network namespace.
    pub(crate) fn netns(&self) -> Result<netlink::Netns> {
        netlink::Netns::open(format!("/proc/{}/ns/net", self.pid))
            .with_context(|| format!("{} is not up", self.name))
    }

    /// Runs `command` in the network namespace alone, with this machine's files.
    pub(crate) fn in_network<T: Send>(&self, run: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns()?.run(run).context("enter a machine's network")
    }

    /// Runs a command inside, as one that logged in would.
    pub(crate) fn output(&self, command: &mut Command) -> Result<Output> {
        self.inside(|| command.output().context("start a command on a node"))
    }

    /// Calls `run` on a thread that is inside all of its namespaces: what that starts is a process of the machine.
    pub(crate) fn inside<T: Send>(&self, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        ensure!(self.is_alive(), "{} is not up", self.name);
        let namespaces = ["cgroup", "ipc", "uts", "net", "pid", "mnt"];
        let open = |name| {
            let path = format!("/proc/{}/ns/{name}", self.pid);
            File::open(&path).with_context(|| format!("open {path}"))
        };
        let files = namespaces.map(open).into_iter().collect::<Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                // Root and current folder must be this thread's own before it may go to another mount namespace.
                unshare(CloneFlags::CLONE_FS).context("part with the other threads' folder")?;
                for file in &files {
                    setns(file, CloneFlags::empty()).with_context(|| format!("enter {}", self.name))?;
                }
                run()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// When the process began; nothing if there is none, or only what its parent has not taken note of.
fn begun(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, blanks and brackets too.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

/// What the child of [`Machine::start`] does: steps into cgroups and new namespaces, and leaves a PID 1 there.
pub(crate) fn launch(orders: &Path, cgroups: &[PathBuf]) -> Result<()> {
    for path in cgroups {
        let file = path.join("cgroup.procs");
        // 0 is whoever writes.
        fs::write(&file, "0").with_context(|| format!("join {}", path.display()))?;
    }
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(namespaces).context("make a machine's namespaces (needs CAP_SYS_ADMIN)")?;
    let mut command = process::ourselves();
    command.args(["cluster", "init"]).arg(orders).stdin(Stdio::null()).stdout(Stdio::null());
    // A Ctrl-C on the terminal is not for it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.spawn().context("start PID 1")?;
    writeln!(std::io::stdout(), "{}", child.id()).context("tell the PID")
}
