//! The kernel program itself, through `BPF_PROG_TEST_RUN`: it never lets a packet pass that the second parser and
//! [`Tables::lookup`](policy::Tables::lookup) deny, its verdicts agree with their reasons, and each frame is counted once.
//!
//! Coverage comes from the host's side, where the same parser runs over the same frame.

use std::cell::RefCell;
use std::collections::BTreeMap;

use common::packet::{Memory, Packet, parse};
use dataplane::{Action, Trial};

use crate::model::{Model, Pods, Reason};
use crate::script::{Place, Sent, Step, records};
use crate::town::Town;

thread_local! {
    static TOWN: RefCell<Option<Town>> = const { RefCell::new(None) };
}

/// The longest frame that the kernel tries out is a page, less some room.
const LONGEST_FRAME: usize = 3000;

/// `input`: see [`crate::script`]. Needs root.
pub fn check(input: &[u8]) {
    TOWN.with_borrow_mut(|town| play(town.get_or_insert_with(Town::new), input));
}

fn play(town: &mut Town, input: &[u8]) {
    let (policies, records) = records(input);
    town.begin(policies);
    let (mut sent, mut model) = (Sent::default(), Model::default());
    for record in records {
        match sent.step(record, |number| town.party(number)) {
            Step::Policies(policies) => town.put_in_force(policies),
            Step::Frame(place, frame) if can_be_tried(&frame) => meet(town, &mut model, place, &frame),
            Step::Frame(..) => {}
        }
    }
}

fn meet(town: &mut Town, model: &mut Model, place: Place, frame: &[u8]) {
    // For the coverage.
    parse(Memory::new(frame, frame.len()), &mut Packet::default());
    let pods = Pods([town.ifindex(0), town.ifindex(1)]);
    let allowed = model.may(town.tables(), &pods, place, frame);
    let before = counters(town);
    let (program, ifindex, ingress_ifindex) = match place {
        Place::FromPod(pod) => ("from_pod", town.ifindex(pod), town.ifindex(pod)),
        Place::Forwarded(pod) => ("to_pod", town.ifindex(pod), town.node.underlay),
        Place::FromNode(pod) => ("to_pod", town.ifindex(pod), 0),
        Place::FromNet => ("from_net", town.node.underlay, town.node.underlay),
    };
    let trial = Trial { program, frame, ifindex, ingress_ifindex, repeat: 1 };
    let action = town.node.dataplane.try_out(&trial).expect("the kernel tries the frame out").action;
    let about = || format!("{place:?} {frame:02x?}\nmet {action:?}\nmay {allowed:?}");
    let counted: Vec<(Reason, u64, u64)> = counters(town)
        .into_iter()
        .map(|(reason, (packets, bytes))| {
            let (old_packets, old_bytes) = before.get(&reason).copied().unwrap_or_default();
            (reason, packets - old_packets, bytes - old_bytes)
        })
        .filter(|(_, packets, bytes)| *packets != 0 || *bytes != 0)
        .collect();
    let [(reason, 1, bytes)] = counted[..] else { panic!("counted {counted:?}: {}", about()) };
    assert_eq!(bytes, frame.len() as u64, "bytes counted: {}", about());
    assert_eq!(action != Action::Drop, matches!(reason, Reason::Pass(_)), "verdict and reason: {}", about());
    assert!(allowed.reasons.contains(&reason), "{reason:?}: {}", about());
    model.met(allowed, reason);
}

/// Packets and bytes of each reason so far.
fn counters(town: &Town) -> BTreeMap<Reason, (u64, u64)> {
    let counters = town.node.dataplane.counters().expect("read the counters").into_iter();
    counters
        .filter_map(|counter| Some((Reason::named(counter.name)?, (counter.packets, counter.bytes))))
        .collect()
}

/// The kernel itself refuses to try out a frame without a whole IP header.
fn can_be_tried(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        Some(_) => 15,
        None => return false,
    };
    (least..LONGEST_FRAME).contains(&frame.len())
}
