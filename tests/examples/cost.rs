//! What one run of a program costs, without a network: nanoseconds by `BPF_PROG_TEST_RUN`, for changes to the datapath.
//!
//! `cargo build --release -p tests --example cost && sudo target/release/examples/cost`

use std::net::IpAddr;

use common::endpoint::EndpointRow;
use common::id::RuleSetId;
use dataplane::{Action, Dataplane, Options, Trial};
use netlink::{HOST_MAC, Handle, Netns, VethSpec};
use policy::tables::MapOp;
use tests::bpffs::Bpffs;

fn tcp(source: [u8; 4], destination: [u8; 4], ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(source);
    frame.extend(destination);
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend([0; 40]);
    frame
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let bpffs = Bpffs::new();
    let netns = Netns::new_anonymous()?;
    let inside = netns.enter()?;
    let handle = Handle::new()?;
    let mut ifindexes = Vec::new();
    for (name, peer) in [("a", "ap"), ("b", "bp")] {
        let spec = VethSpec {
            name,
            mac: HOST_MAC,
            mtu: 1500,
            peer_name: peer,
            peer_mac: HOST_MAC,
            peer_mtu: 1500,
            peer_netns: &netns,
        };
        ifindexes.push(handle.create_veth(&spec).await?.0);
    }
    let mut dataplane = Dataplane::open(&Options { pins: bpffs.path().join("weir"), ..Options::default() })?;
    let addresses: [[u8; 4]; 2] = [[10, 244, 0, 2], [10, 244, 0, 3]];
    let plan: Vec<MapOp> = addresses
        .iter()
        .zip(&ifindexes)
        .map(|(address, ifindex)| {
            let row = EndpointRow {
                ifindex: *ifindex,
                flags: 0,
                ingress: RuleSetId::OPEN,
                egress: RuleSetId::OPEN,
            };
            MapOp::PutEndpoint(IpAddr::from(*address).into(), row)
        })
        .collect();
    dataplane.apply(&plan)?;
    let mut run = |what: &str, frame: &[u8], ifindex: u32, repeat: u32| -> anyhow::Result<()> {
        let trial = Trial { program: "from_pod", frame, ifindex, ingress_ifindex: ifindex, repeat };
        let best = (0..5).map(|_| dataplane.try_out(&trial)).collect::<Result<Vec<_>, _>>()?;
        let fastest = best.into_iter().min_by_key(|run| run.duration);
        if let Some(fastest) = fastest {
            assert_ne!(fastest.action, Action::Drop, "{what}");
            eprintln!("{what:<40} {:>5} ns", fastest.duration.as_nanos());
        }
        Ok(())
    };
    let syn = tcp(addresses[0], addresses[1], (40000, 80), 0x02);
    let syn_ack = tcp(addresses[1], addresses[0], (80, 40000), 0x12);
    let data = tcp(addresses[0], addresses[1], (40000, 80), 0x18);
    run("SYN", &syn, ifindexes[0], 1)?;
    run("SYN again and again", &syn, ifindexes[0], 100_000)?;
    run("SYN-ACK", &syn_ack, ifindexes[1], 1)?;
    run("established", &data, ifindexes[0], 1_000_000)?;
    run("established, reply", &tcp(addresses[1], addresses[0], (80, 40000), 0x18), ifindexes[1], 1_000_000)?;
    drop(inside);
    Ok(())
}
