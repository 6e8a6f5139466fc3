//! PID 1 of a machine: mounts, files, services, and the end of every orphan.
//!
//! It runs in fresh mount, PID, UTS, IPC, cgroup and network namespaces that `machine` made. Whatever it mounts or starts
//! ends with it, even by SIGKILL; only the machine's disk stays.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, waitpid};

use super::orders::{Orders, Step};

/// Between two looks at what is waited for.
const GLANCE: Duration = Duration::from_millis(20);
const RESTART: Duration = Duration::from_secs(1);

/// Machine-wide settings that a kubelet writes: files of the node's own stand in their place.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Does what `orders` say, then stays until it is killed or a step fails.
pub(crate) fn run(orders: &Path) -> Result<()> {
    let text = fs::read(orders).with_context(|| format!("read {}", orders.display()))?;
    let orders: Orders =
        serde_json::from_slice(&text).with_context(|| format!("understand {}", orders.display()))?;
    // Before anything is mounted over the folder.
    let logs = Logs::open(&orders)?;
    nix::unistd::sethostname(&orders.name).context("set the host's name")?;
    mounts(&orders)?;
    files(&orders)?;
    let services = Arc::new(Services { logs, orders, running: Mutex::default() });
    let worker = Arc::clone(&services);
    thread::spawn(move || {
        if let Err(error) = worker.work() {
            eprintln!("{error:#}");
            // With PID 1 everything of the machine ends.
            std::process::exit(1);
        }
    });
    services.reap()
}

fn mounts(orders: &Orders) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make our mounts private")?;
    fresh("proc", Path::new("/proc"), None)?;
    // `/sys/class/net` of this network namespace.
    fresh("sysfs", Path::new("/sys"), None)?;
    fresh("bpf", Path::new("/sys/fs/bpf"), None)?;
    // Not on every kernel.
    fresh("tracefs", Path::new("/sys/kernel/tracing"), None).ok();
    if !orders.hierarchies.is_empty() {
        let root = Path::new("/sys/fs/cgroup");
        fresh("tmpfs", root, Some("mode=755"))?;
        for name in &orders.hierarchies {
            let at = root.join(name);
            fs::create_dir(&at).with_context(|| format!("make {}", at.display()))?;
            match name.as_str() {
                "unified" => fresh("cgroup2", &at, None)?,
                "systemd" => fresh("cgroup", &at, Some("none,name=systemd"))?,
                controller => fresh("cgroup", &at, Some(controller))?,
            }
        }
    }
    for folder in ["etc", "var", "opt"] {
        layer(&orders.disk, folder)?;
    }
    fresh("tmpfs", Path::new("/run"), Some("mode=755"))?;
    for (path, name) in &orders.bound {
        let disk = orders.disk.join(name);
        fs::create_dir_all(&disk).with_context(|| format!("make {}", disk.display()))?;
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        mount(Some(&disk), path, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("bind {} to {}", disk.display(), path.display()))?;
    }
    let own = Path::new("/run/settings");
    fs::create_dir(own).context("make /run/settings")?;
    for (setting, value) in SETTINGS {
        let file = own.join(setting.replace('/', "_"));
        fs::write(&file, value).with_context(|| format!("write {}", file.display()))?;
        let at = Path::new("/proc/sys").join(setting);
        mount(Some(&file), &at, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("stand in for {}", at.display()))?;
    }
    // Pods' mounts with propagation want it so.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("share our mounts")
}

fn fresh(kind: &str, at: &Path, options: Option<&str>) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mount {kind} at {}", at.display()))
}

/// The machine's own view of `/FOLDER`: what is written there lands on the disk.
fn layer(disk: &Path, folder: &str) -> Result<()> {
    let (upper, work) = (disk.join(folder), disk.join(format!("{folder}.work")));
    for path in [&upper, &work] {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    }
    let at = PathBuf::from("/").join(folder);
    let options =
        format!("lowerdir={},upperdir={},workdir={}", at.display(), upper.display(), work.display());
    fresh("overlay", &at, Some(&options))
}

fn files(orders: &Orders) -> Result<()> {
    let name = &orders.name;
    let write = |path: &Path, text: &str| {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    };
    write(Path::new("/etc/hostname"), &format!("{name}\n"))?;
    write(Path::new("/etc/hosts"), &format!("127.0.0.1 localhost {name}\n"))?;
    write(Path::new("/etc/resolv.conf"), "nameserver 127.0.0.1\n")?;
    for folder in &orders.folders {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    for file in &orders.files {
        write(&file.path, &file.text)?;
    }
    if let Some((from, to)) = &orders.plugins {
        fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
        for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
            let plugin = entry.with_context(|| format!("list {}", from.display()))?;
            let copy = to.join(plugin.file_name());
            fs::copy(plugin.path(), &copy).with_context(|| format!("write {}", copy.display()))?;
        }
    }
    fs::create_dir_all("/run/lock").context("make /run/lock")?;
    if !Path::new("/var/run").exists() {
        symlink("/run", "/var/run").context("link /var/run")?;
    }
    Ok(())
}

/// One file for each service, opened before anything covers their folder.
struct Logs(HashMap<String, File>);

impl Logs {
    fn open(orders: &Orders) -> Result<Self> {
        let mut logs = HashMap::new();
        let services = orders.steps.iter().filter_map(|step| match step {
            Step::Start { name, .. } => Some(name.as_str()),
            _ => None,
        });
        for name in services.chain(["steps"]) {
            let path = orders.logs.join(format!("{}-{name}.log", orders.name));
            let file = File::options().create(true).append(true).open(&path);
            logs.insert(name.to_owned(), file.with_context(|| format!("open {}", path.display()))?);
        }
        Ok(Self(logs))
    }

    fn of(&self, name: &str) -> Result<(File, File)> {
        let file = self.0.get(name).with_context(|| format!("{name} has no log"))?;
        Ok((file.try_clone().context("share a log")?, file.try_clone().context("share a log")?))
    }
}

struct Services {
    logs: Logs,
    orders: Orders,
    /// Who waits for a child's end, by its PID. A child is started and entered under the lock, so that `reap` never
    /// meets a stranger.
    running: Mutex<HashMap<i32, Sender<WaitStatus>>>,
}

impl Services {
    fn work(self: &Arc<Self>) -> Result<()> {
        for step in &self.orders.steps {
            match step {
                Step::Await(path) => {
                    while !path.exists() {
                        thread::sleep(GLANCE);
                    }
                }
                Step::Until(command) => {
                    while !self.run("steps", command)? {
                        thread::sleep(GLANCE);
                    }
                }
                Step::Once { mark, command } => {
                    let done = self.orders.disk.join(format!("done-{mark}"));
                    if !done.exists() {
                        ensure!(
                            self.run("steps", command)?,
                            "`{}` failed: see the log of the steps",
                            command.join(" ")
                        );
                        fs::write(&done, "").with_context(|| format!("write {}", done.display()))?;
                    }
                }
                Step::Start { name, command } => {
                    let (services, name, command) = (Arc::clone(self), name.clone(), command.clone());
                    thread::spawn(move || services.keep(&name, &command));
                }
            }
        }
        Ok(())
    }

    /// Runs a service for ever.
    fn keep(&self, name: &str, command: &[String]) {
        let hold = self.orders.disk.join(format!("hold-{name}"));
        loop {
            if let Err(error) = self.run(name, command) {
                eprintln!("{name}: {error:#}");
            }
            thread::sleep(RESTART);
            while hold.exists() {
                thread::sleep(GLANCE);
            }
        }
    }

    /// Whether it succeeded. Its PID is in the machine's `/run/NAME.pid` meanwhile.
    fn run(&self, log: &str, command: &[String]) -> Result<bool> {
        let (program, arguments) = command.split_first().context("an empty command")?;
        let (stdout, stderr) = self.logs.of(log)?;
        let mut command = Command::new(self.program(program)?);
        command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr).current_dir("/");
        command.env_clear().env("PATH", format!("{}:{PATH}", self.orders.bin.display())).env("HOME", "/root");
        let (sender, ended) = channel();
        let pid = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let child = command.spawn().with_context(|| format!("start {program}"))?;
            let pid = i32::try_from(child.id()).context("a PID beyond 31 bits")?;
            running.insert(pid, sender);
            pid
        };
        let pid_file = format!("/run/{log}.pid");
        fs::write(&pid_file, pid.to_string()).with_context(|| format!("write {pid_file}"))?;
        let status = ended.recv().context("nobody reaps")?;
        Ok(matches!(status, WaitStatus::Exited(_, 0)))
    }

    /// All are tools. One that is missing must not come to a fork: `spawn` would wait for the child, and `reap` has it.
    fn program(&self, name: &str) -> Result<PathBuf> {
        let tool = self.orders.bin.join(name);
        ensure!(tool.is_file(), "there is no {}", tool.display());
        Ok(tool)
    }

    /// Tells whoever waits for a child, and takes every orphan; for ever.
    fn reap(&self) -> Result<()> {
        loop {
            match waitpid(None, None) {
                Ok(status) => {
                    let waiting = status.pid().and_then(|pid| {
                        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid.as_raw())
                    });
                    if let Some(waiting) = waiting {
                        // Who gave up waiting has ended.
                        waiting.send(status).ok();
                    }
                }
                // Nothing runs just now.
                Err(Errno::ECHILD) => thread::sleep(GLANCE),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("wait for children"),
            }
        }
    }
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
