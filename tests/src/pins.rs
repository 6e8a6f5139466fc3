//! What the pinned maps hold, read without an agent and without touching anything.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, Map, MapData};
use common::maps::{self, LAYOUT_VERSION};
use policy::Tables;
use policy::tables::{Cidr, RulePrefix};

/// The tables under a folder of pins of our layout.
pub fn tables(pins: &Path) -> Tables {
    let folder = pins.join(format!("layout-{LAYOUT_VERSION}/maps"));
    let open = |name: &str| MapData::from_pin(folder.join(name)).expect("a pinned map");
    let mut tables = Tables {
        endpoints: rows(open(maps::ENDPOINTS)),
        peers: rows(open(maps::PEERS)),
        services: rows(open(maps::SERVICES)),
        backends: rows(open(maps::BACKENDS)),
        ..Tables::default()
    };
    let cidrs = LpmTrie::try_from(Map::LpmTrie(open(maps::CIDRS))).expect("a trie of blocks");
    for row in cidrs.iter() {
        let (key, class) = row.expect("a row");
        tables.cidrs.insert(Cidr { addr: key.data(), bits: key.prefix_len() }, class);
    }
    let rules = LpmTrie::try_from(Map::LpmTrie(open(maps::RULES))).expect("a trie of rules");
    for row in rules.iter() {
        let (key, rule) = row.expect("a row");
        tables.rules.insert(RulePrefix { key: key.data(), bits: key.prefix_len() }, rule);
    }
    tables
}

fn rows<K: aya::Pod + Ord, V: aya::Pod>(data: MapData) -> BTreeMap<K, V> {
    let map = HashMap::<_, K, V>::try_from(Map::HashMap(data)).expect("a table of this kind of rows");
    map.iter().collect::<Result<_, _>>().expect("nobody writes while it is read")
}
