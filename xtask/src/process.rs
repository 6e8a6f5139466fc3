//! Running other programs: in the open, or quietly behind a progress line.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// This very program, although cargo may have put another in its place meanwhile.
pub(crate) fn ourselves() -> Command {
    let mut command = Command::new("/proc/self/exe");
    std::os::unix::process::CommandExt::arg0(&mut command, "xtask");
    command
}

/// Runs `command` with our own standard streams.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", shown(command)))?;
    ensure!(status.success(), "{} ended with {status}", shown(command));
    Ok(())
}

/// What `command` prints on stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {}", shown(command)))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} ended with {}: {}", shown(command), output.status, stderr.trim());
    String::from_utf8(output.stdout).with_context(|| format!("read what {} printed", shown(command)))
}

/// Runs `command` with its output in the file `log`, and shows how long it has been at it. Where it fails, the end of
/// the log is part of the error.
pub(crate) fn quietly(label: &str, log: &Path, command: &mut Command) -> Result<()> {
    let file = File::create(log).with_context(|| format!("make the log {}", log.display()))?;
    let errors = file.try_clone().context("share the log between stdout and stderr")?;
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("start {}", shown(command)))?;
    let mut progress = Progress::new(label);
    let status = loop {
        match child.try_wait().with_context(|| format!("wait for {}", shown(command)))? {
            Some(status) => break status,
            None => {
                progress.tick();
                thread::sleep(Duration::from_millis(100));
            }
        }
    };
    progress.finish(begun.elapsed());
    if !status.success() {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n");
        bail!("{} ended with {status}; the end of {}:\n{tail}", shown(command), log.display());
    }
    Ok(())
}

/// One line that says how long something has been going on: rewritten in place on a terminal, else said now and then.
struct Progress<'a> {
    label: &'a str,
    begun: Instant,
    last: Option<Instant>,
    in_place: bool,
}

impl<'a> Progress<'a> {
    fn new(label: &'a str) -> Self {
        Self { label, begun: Instant::now(), last: None, in_place: std::io::stderr().is_terminal() }
    }

    fn tick(&mut self) {
        let every = if self.in_place { Duration::from_secs(1) } else { Duration::from_secs(15) };
        let due = match self.last {
            Some(last) => last.elapsed() >= every,
            None => self.begun.elapsed() >= Duration::from_secs(1),
        };
        if !due {
            return;
        }
        self.last = Some(Instant::now());
        let seconds = self.begun.elapsed().as_secs();
        if self.in_place {
            eprint!("\r\x1b[K{} … {seconds} s", self.label);
            // A terminal that cannot be written to has nobody who misses the line.
            drop(std::io::stderr().flush());
        } else {
            eprintln!("{} … {seconds} s", self.label);
        }
    }

    fn finish(&self, took: Duration) {
        let clear = if self.in_place && self.last.is_some() { "\r\x1b[K" } else { "" };
        if self.last.is_some() {
            eprintln!("{clear}{}: took {:.0} s", self.label, took.as_secs_f64());
        }
    }
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let text = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    format!("`{text}`")
}
