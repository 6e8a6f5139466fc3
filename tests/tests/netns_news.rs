//! How long a node that does not run a pod goes on denying what is allowed to it: from the moment its address is written
//! (`status.podIP`) to the row in the other node's map. Needs root and the binaries beside this one (`cargo xtask test
//! netns` builds them). `WEIR_NEWS` says of how many pods (40 unless told); the percentiles are printed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use common::id::ClassId;
use common::maps::{self, LAYOUT_VERSION};
use common::net::Addr;
use tests::stage::{NODES, Stage, block_on};
use tests::town::{namespace, pod, policy};

/// What would be a matter for the one who is called at night.
const TOO_LONG: Duration = Duration::from_secs(5);

#[test]
fn line_14_a_new_address_is_known_to_the_other_node_before_long() {
    let pods: u16 = std::env::var("WEIR_NEWS").map_or(40, |pods| pods.parse().expect("WEIR_NEWS: a number"));
    block_on(async {
        let town = [
            namespace("shop", ""),
            pod("shop/guarded", 1, "app: guarded", "80"),
            policy(
                "shop/guarded",
                "app: guarded",
                "ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]",
            ),
        ];
        let stage = Stage::up(&town.concat()).await;
        let folder = stage.sandbox.pins(NODES[1]).unwrap().join(format!("layout-{LAYOUT_VERSION}/maps"));
        let map = Map::HashMap(MapData::from_pin(folder.join(maps::PEERS)).unwrap());
        let peers = HashMap::<_, Addr, ClassId>::try_from(map).unwrap();
        let mut took = Vec::new();
        for number in 0..pods {
            let ip =
                IpAddr::from(Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 7, 0).to_bits() + u32::from(number)));
            let name = format!("late-{number}");
            let text = format!(
                "{}status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n",
                pod(&format!("shop/{name}"), 0, "app: friend", "")
            );
            let written = Instant::now();
            stage.put_object_file(&format!("{name}.yaml"), &text);
            while peers.get(&ip.into(), 0).is_err() {
                assert!(written.elapsed() < TOO_LONG, "{ip} is not in the map of {}", NODES[1]);
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            took.push(written.elapsed());
        }
        took.sort();
        let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
        eprintln!(
            "address written to row on the other node: p50 {:?}, p99 {:?}, {pods} pods",
            at(50),
            at(99)
        );
        stage.down().await;
    });
}
