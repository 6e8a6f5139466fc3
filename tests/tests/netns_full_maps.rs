//! What does not fit is refused whole: the real agent over real maps that have not one row to spare. What was in force
//! stays in force, status says which map is too small, and what fits again is put in force. Needs root and the binaries
//! beside this one (`cargo xtask test netns` builds them).

use std::net::TcpStream;
use std::time::{Duration, Instant};

use api::Status;
use common::maps;
use dataplane::{Capacities, Dataplane, Options};
use tests::stage::{NODES, Stage, block_on};
use tests::town::{namespace, pod, policy};
use tests::traffic::{Echo, IMPATIENCE, Outcome, PATIENCE, ask, connect, tcp, udp};

const WEB: &str = "shop/web";
const FRIEND: &str = "shop/friend";
const STRANGER: &str = "shop/stranger";
const ECHO: u16 = 7000;

/// At least one row of each map: a Service and a block among the rest.
fn shop() -> String {
    [
        namespace("shop", ""),
        pod(WEB, 0, "app: web", "80"),
        pod(FRIEND, 0, "app: friend", "80"),
        pod(STRANGER, 1, "app: stranger", "80"),
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
         spec: {selector: {app: web}, ports: [{port: 8000, targetPort: 80}]}\n"
            .to_owned(),
        policy(
            WEB,
            "app: web",
            "ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}, {ipBlock: {cidr: 192.0.2.0/24}}]}]",
        ),
    ]
    .concat()
}

/// Objects for which a map has no room. Were it in force, a policy among them would let the stranger in.
fn excess(map: &str) -> String {
    let from = |peers: &str, ports: &str| {
        policy("shop/excess", "app: web", &format!("ingress: [{{from: [{peers}], ports: [{ports}]}}]"))
    };
    let stranger = "{podSelector: {matchLabels: {app: stranger}}}";
    match map {
        maps::PEERS => from(stranger, ""),
        maps::CIDRS => from(&format!("{stranger}, {{ipBlock: {{cidr: 198.51.100.0/24}}}}"), ""),
        maps::RULES => from(stranger, "{port: 80}, {port: 7000}, {port: 1001, endPort: 1999}"),
        maps::SERVICES | maps::BACKENDS => {
            "---\napiVersion: v1\nkind: Service\nmetadata: {name: more, namespace: shop}\n\
             spec: {clusterIP: 10.96.200.200, ports: [{port: 8000, targetPort: 80}]}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {name: more-1, namespace: shop, labels: {kubernetes.io/service-name: more}}\n\
             addressType: IPv4\nendpoints: [{addresses: [10.244.9.9]}]\nports: [{port: 80}]\n"
                .to_owned()
        }
        other => panic!("nothing is known that would overflow {other}"),
    }
}

/// The stage with a node whose maps were made again, one of them with room for what it holds and no more.
async fn with_a_full(map: &'static str) -> Stage {
    let stage = Stage::up(&shop()).await;
    let fill = |status: &Status| status.maps.iter().find(|fill| fill.name == map).expect("every map").entries;
    let entries = fill(&status(&stage).await);
    assert!(entries > 0, "the shop has a row in {map}");
    make_maps_again(&stage, map, u32::try_from(entries).unwrap()).await;
    let now = status(&stage).await;
    let filled = now.maps.iter().find(|fill| fill.name == map).expect("every map");
    assert_eq!((filled.entries, filled.capacity), (entries, entries), "{map}");
    stage
}

/// New pins, with one map of another size, for a new agent to find.
async fn make_maps_again(stage: &Stage, map: &'static str, capacity: u32) {
    stage.sandbox.kill_agent(NODES[0]).await.unwrap();
    let pins = stage.sandbox.pins(NODES[0]).unwrap().to_owned();
    std::fs::remove_dir_all(pins.join(format!("layout-{}", maps::LAYOUT_VERSION))).unwrap();
    let capacities = Capacities(vec![(map, capacity)]);
    drop(Dataplane::open(&Options { pins, capacities, ..Options::default() }).unwrap());
    stage.sandbox.start_agent(NODES[0]).await.unwrap();
}

async fn status(stage: &Stage) -> Status {
    stage.sandbox.status(NODES[0]).await.expect("an agent that answers")
}

/// The status as soon as it is like that.
async fn status_when(stage: &Stage, what: &str, like_that: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status = status(stage).await;
        if like_that(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}: {status:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The friend reaches the web, and the stranger does not.
#[track_caller]
fn the_shop_is_as_it_was(stage: &Stage) {
    for to in stage.addresses(WEB, ECHO) {
        assert_eq!(tcp(&stage.netns(FRIEND), to, PATIENCE), Outcome::Answered, "{to}");
        assert_eq!(tcp(&stage.netns(STRANGER), to, IMPATIENCE), Outcome::Silence, "{to}");
    }
}

/// That the map is too small, and by how much.
fn complains_of(status: &Status, map: &str, capacity: u64) -> bool {
    let error = status.last_error.as_deref().unwrap_or_default();
    error.contains(&format!("`{map}`")) && error.contains(&capacity.to_string())
}

#[test]
fn objects_for_which_a_map_has_no_room_change_nothing_until_they_fit() {
    for map in [maps::PEERS, maps::CIDRS, maps::RULES, maps::SERVICES, maps::BACKENDS] {
        block_on(async {
            let stage = with_a_full(map).await;
            let _echo = Echo::start(&stage.netns(WEB), ECHO);
            the_shop_is_as_it_was(&stage);
            let to = stage.addresses(WEB, ECHO)[0];
            let mut live = stage.netns(FRIEND).run(|| connect(to, PATIENCE)).unwrap().unwrap();
            let good = status(&stage).await;
            assert_eq!(good.last_error, None);

            let more = stage.objects().join("more.yaml");
            stage.put_object_file("more.yaml", &excess(map));
            let full = good.maps.iter().find(|fill| fill.name == map).unwrap().capacity;
            let refused = status_when(&stage, map, |status| complains_of(status, map, full)).await;
            assert_eq!((refused.generation, refused.epoch), (good.generation, good.epoch), "{map}");
            assert_eq!(refused.source_revision, good.source_revision, "{map}");
            assert_eq!(refused.maps, good.maps, "{map}");
            assert!(refused.ready, "{map}");
            if map == maps::PEERS {
                // It is tried again after two seconds, and nothing comes of it.
                tokio::time::sleep(Duration::from_millis(2500)).await;
            }
            the_shop_is_as_it_was(&stage);
            ask(&mut live).unwrap();
            assert_eq!(status(&stage).await.generation, good.generation, "{map}");

            std::fs::remove_file(&more).unwrap();
            let well = status_when(&stage, "the end of it", |status| status.last_error.is_none()).await;
            assert_eq!(well.maps, good.maps, "{map}");
            the_shop_is_as_it_was(&stage);
            ask(&mut live).unwrap();
            stage.down().await;
        });
    }
}

#[test]
fn a_pod_for_which_there_is_no_room_is_refused_and_the_others_live() {
    block_on(async {
        let mut stage = with_a_full(maps::ENDPOINTS).await;
        let _echo = Echo::start(&stage.netns(WEB), ECHO);
        let good = status(&stage).await;
        let error = stage.try_apply(&(shop() + &pod("shop/late", 0, "app: friend", "80"))).await.unwrap_err();
        assert!(error.contains("shop/late") && error.contains(maps::ENDPOINTS), "{error}");
        let now = status(&stage).await;
        assert_eq!(now.endpoints, good.endpoints);
        assert_eq!(now.maps, good.maps);
        the_shop_is_as_it_was(&stage);

        // One goes, and there is room.
        let without_friend: String =
            shop().split_inclusive("---\n").filter(|text| !text.contains("name: friend")).collect();
        stage.apply(&(without_friend + &pod("shop/late", 0, "app: friend", "80"))).await;
        for to in stage.addresses(WEB, ECHO) {
            assert_eq!(tcp(&stage.netns("shop/late"), to, PATIENCE), Outcome::Answered, "{to}");
            assert_eq!(tcp(&stage.netns(STRANGER), to, IMPATIENCE), Outcome::Silence, "{to}");
        }
        assert_eq!(status(&stage).await.last_error, None);
        stage.down().await;
    });
}

const CONNECTIONS: usize = 64;

#[test]
fn with_the_agent_dead_a_full_table_of_connections_drops_new_ones_and_keeps_the_old() {
    block_on(async {
        let stage = Stage::up(&shop()).await;
        make_maps_again(&stage, maps::CT, CONNECTIONS as u32).await;
        let _echo = Echo::start(&stage.netns(WEB), ECHO);
        let (friend, to) = (stage.netns(FRIEND), stage.addresses(WEB, ECHO));
        stage.sandbox.kill_agent(NODES[0]).await.unwrap();

        let connect_all = || (0..CONNECTIONS).map(|n| connect(to[n % 2], PATIENCE).unwrap()).collect();
        let mut old: Vec<TcpStream> = friend.run(connect_all).unwrap();
        let nobody_new = || {
            for to in to {
                assert_eq!(tcp(&friend, to, IMPATIENCE), Outcome::Silence, "{to}");
                assert_eq!(udp(&friend, to, IMPATIENCE), Outcome::Silence, "{to}");
            }
        };
        nobody_new();
        old.iter_mut().for_each(|stream| ask(stream).unwrap());
        nobody_new();
        old.iter_mut().for_each(|stream| ask(stream).unwrap());
        // Whoever ends makes room at once.
        drop(old.split_off(CONNECTIONS - 4));
        tokio::time::sleep(Duration::from_millis(100)).await;
        the_shop_is_as_it_was(&stage);
        old.iter_mut().for_each(|stream| ask(stream).unwrap());

        stage.sandbox.start_agent(NODES[0]).await.unwrap();
        let status = status(&stage).await;
        let full = status.counters.iter().find(|counter| counter.name == "ct_full").unwrap();
        // Four knocks, of TCP perhaps more than one packet each, twice.
        assert!((8..=32).contains(&full.packets), "{full:?}");
        old.iter_mut().for_each(|stream| ask(stream).unwrap());
        stage.down().await;
    });
}
