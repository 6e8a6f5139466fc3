//! The PROXY protocol, versions 1 and 2: a load balancer says before the first byte who the client is.
//!
//! Only asked of addresses that the operator names, and then of every connection: a header that is missing or not as
//! it must be ends the connection, for whatever follows could be anybody's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// A line of version 1 is no longer.
const MOST_LINE: usize = 107;
/// Nor is what version 2 says after its first 16 bytes: addresses take 36, the rest are notes that are passed over.
const MOST_V2: usize = 4 << 10;

/// Both ends of the connection that the load balancer took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    pub(super) local: SocketAddr,
}

/// Why a connection does not begin as it must.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the connection broke off in its PROXY header")]
    Broken(#[from] io::Error),
    #[error("no PROXY header: expected `PROXY TCP4 …` or the signature of version 2")]
    Missing,
    #[error("a PROXY header that is not as it must be: {0}")]
    Malformed(&'static str),
}

/// Reads the header and not a byte more. `None`: the load balancer speaks for itself (its health checks do).
pub(super) async fn read(stream: &mut TcpStream) -> Result<Option<Ends>, Error> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let [command, family, len @ ..] = rest;
        let len = usize::from(u16::from_be_bytes(len));
        if len > MOST_V2 {
            return Err(Error::Malformed("longer than 4 KiB"));
        }
        let mut said = vec![0; len];
        stream.read_exact(&mut said).await?;
        return version_2(command, family, &said);
    }
    if !start.starts_with(b"PROXY ") {
        return Err(Error::Missing);
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\n") {
        if line.len() == MOST_LINE {
            return Err(Error::Malformed("a line longer than 107 bytes"));
        }
        line.push(stream.read_u8().await?);
    }
    version_1(&line)
}

fn version_1(line: &[u8]) -> Result<Option<Ends>, Error> {
    let line = line.strip_suffix(b"\r\n").ok_or(Error::Malformed("its line does not end in CR and LF"))?;
    let line = str::from_utf8(line).map_err(|_| Error::Malformed("not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let ends = match words.next() {
        Some("UNKNOWN") => return Ok(None),
        Some("TCP4") => pair::<Ipv4Addr>(&mut words),
        Some("TCP6") => pair::<Ipv6Addr>(&mut words),
        _ => return Err(Error::Malformed("expected TCP4, TCP6 or UNKNOWN")),
    };
    match (ends, words.next()) {
        (Some(ends), None) => Ok(Some(ends)),
        _ => Err(Error::Malformed("expected two addresses and two ports")),
    }
}

fn pair<'a, A: FromStr + Into<IpAddr>>(words: &mut impl Iterator<Item = &'a str>) -> Option<Ends> {
    let mut address = || words.next()?.parse::<A>().ok().map(Into::into);
    let (client, local) = (address()?, address()?);
    let mut port = || {
        let text = words.next()?;
        // As `u16` reads it, but for signs and zeros in front.
        text.parse::<u16>().ok().filter(|port| port.to_string() == text)
    };
    Some(Ends { client: SocketAddr::new(client, port()?), local: SocketAddr::new(local, port()?) })
}

fn version_2(command: u8, family: u8, said: &[u8]) -> Result<Option<Ends>, Error> {
    let proxied = match command {
        0x20 => false,
        0x21 => true,
        _ => return Err(Error::Malformed("expected version 2 and LOCAL or PROXY")),
    };
    let cut = Error::Malformed("its addresses are cut off");
    let (ends, notes) = match family {
        // Not said, or a socket of Unix.
        0x00 | 0x31 => return Ok(None),
        0x11 => {
            let (addresses, notes) = said.split_first_chunk::<12>().ok_or(cut)?;
            let address = |at: usize| {
                let octets: [u8; 4] = std::array::from_fn(|index| addresses[at + index]);
                IpAddr::from(octets)
            };
            (ends(address(0), address(4), &addresses[8..]), notes)
        }
        0x21 => {
            let (addresses, notes) = said.split_first_chunk::<36>().ok_or(cut)?;
            let address = |at: usize| {
                let octets: [u8; 16] = std::array::from_fn(|index| addresses[at + index]);
                IpAddr::from(octets)
            };
            (ends(address(0), address(16), &addresses[32..]), notes)
        }
        _ if !proxied => return Ok(None),
        _ => return Err(Error::Malformed("expected TCP over IPv4 or IPv6")),
    };
    if !are_whole(notes) {
        return Err(Error::Malformed("a note after its addresses is cut off"));
    }
    Ok(proxied.then_some(ends))
}

fn ends(client: IpAddr, local: IpAddr, ports: &[u8]) -> Ends {
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Ends { client: SocketAddr::new(client, port(0)), local: SocketAddr::new(local, port(2)) }
}

/// Notes are a kind, a length of two bytes, and so many bytes.
fn are_whole(mut notes: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = notes {
        let Some(after) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { return false };
        notes = after;
    }
    notes.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_the_specification_has_it() {
        let ends = |line: &str| version_1(line.as_bytes()).map_err(|error| error.to_string());
        let expected =
            Ends { client: "192.0.2.1:56324".parse().unwrap(), local: "198.51.100.1:443".parse().unwrap() };
        assert_eq!(ends("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"), Ok(Some(expected)));
        let expected = Ends {
            client: "[2001:db8::1]:1".parse().unwrap(),
            local: "[2001:db8::2]:65535".parse().unwrap(),
        };
        assert_eq!(ends("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n"), Ok(Some(expected)));
        assert_eq!(ends("PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(ends("PROXY UNKNOWN ff:: :: whatever\r\n"), Ok(None));
        for wrong in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n",
            "PROXY TCP4 192.0.2.1  198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.1 1 2\r\n",
        ] {
            assert!(ends(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_binary_header_is_read_as_the_specification_has_it() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0, 80, 1, 187];
        let expected =
            Ends { client: "192.0.2.1:80".parse().unwrap(), local: "198.51.100.1:443".parse().unwrap() };
        assert_eq!(version_2(0x21, 0x11, &v4).unwrap(), Some(expected));
        assert_eq!(version_2(0x20, 0x11, &v4).unwrap(), None, "LOCAL");
        assert_eq!(version_2(0x20, 0x00, &[]).unwrap(), None);
        assert_eq!(version_2(0x21, 0x00, &[9; 5]).unwrap(), None);
        let noted = [&v4[..], &[0x20, 0, 2, 7, 7, 0x04, 0, 0]].concat();
        assert_eq!(version_2(0x21, 0x11, &noted).unwrap(), Some(expected));
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
        let expected = Ends { client: "[::1]:3".parse().unwrap(), local: "[::2]:4".parse().unwrap() };
        assert_eq!(version_2(0x21, 0x21, &v6).unwrap(), Some(expected));
        for (command, family, said) in [
            (0x11, 0x11, &v4[..]),
            (0x22, 0x11, &v4),
            (0x21, 0x11, &v4[..11]),
            (0x21, 0x21, &v4),
            (0x21, 0x12, &v4),
            (0x21, 0x11, &noted[..noted.len() - 1]),
        ] {
            assert!(version_2(command, family, said).is_err(), "{command:x} {family:x} {said:?}");
        }
    }
}
