//! Series of random worlds before the judges, until the time is up or somebody disagrees.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use policy::Flow;

use crate::dice::Dice;
use crate::judges::{Dissent, Judges};
use crate::scene::Scene;
use crate::shrink::shrink;
use crate::worlds;

/// Scenes that follow from each other before a new one comes out of nothing.
const SCENES: usize = 10;
/// Flows judged in each scene.
const FLOWS: usize = 100;
/// Scenes looked at for the smallest that shows a disagreement.
const SHRINKING: usize = 3000;

/// What was judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// (world, flow).
    pub pairs: u64,
    pub allowed: u64,
    pub worlds: u64,
}

#[derive(Debug, Default)]
struct Counting {
    pairs: AtomicU64,
    allowed: AtomicU64,
    worlds: AtomicU64,
}

impl Counting {
    fn tally(&self) -> Tally {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Tally { pairs: read(&self.pairs), allowed: read(&self.allowed), worlds: read(&self.worlds) }
    }
}

/// Judges for so long, from this seed on, on so many threads; `progress` is called once in a while. The error is what there
/// is to say about the first disagreement.
pub fn prove(
    seed: u64,
    duration: Duration,
    threads: usize,
    progress: impl Fn(Tally) + Sync,
) -> Result<Tally, String> {
    let deadline = Instant::now() + duration;
    let (next, counting, over) = (AtomicU64::new(seed), Counting::default(), AtomicBool::new(false));
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (next, counting, over, failure, progress) = (&next, &counting, &over, &failure, &progress);
            scope.spawn(move || {
                let mut reported = Instant::now();
                // However slow the machine: each thread judges a series.
                let begun = Cell::new(false);
                let goes_on =
                    || !begun.replace(true) || Instant::now() < deadline && !over.load(Ordering::Relaxed);
                while goes_on() {
                    // Made anew only when the old ones are gone: each brings its thread back to where it was.
                    let mut judges = Judges::new();
                    while judges.have_room_for(SCENES * FLOWS) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if let Err((scene, before, dissent)) = series(&mut judges, seed, counting) {
                            over.store(true, Ordering::Relaxed);
                            drop(judges);
                            let report = report(seed, before.as_ref(), &scene, &dissent);
                            failure.lock().expect("no thread panics with it").get_or_insert(report);
                            return;
                        }
                        if thread == 0 && reported.elapsed() > Duration::from_secs(5) {
                            reported = Instant::now();
                            progress(counting.tally());
                        }
                        if !goes_on() {
                            return;
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner().expect("as above") {
        Some(report) => Err(report),
        None => Ok(counting.tally()),
    }
}

/// Scenes that follow from each other, and flows in each.
fn series(
    judges: &mut Judges,
    seed: u64,
    counting: &Counting,
) -> Result<(), (Scene, Option<Scene>, Dissent)> {
    let mut dice = Dice(seed);
    let mut scene = worlds::scene(&mut dice);
    let mut before = None;
    for _ in 0..SCENES {
        let flows: Vec<Flow> = (0..FLOWS).map(|_| worlds::flow(&mut dice)).collect();
        let judged = judges.turn_to(&scene).and_then(|()| judges.ask(&flows));
        let allowed = match judged {
            Ok(allowed) => allowed,
            Err(dissent) => return Err((scene, before, dissent)),
        };
        counting.pairs.fetch_add(flows.len() as u64, Ordering::Relaxed);
        counting.allowed.fetch_add(allowed as u64, Ordering::Relaxed);
        counting.worlds.fetch_add(1, Ordering::Relaxed);
        before = Some(scene.clone());
        worlds::happen(&mut dice, &mut scene);
    }
    Ok(())
}

/// The disagreement, in the smallest world that shows it.
fn report(seed: u64, before: Option<&Scene>, scene: &Scene, dissent: &Dissent) -> String {
    let smallest = smallest(&mut Judges::new(), scene, dissent, |_| {});
    let (world, dissent) = match &smallest {
        Some((scene, dissent)) => (format!("smallest world that shows it:\n{}", scene.yaml()), dissent),
        None => {
            let before = before.map_or_else(|| "an earlier series".to_owned(), Scene::yaml);
            let way = format!("only on the way from\n{before}\nto\n{}", scene.yaml());
            (way, dissent)
        }
    };
    format!(
        "the judges do not agree. Seed {seed}: `cargo xtask prove --seed {seed}` shows it again.\n{dissent}\n{world}"
    )
}

/// Where the disagreement shows in a world out of nothing: the smallest of those. `meddle` may spoil the node first.
pub fn smallest(
    judges: &mut Judges,
    scene: &Scene,
    dissent: &Dissent,
    mut meddle: impl FnMut(&mut Judges),
) -> Option<(Scene, Dissent)> {
    let flow = dissent.flow?;
    let mut last = None;
    let mut shows = |scene: &Scene| {
        if !judges.start_at(scene) {
            return false;
        }
        meddle(judges);
        let dissent = judges.ask(&[flow]).err();
        let shown = dissent.is_some();
        last = dissent.or(last.take());
        shown
    };
    if !shows(scene) {
        return None;
    }
    let scene = shrink(scene, SHRINKING, &mut shows);
    // Once more, for the words of this very scene.
    shows(&scene);
    Some((scene, last?))
}
