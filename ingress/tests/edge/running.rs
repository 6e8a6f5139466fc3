//! `weir-ingress` as a process of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Client, eventually};

/// A folder of its own, and the process that serves it.
pub(crate) struct Running {
    pub(crate) folder: PathBuf,
    pub(crate) child: Child,
    pub(crate) said: Arc<Mutex<String>>,
}

pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("weir-ingress-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-ingress"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Running {
    pub(crate) fn new(name: &str, files: &[(&str, &str)]) -> Self {
        Self::with(name, files, &[])
    }

    /// The same with further options.
    pub(crate) fn with(name: &str, files: &[(&str, &str)], options: &[&str]) -> Self {
        let folder = folder(name);
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        let mut child = command()
            .arg("-f")
            .arg(&folder)
            .args(["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(options)
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&said);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                *heard.lock().unwrap() += &(line + "\n");
            }
        });
        Self { folder, child, said }
    }

    /// The address that was logged as `NAME=…`.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        eventually(|| {
            let said = self.said.lock().unwrap();
            let rest = said.split_once(&format!(" {name}="))?.1;
            rest.split(|c: char| c.is_whitespace() || c == '"').find(|it| !it.is_empty())?.parse().ok()
        })
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address("http"))
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).unwrap();
    }

    #[track_caller]
    pub(crate) fn says(&self, what: &str) {
        eventually(|| self.said.lock().unwrap().contains(what).then_some(()));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        self.child.wait().unwrap();
        fs::remove_dir_all(&self.folder).unwrap();
    }
}
