//! One end of a measurement: a process in a pod's namespace that serves on all ports and loads others when told to.
//!
//! Main and worker speak JSON lines over the worker's standard streams. The worker ends with its standard input.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netlink::Netns;
use serde::{Deserialize, Serialize};

use crate::load::{self, Done, Kind};
use crate::{place, serve};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Load {
        kind: Kind,
        to: SocketAddr,
        server: i32,
        duration: Duration,
    },
    /// Can a connection be made?
    Knock {
        to: SocketAddr,
        timeout: Duration,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ready,
    Done(Done),
    Opened(bool),
    Failed(String),
}

/// The worker's whole life.
pub(crate) fn run() -> Result<()> {
    place::die_with_parent()?;
    place::pin_to_last_cpu()?;
    serve::start()?;
    say(&Answer::Ready)?;
    for line in std::io::stdin().lines() {
        let order = serde_json::from_str(&line.context("read an order")?).context("parse an order")?;
        let answer = obey(order).unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
        say(&answer)?;
    }
    Ok(())
}

fn obey(order: Order) -> Result<Answer> {
    match order {
        Order::Load { kind, to, server, duration } => {
            Ok(Answer::Done(load::run(kind, to, server, duration)?))
        }
        Order::Knock { to, timeout } => Ok(Answer::Opened(TcpStream::connect_timeout(&to, timeout).is_ok())),
    }
}

fn say(answer: &Answer) -> Result<()> {
    println!("{}", serde_json::to_string(answer).context("write an answer")?);
    Ok(())
}

/// Main's handle on a worker.
pub(crate) struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one in `netns`.
    pub(crate) fn start(netns: &Netns) -> Result<Self> {
        let mut command = place::ourselves("worker")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = place::spawn_in(netns, &mut command)?;
        let orders = child.stdin.take().context("a worker has no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("a worker has no stdout")?);
        let mut worker = Self { child, orders, answers };
        match worker.answer()? {
            Answer::Ready => Ok(worker),
            other => bail!("a worker began with {other:?}"),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        // Process numbers are below 2^22.
        self.child.id().cast_signed()
    }

    /// Loads `server` at `to` from here.
    pub(crate) fn load(
        &mut self,
        kind: Kind,
        to: SocketAddr,
        server: i32,
        duration: Duration,
    ) -> Result<Done> {
        match self.ask(&Order::Load { kind, to, server, duration })? {
            Answer::Done(done) => Ok(done),
            other => bail!("a worker asked for a load answered {other:?}"),
        }
    }

    /// Whether a connection to `to` can be made.
    pub(crate) fn knock(&mut self, to: SocketAddr, timeout: Duration) -> Result<bool> {
        match self.ask(&Order::Knock { to, timeout })? {
            Answer::Opened(opened) => Ok(opened),
            other => bail!("a worker asked to knock answered {other:?}"),
        }
    }

    fn ask(&mut self, order: &Order) -> Result<Answer> {
        let mut line = serde_json::to_string(order).context("write an order")?;
        line.push('\n');
        self.orders.write_all(line.as_bytes()).context("give a worker an order")?;
        match self.answer()? {
            Answer::Failed(error) => bail!("{error}"),
            answer => Ok(answer),
        }
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("wait for a worker")?;
        if line.is_empty() {
            bail!("a worker is gone");
        }
        serde_json::from_str(&line).with_context(|| format!("parse a worker's answer {line:?}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after this.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
