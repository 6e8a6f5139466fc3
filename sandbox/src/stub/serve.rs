//! The stub's life: take a place, listen, carry out orders until standard input ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, LocalSet};

use super::listen::Listeners;
use super::place::Place;
use super::probe;
use super::protocol::{Order, Outcome, Probe, Role, Said};
use super::resolver;
use super::sctp_socket::Sctp;

/// Runs the stub until its standard input ends.
pub fn serve(place: &Place) -> anyhow::Result<()> {
    place.take()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let result = LocalSet::new().block_on(&runtime, live());
    // Standard input is read by a thread that only the next line would wake.
    runtime.shutdown_background();
    result
}

async fn live() -> anyhow::Result<()> {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let Some(line) = orders.next_line().await.context("read the role")? else { return Ok(()) };
    let role: Role = serde_json::from_str(&line).context("parse the role")?;
    let name: Rc<str> = role.name.into();

    let (said, lines) = mpsc::unbounded_channel();
    tokio::task::spawn_local(write_lines(lines));
    let sctp = Rc::new(
        Sctp::open(Rc::clone(&name), role.shared).context("open raw SCTP sockets (needs CAP_NET_RAW)")?,
    );
    tokio::task::spawn_local(Rc::clone(&sctp).run());
    let mut listeners = Listeners::new(Rc::clone(&name), Rc::clone(&sctp));
    let mut taken = listeners.set(&role.listen);
    if let Some(zone) = role.zone {
        taken.extend(resolver::start(&name, zone));
    }
    said.send(Said::Ready { taken }).context("write to the supervisor")?;
    obey(&mut orders, &mut listeners, &Prober { sctp, said, running: Rc::default() }).await
}

async fn obey(
    orders: &mut Lines<BufReader<Stdin>>,
    listeners: &mut Listeners,
    prober: &Prober,
) -> anyhow::Result<()> {
    while let Some(line) = orders.next_line().await.context("read an order")? {
        match serde_json::from_str(&line).with_context(|| format!("parse the order {line}"))? {
            Order::Probe(probes) => probes.into_iter().for_each(|probe| prober.start(probe)),
            Order::GiveUp(ids) => ids.into_iter().for_each(|id| prober.give_up(id)),
            Order::Listen(listen) => {
                let taken = listeners.set(&listen);
                prober.said.send(Said::Ready { taken }).context("write to the supervisor")?;
            }
        }
    }
    Ok(())
}

/// The probes under way.
struct Prober {
    sctp: Rc<Sctp>,
    said: mpsc::UnboundedSender<Said>,
    running: Rc<RefCell<HashMap<u64, AbortHandle>>>,
}

impl Prober {
    fn start(&self, order: Probe) {
        let (sctp, said, running) = (Rc::clone(&self.sctp), self.said.clone(), Rc::clone(&self.running));
        let id = order.id;
        let task = tokio::task::spawn_local(async move {
            // Nobody to write to any more means that the stub is about to end.
            let started = |from| said.send(Said::Started { id, from }).unwrap_or_default();
            let outcome = probe::run(order, &sctp, started).await;
            running.borrow_mut().remove(&id);
            said.send(Said::Done { id, outcome }).unwrap_or_default();
        });
        self.running.borrow_mut().insert(id, task.abort_handle());
    }

    fn give_up(&self, id: u64) {
        // A probe that is not there any more has said its last word already.
        if let Some(task) = self.running.borrow_mut().remove(&id) {
            task.abort();
            self.said.send(Said::Done { id, outcome: Outcome::Silence }).unwrap_or_default();
        }
    }
}

/// Writes what is said, as many lines at once as there are.
async fn write_lines(mut lines: mpsc::UnboundedReceiver<Said>) {
    let mut stdout = tokio::io::stdout();
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, 512).await > 0 {
        let mut text = Vec::new();
        for said in batch.drain(..) {
            // Said holds strings, numbers and addresses: nothing that JSON cannot say.
            if serde_json::to_writer(&mut text, &said).is_ok() {
                text.push(b'\n');
            }
        }
        if stdout.write_all(&text).await.is_err() || stdout.flush().await.is_err() {
            return;
        }
    }
}
