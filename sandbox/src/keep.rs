//! `--keep`: a supervisor in the background, and what ends it.
//!
//! The process that the user started hands its work to a child (`weir-stub supervise`) and waits until that says how it
//! went; the child then lets go of the terminal and stays until `weir sandbox down`. The two share a socket: the child's
//! standard input.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde::{Deserialize, Serialize};

use crate::ground::{self, Binaries};
use crate::plan::Options;
use crate::run::{Input, supervise};
use crate::state::{self, State};

/// What the child is told, in one line.
#[derive(Serialize, Deserialize)]
struct Orders {
    options: Options,
    input: Input,
}

/// Starts a supervisor that stays, and waits until everything is up and shown.
pub(crate) fn start(options: Options, input: Input) -> anyhow::Result<ExitCode> {
    let (mut ours, theirs) = UnixStream::pair().context("make a socket to the supervisor")?;
    let stub = Binaries::beside_us()?.stub;
    let mut child = Command::new(&stub)
        .arg("supervise")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .with_context(|| format!("start {}", stub.display()))?;
    let mut line = serde_json::to_vec(&Orders { options, input }).context("write down the orders")?;
    line.push(b'\n');
    ours.write_all(&line).context("tell the supervisor its orders")?;
    let mut code = [0];
    match ours.read_exact(&mut code) {
        Ok(()) => Ok(code[0].into()),
        // It has ended instead, and said why.
        Err(_) => {
            let status = child.wait().context("wait for the supervisor")?;
            Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into())
        }
    }
}

/// What the child does: `weir-stub supervise`.
pub fn supervise_kept() -> anyhow::Result<()> {
    let starter =
        std::io::stdin().as_fd().try_clone_to_owned().context("take the socket from standard input")?;
    let mut starter = BufReader::new(UnixStream::from(starter));
    let mut line = String::new();
    starter.read_line(&mut line).context("read the orders")?;
    let Orders { options, input } = serde_json::from_str(&line).context("understand the orders")?;
    let binaries = Binaries::beside_us()?;
    supervise(options, input, binaries, Some(Settle { starter: starter.into_inner() })).map(drop)
}

/// Who is to be told once everything is up and shown.
pub(crate) struct Settle {
    starter: UnixStream,
}

impl Settle {
    /// Lets go of the terminal, then tells the starter the exit status.
    pub(crate) fn tell(mut self, id: &str, failed: bool) -> anyhow::Result<()> {
        eprintln!(
            "sandbox {id} stays up: `weir sandbox exec POD -- CMD…`, `weir flows`, and in the end `weir sandbox down`"
        );
        let nowhere = File::options().read(true).write(true).open("/dev/null").context("open /dev/null")?;
        dup2_stdin(&nowhere)
            .and_then(|()| dup2_stdout(&nowhere))
            .and_then(|()| dup2_stderr(&nowhere))
            .context("let go of the terminal")?;
        setsid().context("begin a session of our own")?;
        self.starter.write_all(&[u8::from(failed)]).context("tell that everything is up")
    }
}

/// How long a supervisor may take to clear up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes one kept sandbox down, or all.
pub fn down(id: Option<&str>, all: bool) -> anyhow::Result<ExitCode> {
    ground::require_root("weir sandbox down")?;
    state::sweep();
    let states = if all { state::living() } else { vec![state::choose(id)?] };
    for state in &states {
        take_down(state)?;
        eprintln!("sandbox {} is down", state.id);
    }
    Ok(ExitCode::SUCCESS)
}

fn take_down(state: &State) -> anyhow::Result<()> {
    let supervisor = state.supervisor;
    let pid = Pid::from_raw(supervisor.pid);
    kill(pid, Signal::SIGTERM).with_context(|| format!("end sandbox {}", state.id))?;
    let deadline = Instant::now() + PATIENCE;
    while supervisor.is_alive() {
        if Instant::now() > deadline {
            kill(pid, Signal::SIGKILL).with_context(|| format!("end sandbox {}", state.id))?;
            state::forget(&state.id);
            bail!("sandbox {} did not go by itself within {} s and was killed", state.id, PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    state::forget(&state.id);
    Ok(())
}

/// Prints the kept sandboxes.
pub fn list() -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for state in state::living() {
        let nodes: Vec<_> = state.nodes.iter().map(|node| node.name.as_str()).collect();
        writeln!(
            out,
            "{}  {} nodes ({}), {} pods, supervisor {}",
            state.id,
            nodes.len(),
            nodes.join(", "),
            state.pods.len(),
            state.supervisor.pid
        )
        .context("write to standard output")?;
    }
    Ok(ExitCode::SUCCESS)
}
