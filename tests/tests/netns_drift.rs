//! What somebody else changes on a node is found and put right, by the real binaries. Needs root (`cargo xtask test netns`
//! builds them).

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::Status;
use aya::maps::{HashMap, Map, MapData};
use common::endpoint::EndpointRow;
use common::id::RuleSetId;
use common::maps::{self, LAYOUT_VERSION};
use common::net::Addr;
use netlink::{Handle, Netns, Route, read_sysctl, sysctl};
use tests::node::{FAMILIES, Family};
use tests::stage::{Stage, block_on};
use tests::town::{namespace, pod, policy};
use tests::traffic::{Echo, IMPATIENCE, Outcome, PATIENCE, tcp};

const NODE: &str = "node-0";
const WEB: &str = "shop/web";
/// Of the other node.
const FAR: &str = "shop/far";
const STRANGER: &str = "shop/stranger";
const ECHO: u16 = 7000;
/// One second is what it takes; a busy machine is forgiven more.
const PATIENT: Duration = Duration::from_secs(10);

fn shop() -> String {
    [
        namespace("shop", ""),
        pod(WEB, 0, "app: web", "80"),
        pod(FAR, 1, "app: friend", "81"),
        pod(STRANGER, 1, "app: stranger", "81"),
        policy(WEB, "app: web", "ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]"),
    ]
    .concat()
}

struct Ground {
    stage: Stage,
    node: Netns,
    links: Handle,
    name: String,
    ifindex: u32,
}

impl Ground {
    async fn up() -> Self {
        let stage = Stage::up(&shop()).await;
        let node = stage.netns(&format!("node/{NODE}"));
        let links = Handle::in_netns(&node).unwrap();
        let status = stage.sandbox.status(NODE).await.unwrap();
        let web = status.endpoints.iter().find(|endpoint| endpoint.name == WEB).unwrap();
        let (name, ifindex) = (web.ifname.clone(), web.ifindex);
        let ground = Self { stage, node, links, name, ifindex };
        // The agent has seen the endpoint whole, and its programs are where they stay.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        ground
    }

    async fn status(&self) -> Status {
        self.stage.sandbox.status(NODE).await.unwrap()
    }

    fn pins(&self) -> PathBuf {
        self.stage.sandbox.pins(NODE).unwrap().join(format!("layout-{LAYOUT_VERSION}"))
    }

    async fn repaired(&self, kind: &str) -> u64 {
        self.status().await.drift.iter().find(|drift| drift.kind == kind).map_or(0, |drift| drift.repaired)
    }

    /// Waits until one more of this kind was put right and it is so again.
    async fn mended(&self, kind: &str, before: u64, what: &str, right: impl AsyncFn() -> bool) {
        let began = Instant::now();
        loop {
            if right().await && self.repaired(kind).await > before {
                eprintln!("{what}: put right after {:?}", began.elapsed());
                return;
            }
            assert!(began.elapsed() < PATIENT, "{what}: never put right; {:#?}", self.status().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn routes(&self) -> Vec<Route> {
        self.links.own_routes().await.unwrap()
    }

    fn traffic_is_as_the_policy_says(&self) {
        for family in FAMILIES {
            let to = self.stage.address(WEB, family, ECHO);
            assert_eq!(tcp(&self.stage.netns(FAR), to, PATIENCE), Outcome::Answered, "{family:?}");
            assert_eq!(tcp(&self.stage.netns(STRANGER), to, IMPATIENCE), Outcome::Silence, "{family:?}");
        }
    }
}

#[test]
fn whatever_somebody_changes_by_hand_is_put_right() {
    block_on(async {
        let ground = Ground::up().await;
        let _echo = Echo::start(&ground.stage.netns(WEB), ECHO);
        ground.traffic_is_as_the_policy_says();
        assert_eq!(ground.status().await.drift, [], "nothing was wrong");

        routes_and_neighbours(&ground).await;
        settings_and_links(&ground).await;
        maps_and_programs(&ground).await;
        files(&ground).await;

        ground.traffic_is_as_the_policy_says();
        let status = ground.status().await;
        assert_eq!(status.warnings, [""; 0]);
        assert!(status.ready);
        ground.stage.down().await;
    });
}

async fn routes_and_neighbours(ground: &Ground) {
    let ends = [WEB, FAR].map(|end| FAMILIES.map(|family| ground.stage.ip(end, family)));
    let leads_to_one = |route: &Route| ends.iter().flatten().any(|ip| route.destination.contains(ip));
    let mut before = ground.routes().await;
    before.retain(leads_to_one);
    assert_eq!(before.len(), 4, "one to the pod and one to the other node, of each family: {before:?}");
    for route in &before {
        let repaired = ground.repaired("route").await;
        ground.links.delete_route(route).await.unwrap();
        let what = format!("route {route}, deleted");
        ground.mended("route", repaired, &what, async || ground.routes().await.contains(route)).await;
    }
    let known = ground.links.neighbours(ground.ifindex).await.unwrap();
    for neighbour in known.iter().filter(|neighbour| neighbour.permanent) {
        let repaired = ground.repaired("neighbour").await;
        ground.links.add_neighbour(ground.ifindex, neighbour.ip, [2, 0, 0, 0, 0, 9]).await.unwrap();
        let what = format!("neighbour {}, changed", neighbour.ip);
        let right = async || ground.links.neighbours(ground.ifindex).await.unwrap().contains(neighbour);
        ground.mended("neighbour", repaired, &what, right).await;
    }
}

async fn settings_and_links(ground: &Ground) {
    let of_link = |setting: &str| setting.replace("LINK", &ground.name);
    for (setting, wrong) in [
        ("ipv4/conf/LINK/rp_filter", "1"),
        ("ipv4/conf/LINK/forwarding", "0"),
        ("ipv4/conf/LINK/proxy_arp", "1"),
        ("ipv6/conf/LINK/forwarding", "0"),
        ("ipv6/conf/LINK/accept_ra", "2"),
        ("ipv4/ip_forward", "0"),
    ] {
        let setting = of_link(setting);
        let repaired = ground.repaired("setting").await;
        let right = ground.node.run(|| read_sysctl(&setting)).unwrap().unwrap();
        assert_ne!(right, wrong, "{setting}");
        ground.node.run(|| sysctl(&setting, wrong)).unwrap().unwrap();
        let is_right = async || ground.node.run(|| read_sysctl(&setting)).unwrap().unwrap() == right;
        ground.mended("setting", repaired, &setting, is_right).await;
    }
    let (repaired, before) = (ground.repaired("link").await, ground.routes().await);
    ground.links.set_down(ground.ifindex).await.unwrap();
    let right = async || {
        let now = ground.routes().await;
        before.iter().all(|route| now.contains(route))
    };
    ground.mended("link", repaired, "link, set down, and its routes", right).await;
}

async fn maps_and_programs(ground: &Ground) {
    let pin = |folder: &str, name: &str| ground.pins().join(folder).join(name);
    let data = MapData::from_pin(pin("maps", maps::ENDPOINTS)).unwrap();
    let mut rows: HashMap<_, Addr, EndpointRow> = Map::HashMap(data).try_into().unwrap();
    let key = Addr::from(ground.stage.ip(WEB, Family::V4));
    let row = rows.get(&key, 0).unwrap();
    let repaired = ground.repaired("row").await;
    rows.insert(key, EndpointRow { ingress: RuleSetId::OPEN, ..row }, 0).unwrap();
    ground.mended("row", repaired, "row, opened", async || rows.get(&key, 0).unwrap() == row).await;
    let repaired = ground.repaired("row").await;
    rows.remove(&key).unwrap();
    ground.mended("row", repaired, "row, removed", async || rows.get(&key, 0).is_ok()).await;

    for program in ["from_pod", "to_pod"] {
        let repaired = ground.repaired("program").await;
        let link = pin("links", &format!("{program}-{}", ground.ifindex));
        fs::remove_file(&link).unwrap();
        ground.mended("program", repaired, program, async || true).await;
    }
    let underlay = ground.links.links().await.unwrap().into_iter().find(|link| link.name == "eth0").unwrap();
    let repaired = ground.repaired("program").await;
    fs::remove_file(pin("links", &format!("from_net-{}", underlay.index))).unwrap();
    ground.mended("program", repaired, "from_net", async || true).await;
    let repaired = ground.repaired("program").await;
    fs::remove_file(pin("links", "connect4")).unwrap();
    ground.mended("program", repaired, "connect4", async || true).await;
}

async fn files(ground: &Ground) {
    let conflist = ground.stage.folder().join(NODE).join("cni/10-weir.conflist");
    let right = fs::read(&conflist).unwrap();
    let repaired = ground.repaired("conflist").await;
    fs::remove_file(&conflist).unwrap();
    let is_right = async || fs::read(&conflist).is_ok_and(|text| text == right);
    ground.mended("conflist", repaired, "conflist, removed", is_right).await;
}
