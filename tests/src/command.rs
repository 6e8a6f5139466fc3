//! `weir sandbox` as people run it, and what it leaves on the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox::Binaries;
use serde_json::Value;

/// One of the binaries under test.
pub fn binary(name: &str) -> PathBuf {
    let path = Binaries::beside_us().expect("the binaries under test").cni_path.join(name);
    assert!(path.is_file(), "{} is missing: `cargo xtask test netns` builds it", path.display());
    path
}

/// `weir sandbox -f FILES… MORE…`, not started yet.
pub fn sandbox(files: &[&Path], more: &[&str]) -> Command {
    let mut command = Command::new(binary("weir"));
    command.arg("sandbox");
    for file in files {
        command.arg("-f").arg(file);
    }
    command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A sandbox that somebody's command owns. Dropped, it is killed if it still runs.
pub struct Run {
    child: Option<Child>,
    pid: Pid,
}

impl Run {
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn().expect("start weir");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process number"));
        Self { child: Some(child), pid }
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("a process that runs");
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The sandbox's id, as soon as it has one.
    #[track_caller]
    pub fn id(&self) -> String {
        wait_for("the sandbox's folder", || id_of(self.pid))
    }

    pub fn wait(mut self) -> Output {
        let child = self.child.take().expect("waited for once");
        child.wait_with_output().expect("wait for weir")
    }

    /// Waits for its end; what it printed, and the id that it had meanwhile, if any.
    pub fn watch(mut self) -> (Output, Option<String>) {
        let (pid, mut id) = (self.pid, None);
        let child = self.child.take().expect("waited for once");
        let waiter = std::thread::spawn(move || child.wait_with_output().expect("wait for weir"));
        while !waiter.is_finished() {
            id = id.or_else(|| id_of(pid));
            std::thread::sleep(Duration::from_millis(1));
        }
        (waiter.join().expect("wait for weir"), id)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

const ROOT: &str = "/run/weir/sandbox";

fn id_of(supervisor: Pid) -> Option<String> {
    fs::read_dir(ROOT).ok()?.flatten().find_map(|folder| {
        let state: Value = serde_json::from_slice(&fs::read(folder.path().join("state.json")).ok()?).ok()?;
        (state["supervisor"]["pid"] == supervisor.as_raw())
            .then(|| state["id"].as_str().map(str::to_owned))?
    })
}

#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whatever of a sandbox the machine still shows: folders, cgroups, mounts, processes.
pub fn traces(id: &str) -> Vec<String> {
    let mut traces = Vec::new();
    for name in [id.to_owned(), format!(".{id}")] {
        let folder = Path::new(ROOT).join(name);
        traces.extend(folder.exists().then(|| folder.display().to_string()));
    }
    let mounts = fs::read_to_string("/proc/mounts").expect("the mounts");
    traces.extend(mounts.lines().filter(|line| line.contains(id)).map(str::to_owned));
    for line in mounts.lines().filter(|line| line.contains(" cgroup2 ")) {
        let root = line.split(' ').nth(1).unwrap_or_default();
        let names = fs::read_dir(root).expect("the cgroups").flatten();
        let ours = names.map(|entry| entry.path().display().to_string());
        traces.extend(ours.filter(|path| path.contains(&format!("weir-{id}-"))));
    }
    traces.extend(processes(id));
    traces
}

/// Processes with the sandbox's folder or cgroup on their command line.
pub fn processes(id: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").expect("the processes").flatten();
    let commands = all.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    commands.filter(|command| command.contains(id) && command.contains("weir-")).collect()
}

/// The names of the links in the network namespace that this test runs in.
pub fn links() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .expect("the links")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
