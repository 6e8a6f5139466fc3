//! How long a node that does not run a pod goes on denying what is allowed to it: from the moment its addresses are written
//! (`status.podIPs`) to the rows in the other node's map, of both families and both nodes. Needs root and the binaries beside
//! this one (`cargo xtask test netns` builds them). `WEIR_NEWS` says of how many pods (40 unless told); the percentiles are
//! printed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use common::id::ClassId;
use common::maps::{self, LAYOUT_VERSION};
use common::net::Addr;
use tests::node::FAMILIES;
use tests::stage::{NODES, Stage, block_on};
use tests::town::{namespace, pod, policy};

/// What would be a matter for the one who is called at night.
const TOO_LONG: Duration = Duration::from_secs(5);
/// So many of the pods are there at a time.
const AT_ONCE: u16 = 50;

type Peers = HashMap<MapData, Addr, ClassId>;

/// The node's rows for addresses of pods anywhere.
fn peers(stage: &Stage, node: &str) -> Peers {
    let folder = stage.sandbox.pins(node).unwrap().join(format!("layout-{LAYOUT_VERSION}/maps"));
    let map = Map::HashMap(MapData::from_pin(folder.join(maps::PEERS)).unwrap());
    HashMap::try_from(map).unwrap()
}

/// Of each family, as nobody else has them.
fn addresses(number: u16) -> [IpAddr; 2] {
    [
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 7, 0).to_bits() + u32::from(number)).into(),
        Ipv6Addr::new(0xfd00, 0x244, 0, 7, 0, 0, 0, number).into(),
    ]
}

/// How long after `written` the row of each address is there.
async fn seen(peers: &Peers, ips: [IpAddr; 2], written: Instant, node: &str) -> [Duration; 2] {
    let mut took = [None; 2];
    loop {
        for (took, ip) in took.iter_mut().zip(ips) {
            if took.is_none() && peers.get(&ip.into(), 0).is_ok() {
                *took = Some(written.elapsed());
            }
        }
        if let [Some(v4), Some(v6)] = took {
            return [v4, v6];
        }
        assert!(written.elapsed() < TOO_LONG, "{ips:?} are not in the map of {node}: {took:?}");
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
}

#[test]
fn line_14_a_new_address_is_known_to_the_other_node_before_long() {
    let pods: u16 = std::env::var("WEIR_NEWS").map_or(40, |pods| pods.parse().expect("WEIR_NEWS: a number"));
    block_on(async {
        let friends = "{podSelector: {matchLabels: {app: friend}}}";
        let town = [
            namespace("shop", ""),
            pod("shop/guarded-0", 0, "app: guarded", "80"),
            pod("shop/guarded-1", 1, "app: guarded", "80"),
            policy(
                "shop/guarded",
                "app: guarded",
                &format!(
                    "policyTypes: [Ingress, Egress], ingress: [{{from: [{friends}]}}], egress: [{{to: [{friends}]}}]"
                ),
            ),
        ];
        let stage = Stage::up(&town.concat()).await;
        let maps = NODES.map(|node| peers(&stage, node));
        let mut took: [[Vec<Duration>; 2]; 2] = Default::default();
        for number in 0..pods {
            let (own, other) = (usize::from(number % 2), usize::from(number % 2 == 0));
            let [v4, v6] = addresses(number);
            let text = format!(
                "{}status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: '{v6}'}}]}}\n",
                pod(&format!("shop/late-{number}"), own as u8, "app: friend", "")
            );
            let written = Instant::now();
            stage.put_object_file(&format!("late-{}.yaml", number % AT_ONCE), &text);
            let of_families = seen(&maps[other], [v4, v6], written, NODES[other]).await;
            for (took, time) in took[other].iter_mut().zip(of_families) {
                took.push(time);
            }
        }
        for (node, took) in NODES.into_iter().zip(took) {
            for (family, mut took) in FAMILIES.into_iter().zip(took) {
                took.sort();
                let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
                let [half, most] = [at(50), at(99)];
                eprintln!(
                    "{family:?} address written to row on {node}: p50 {half:?}, p99 {most:?}, {} pods",
                    took.len()
                );
            }
        }
        stage.down().await;
    });
}
