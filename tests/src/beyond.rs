//! A host beyond the sandbox's router, by a link as narrow as one likes, that knows only the networks it is told.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::time::Duration;

use ipnet::IpNet;
use netlink::{Handle, Netns, Route, VethSpec};

use crate::traffic::connect;

/// The router's address and the host's, in each family.
const NETWORKS: [(&str, &str); 2] =
    [("203.0.113.1/24", "203.0.113.10/24"), ("2001:db8:71::1/64", "2001:db8:71::10/64")];

pub struct Beyond {
    pub host: Netns,
    _links: Handle,
}

impl Beyond {
    /// The router takes `mtu` bytes towards the host, the host 1,500. It has a route to each of `known`.
    pub async fn the_router(router: &Netns, mtu: u32, known: &[IpNet]) -> Self {
        Self::join(router, mtu, known).await.expect("a host beyond the router")
    }

    async fn join(router: &Netns, mtu: u32, known: &[IpNet]) -> Result<Self, netlink::Error> {
        let host = Netns::new_anonymous()?;
        let near_links = Handle::in_netns(router)?;
        let links = Handle::in_netns(&host)?;
        let spec = VethSpec {
            name: "beyond",
            mac: [2, 0x77, 0x73, 0x62, 9, 1],
            mtu,
            peer_name: "eth0",
            peer_mac: [2, 0x77, 0x73, 0x62, 9, 2],
            peer_mtu: 1500,
            peer_netns: &host,
        };
        let (near, far) = near_links.create_veth(&spec).await?;
        // Or its IPv6 address could not be used for a second.
        host.run(|| netlink::sysctl("ipv6/conf/eth0/accept_dad", "0"))??;
        near_links.set_up(near).await?;
        links.set_up(far).await?;
        for (router, own) in NETWORKS.map(|(router, own)| (net(router), net(own))) {
            near_links.add_address(near, router).await?;
            links.add_address(far, own).await?;
            for destination in known.iter().filter(|known| known.addr().is_ipv4() == own.addr().is_ipv4()) {
                let route = Route {
                    destination: *destination,
                    via: Some(router.addr()),
                    oif: far,
                    source: None,
                    onlink: false,
                    protocol: 3,
                    link_scope: false,
                };
                links.add_route(&route).await?;
            }
        }
        Ok(Self { host, _links: links })
    }

    /// The host's address in each family, IPv4 first.
    pub fn ips() -> [IpAddr; 2] {
        NETWORKS.map(|(_, own)| net(own).addr())
    }

    /// Sends `length` bytes from `from` to the host over one connection. How many arrived.
    pub fn upload(&self, from: &Netns, to: SocketAddr, length: usize) -> io::Result<usize> {
        let listener = self.host.run(|| TcpListener::bind(to)).expect("enter")?;
        let sink = std::thread::spawn(move || -> io::Result<usize> {
            let (mut stream, _) = listener.accept()?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all)?;
            stream.write_all(b"all")?;
            Ok(all.len())
        });
        let transfer = || -> io::Result<()> {
            let mut stream = connect(to, Duration::from_secs(10))?;
            stream.write_all(&vec![0x5a; length])?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_exact(&mut [0; 3])
        };
        from.run(transfer).expect("enter")?;
        sink.join().expect("a sink that does not panic")
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a block")
}
