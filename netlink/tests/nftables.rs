//! Tables of nf_tables against the real kernel, in namespaces of their own. Needs root.

use netlink::Netns;
use netlink::nftables::{Chain, Expression, Family, Field, Hook, Nftables, Register, Set, Table, Words};

const A: Register = Register::A;

/// Masquerades what has `mark`.
fn table(name: &'static str, mark: u32) -> Table {
    let mark = mark.to_ne_bytes().to_vec();
    let rule = vec![
        Expression::Mark { into: A },
        Expression::Mask { register: A, mask: mark.clone() },
        Expression::Equal { register: A, value: mark },
        Expression::OutInterface { into: A },
        Expression::Differs { register: A, value: b"weir".to_vec() },
        Expression::Masquerade,
    ];
    let chain = |name, hook, rules| Chain { name, hook, rules };
    let chains = vec![
        chain("prerouting", Hook::Prerouting, vec![translation()]),
        chain("output", Hook::Output, vec![]),
        chain("postrouting", Hook::Postrouting, vec![rule]),
    ];
    let key = Words::default().protocol(6).port(8080);
    let value = Words::default().address([10, 244, 0, 2].into()).port(80);
    let ports = Set {
        name: "ports",
        key: &[Field::Protocol, Field::Port],
        value: &[Field::V4, Field::Port],
        rows: vec![(key, value)],
    };
    Table { name, sets: vec![ports], chains }
}

/// What is sent to a port in the map goes where the map says.
fn translation() -> Vec<Expression> {
    let (to, port) = (Register::word(10), Register::word(11));
    vec![
        Expression::Family { into: A },
        Expression::Equal { register: A, value: vec![Family::V4.number()] },
        Expression::Protocol { into: A },
        Expression::DestinationPort { into: Register::word(1) },
        Expression::Lookup { set: "ports", key: A, into: Some(to) },
        Expression::Translate { family: Family::V4, address: to, port },
    ]
}

fn inside(test: impl FnOnce(Nftables) + Send) {
    let netns = Netns::new_anonymous().expect("these tests need root, because they make network namespaces");
    netns.run(|| test(Nftables::new().unwrap())).unwrap();
}

#[test]
fn a_table_is_replaced_whole_and_read_back() {
    inside(|nftables| {
        assert_eq!(nftables.read("weir").unwrap(), None);
        nftables.replace(&table("weir", 1 << 24)).unwrap();
        let first = nftables.read("weir").unwrap().expect("a table");
        nftables.replace(&table("weir", 1 << 25)).unwrap();
        let second = nftables.read("weir").unwrap().expect("a table");
        assert_ne!(first, second, "another mark");
        nftables.replace(&table("weir", 1 << 24)).unwrap();
        assert_eq!(nftables.read("weir").unwrap(), Some(first), "nothing of what was there before is left");
    });
}

#[test]
fn a_change_by_others_shows_and_their_tables_are_left_alone() {
    inside(|nftables| {
        nftables.replace(&table("theirs", 1)).unwrap();
        let theirs = nftables.read("theirs").unwrap();
        nftables.replace(&table("weir", 1)).unwrap();
        let ours = nftables.read("weir").unwrap();
        assert_eq!(ours.as_ref(), theirs.as_ref(), "a name makes no difference to what is in it");

        let mut other = table("weir", 1);
        other.sets[0].rows[0].1 = Words::default().address([10, 244, 0, 3].into()).port(80);
        nftables.replace(&other).unwrap();
        assert_ne!(nftables.read("weir").unwrap(), ours, "another row of a map");

        let mut fewer = table("weir", 1);
        fewer.chains[2].rules.clear();
        nftables.replace(&fewer).unwrap();
        assert_ne!(nftables.read("weir").unwrap(), ours);
        fewer.chains.clear();
        nftables.replace(&fewer).unwrap();
        assert!(nftables.read("weir").unwrap().is_some_and(|none| Some(none) != ours));

        nftables.remove("weir").unwrap();
        assert_eq!(nftables.read("weir").unwrap(), None);
        nftables.remove("weir").unwrap();
        assert_eq!(nftables.read("theirs").unwrap(), theirs);
    });
}

#[test]
fn a_table_that_the_kernel_refuses_leaves_the_last_one_in_force() {
    inside(|nftables| {
        nftables.replace(&table("weir", 1)).unwrap();
        let before = nftables.read("weir").unwrap();
        let mut wrong = table("weir", 2);
        // No interface is left yet when a packet comes in.
        wrong.chains[0].rules.push(vec![Expression::Masquerade]);
        let error = nftables.replace(&wrong).unwrap_err();
        assert_eq!(error.to_string(), "replace the nf_tables table inet weir");
        assert!(error.errno().is_some(), "{error:?}");
        assert_eq!(nftables.read("weir").unwrap(), before);
    });
}
