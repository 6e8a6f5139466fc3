//! Looks a name up as any program in the pod would: by the C library and `/etc/resolv.conf`.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, ToSocketAddrs};

use anyhow::Context;

/// Prints the addresses of `name`, one a line.
pub fn resolve(name: &str) -> anyhow::Result<()> {
    let found = (name, 0).to_socket_addrs().with_context(|| format!("resolve {name}"))?;
    let addresses: BTreeSet<IpAddr> = found.map(|address| address.ip()).collect();
    let mut stdout = std::io::stdout().lock();
    for address in addresses {
        writeln!(stdout, "{address}")?;
    }
    Ok(())
}
