//! What Weir has to reach, and whether it did.

use serde::Serialize;

use crate::attach::Times;
use crate::layout::{Distance, Layout};
use crate::load::Kind;
use crate::rounds::{Cell, Sample, ratios};
use crate::statistics::Summary;

/// One promise, checked.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) wanted: String,
    pub(crate) found: f64,
    pub(crate) met: bool,
}

/// Conntrack and policy on.
const JUDGED: Layout = Layout::Weir { policies: 10 };
const OPEN: Layout = Layout::Weir { policies: 0 };
const MANY: Layout = Layout::Weir { policies: 1000 };

/// Every target for which there are figures.
pub(crate) fn check(cells: &[Cell], samples: &[Sample], times: &[Times]) -> Vec<Target> {
    let mut targets = Vec::new();
    let median = |layout, distance, kind| {
        let cell = cells.iter().find(|it| (it.layout, it.distance, it.kind) == (layout, distance, kind))?;
        Some(cell.ratio.median)
    };
    for (distance, kind, limit) in [
        (Distance::SameNode, Kind::RequestResponse, Limit::AtMost(1.08)),
        (Distance::SameNode, Kind::Connect, Limit::AtMost(1.15)),
        (Distance::SameNode, Kind::Stream(1), Limit::AtLeast(0.93)),
        (Distance::AcrossNodes, Kind::RequestResponse, Limit::AtMost(1.18)),
        (Distance::AcrossNodes, Kind::Connect, Limit::AtMost(1.22)),
    ] {
        let what = format!("{}, {} against the raw pair", kind.title(), title(distance));
        targets.extend(median(JUDGED, distance, kind).map(|found| limit.check(what, found)));
    }
    for distance in Distance::ALL {
        // Four streams on two cores are too noisy to be held to anything.
        for kind in [Kind::RequestResponse, Kind::Connect, Kind::Stream(1)] {
            let limit = match kind {
                Kind::Stream(_) => Limit::AtLeast(1.0),
                _ => Limit::AtMost(1.0),
            };
            let what = format!("{}, {} against the bridge plugin", kind.title(), title(distance));
            let both = (median(JUDGED, distance, kind), median(Layout::Bridge, distance, kind));
            if let (Some(ours), Some(bridge)) = both {
                targets.push(limit.check(what, ours / bridge));
            }
        }
    }
    let connects = |layout| {
        samples.iter().filter(move |it| {
            (it.layout, it.distance, it.kind) == (layout, Distance::SameNode, Kind::Connect)
        })
    };
    if let Some(rate) = Summary::of(ratios(connects(MANY), connects(OPEN), Sample::rate)) {
        let what = "connect rate with 1,000 policies against none".to_owned();
        targets.push(Limit::AtLeast(0.95).check(what, rate.median));
    }
    let add = |layout: Layout| times.iter().find(|it| it.layout == layout.slug()).map(|it| it.add.p50);
    if let (Some(ours), Some(bridge)) = (add(JUDGED), add(Layout::Bridge)) {
        let what = "CNI ADD p50 against bridge + host-local".to_owned();
        targets.push(Limit::AtMost(0.5).check(what, ours / bridge));
    }
    targets
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn check(self, what: String, found: f64) -> Target {
        let (wanted, met) = match self {
            Self::AtMost(limit) => (format!("≤ {limit:.2}"), found <= limit),
            Self::AtLeast(limit) => (format!("≥ {limit:.2}"), found >= limit),
        };
        Target { what, wanted, found, met }
    }
}

pub(crate) fn title(distance: Distance) -> &'static str {
    match distance {
        Distance::SameNode => "same node",
        Distance::AcrossNodes => "across nodes",
    }
}
