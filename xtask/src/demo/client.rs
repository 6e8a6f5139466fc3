//! The programs that run in pods during the demo: one that knocks at a port, and one that keeps calling.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Subcommand;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    client: Client,
}

#[derive(Subcommand)]
enum Client {
    /// Prints who answers at a port, or `denied`
    Knock { to: String },
    /// Calls until standard input ends, then prints how that went
    Traffic { to: String },
}

pub(crate) fn command(args: Args) -> Result<()> {
    match args.client {
        Client::Knock { to } => {
            println!("{}", call(resolve(&to)?).unwrap_or_else(|_| "denied".to_owned()));
            Ok(())
        }
        Client::Traffic { to } => traffic(&to),
    }
}

/// A new connection every few milliseconds, beside one that stays open and is written to all the time.
fn traffic(to: &str) -> Result<()> {
    let address = resolve(to)?;
    let mut long =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {to}"))?;
    let (mut calls, mut failed, mut slowest) = (0, 0, Duration::ZERO);
    let told = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    while !told.is_finished() {
        let begun = Instant::now();
        long.write_all(b".").context("write to the connection that stays open")?;
        calls += 1;
        failed += u32::from(call(address).is_err());
        slowest = slowest.max(begun.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    // The other end closes when it has read everything: the connection lived through it all.
    long.shutdown(std::net::Shutdown::Write).context("end the connection that stays open")?;
    long.set_read_timeout(Some(PATIENCE)).context("wait for the other end")?;
    long.read_to_end(&mut Vec::new()).context("hear the end of the connection that stays open")?;
    println!(
        "{calls} calls, {failed} failed, the slowest took {:.1} ms; one connection stayed open throughout",
        slowest.as_secs_f64() * 1e3
    );
    Ok(())
}

/// The line that a pod answers with: its name.
fn call(address: SocketAddr) -> Result<String> {
    let connection = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    connection.set_read_timeout(Some(PATIENCE)).context("set a time-out")?;
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line).context("read the answer")?;
    Ok(line.trim_end().to_owned())
}

fn resolve(to: &str) -> Result<SocketAddr> {
    let mut addresses = to.to_socket_addrs().with_context(|| format!("look up {to}"))?;
    addresses.next().with_context(|| format!("{to} has no address"))
}

/// A denied connection vanishes: after this nobody will answer.
const PATIENCE: Duration = Duration::from_millis(400);
