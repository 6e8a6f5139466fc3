//! The ledger by rows, and against its laws with random histories.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn holder(container_id: &str) -> Holder {
    Holder { network: "weir".into(), container_id: container_id.into(), ifname: "eth0".into() }
}

fn ranges(text: &str) -> Vec<IpNet> {
    text.split(' ').map(|range| range.parse().unwrap()).collect()
}

fn ips(text: &str) -> Vec<IpAddr> {
    text.split(' ').filter(|ip| !ip.is_empty()).map(|ip| ip.parse().unwrap()).collect()
}

/// Plays `script` on a new ledger: `+a` allocates for container a, `+a=IP` asks for that address, `-a` releases. What
/// came of each step must be as `expect` says, step by step.
#[track_caller]
fn check(range: &str, script: &str, expect: &[&str]) {
    let (mut ledger, ranges) = (Ledger::default(), ranges(range));
    let mut found = Vec::new();
    for step in script.split(' ') {
        let (name, wanted) = step[1..].split_once('=').unwrap_or((&step[1..], ""));
        found.push(match &step[..1] {
            "+" => match ledger.allocate(&holder(name), &ranges, &ips(&wanted.replace('&', " "))) {
                Ok(given) => list(&given),
                Err(refusal) => refusal.to_string(),
            },
            _ => list(&ledger.release(name, "eth0", 1)),
        });
    }
    assert_eq!(found, expect, "{range}: {script}");
}

#[test]
fn network_and_broadcast_addresses_are_never_given() {
    let full = "all addresses of 10.244.0.0/30 are taken";
    check("10.244.0.0/30", "+a +b +c", &["10.244.0.1", "10.244.0.2", full]);
    check(
        "10.244.0.0/31",
        "+a +b +c",
        &["10.244.0.0", "10.244.0.1", "all addresses of 10.244.0.0/31 are taken"],
    );
    check("10.244.0.7/32", "+a +b", &["10.244.0.7", "all addresses of 10.244.0.7/32 are taken"]);
    check("fd00::/126", "+a +b +c", &["fd00::1", "fd00::2", "fd00::3"]);
    check("255.255.255.255/32", "+a", &["255.255.255.255"]);
}

#[test]
fn each_family_gives_one_address_or_none_does() {
    let both = "10.244.0.0/30 fd00::/64";
    check(both, "+a +b", &["10.244.0.1, fd00::1", "10.244.0.2, fd00::2"]);
    // The IPv6 address of the refused one is not spent.
    check(
        both,
        "+a +b +c -a +c",
        &[
            "10.244.0.1, fd00::1",
            "10.244.0.2, fd00::2",
            "all addresses of 10.244.0.0/30 are taken",
            "10.244.0.1, fd00::1",
            "10.244.0.1, fd00::3",
        ],
    );
}

#[test]
fn ranges_of_one_family_are_used_one_after_the_other() {
    check(
        "10.1.0.0/30 10.2.0.0/30",
        "+a +b +c -a +d +e",
        &["10.1.0.1", "10.1.0.2", "10.2.0.1", "10.1.0.1", "10.2.0.2", "10.1.0.1"],
    );
}

#[test]
fn the_address_released_longest_ago_comes_first() {
    check(
        "10.244.0.0/29",
        "+a +b +c +d +e +f -c -a -b +g +h +i",
        &[
            "10.244.0.1",
            "10.244.0.2",
            "10.244.0.3",
            "10.244.0.4",
            "10.244.0.5",
            "10.244.0.6",
            "10.244.0.3",
            "10.244.0.1",
            "10.244.0.2",
            "10.244.0.3",
            "10.244.0.1",
            "10.244.0.2",
        ],
    );
}

#[test]
fn a_wanted_address_is_given_if_it_is_ours_and_free() {
    check("10.244.0.0/24", "+a=10.244.0.9 +b", &["10.244.0.9", "10.244.0.1"]);
    check(
        "10.244.0.0/24",
        "+a=10.244.0.9 +b=10.244.0.9",
        &["10.244.0.9", "address 10.244.0.9 is held by container a for its eth0"],
    );
    for ip in ["10.244.1.1", "10.244.0.0", "10.244.0.255", "fd00::1"] {
        let refusal = format!("address {ip} is not one that 10.244.0.0/24 can give out");
        check("10.244.0.0/24", &format!("+a={ip}"), &[&refusal]);
    }
    check(
        "10.244.0.0/24",
        "+a=10.244.0.8&10.244.0.9",
        &["addresses 10.244.0.8 and 10.244.0.9 are of one family: an interface gets one of each"],
    );
    check("10.244.0.0/24 fd00::/64", "+a=fd00::9", &["10.244.0.1, fd00::9"]);
}

#[test]
fn an_attachment_that_holds_addresses_gets_no_more_and_keeps_them() {
    check(
        "10.244.0.0/24",
        "+a +a -a -a",
        &[
            "10.244.0.1",
            "container a already holds 10.244.0.1 for its eth0: delete it first",
            "10.244.0.1",
            "",
        ],
    );
}

#[test]
fn what_is_remembered_of_a_large_range_is_bounded() {
    let (mut ledger, ranges) = (Ledger::default(), ranges("fd00::/64"));
    for n in 0..2 * REMEMBERED {
        let name = n.to_string();
        ledger.allocate(&holder(&name), &ranges, &[]).unwrap();
        ledger.release(&name, "eth0", 1);
    }
    assert_eq!(ledger.released.len(), REMEMBERED);
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u8),
    Release(u8),
    Reboot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..12u8).prop_map(Step::Allocate),
        5 => (0..12u8).prop_map(Step::Release),
        1 => Just(Step::Reboot),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    /// Against a naive book-keeping of who has what and when it was given back.
    #[test]
    fn no_address_is_held_twice_and_the_longest_released_comes_first(steps in steps()) {
        let ranges = ranges("10.244.0.0/29 fd00::/125");
        let mut ledger = Ledger::default();
        let mut held: HashMap<u8, Vec<IpAddr>> = HashMap::new();
        let mut released_at: HashMap<IpAddr, usize> = HashMap::new();
        let mut clock = 0;
        for step in steps {
            match step {
                Step::Allocate(name) => {
                    let in_use: HashSet<IpAddr> = held.values().flatten().copied().collect();
                    match ledger.allocate(&holder(&name.to_string()), &ranges, &[]) {
                        Ok(given) => {
                            prop_assert_eq!(given.len(), 2);
                            for (ip, range) in given.iter().zip(&ranges) {
                                prop_assert!(!in_use.contains(ip));
                                prop_assert!(is_usable(range, *ip));
                                let free = addresses(range).filter(|ip| !in_use.contains(ip));
                                let oldest = free.map(|ip| released_at.get(&ip).copied().unwrap_or(0)).min();
                                prop_assert_eq!(oldest, Some(released_at.get(ip).copied().unwrap_or(0)));
                            }
                            prop_assert!(held.insert(name, given).is_none());
                        }
                        Err(Refusal::AlreadyHeld { .. }) => prop_assert!(held.contains_key(&name)),
                        Err(Refusal::Full { .. }) => prop_assert_eq!(held.len(), 6),
                        Err(other) => prop_assert!(false, "{}", other),
                    }
                }
                Step::Release(name) => {
                    let given_back = ledger.release(&name.to_string(), "eth0", 1);
                    prop_assert_eq!(&given_back, &held.remove(&name).unwrap_or_default());
                    for ip in given_back {
                        clock += 1;
                        released_at.insert(ip, clock);
                    }
                }
                Step::Reboot => {
                    ledger.release_everything(1);
                    clock += 1;
                    // The ledger releases them in the order of their addresses.
                    let mut all: Vec<IpAddr> = held.drain().flat_map(|(_, ips)| ips).collect();
                    all.sort();
                    for ip in all {
                        clock += 1;
                        released_at.insert(ip, clock);
                    }
                }
            }
            let text = serde_json::to_string(&ledger).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Ledger>(&text).unwrap(), &ledger);
        }
    }
}
