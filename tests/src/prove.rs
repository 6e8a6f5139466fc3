//! Series of random worlds before the judges, until the time is up or somebody disagrees.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use policy::Flow;
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::judges::{Agreed, Dissent, Judges};
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

/// Judges for so long or until it is `over`, from this seed on, on so many threads; `progress` is called once in a while.
/// The error is what there is to say about the first disagreement.
pub fn prove(
    seed: u64,
    duration: Duration,
    threads: usize,
    over: &AtomicBool,
    progress: impl Fn(Tally) + Sync,
) -> Result<Tally, String> {
    let deadline = Instant::now() + duration;
    let (next, counting) = (AtomicU64::new(seed), Counting::default());
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (next, counting, failure, progress) = (&next, &counting, &failure, &progress);
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
                        if let Err(failed) = series(&mut judges, seed, counting) {
                            over.store(true, Ordering::Relaxed);
                            drop(judges);
                            let report = report(seed, &failed);
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

/// A disagreement, where it showed, and what was there before.
struct Failure {
    before: Scene,
    scene: Scene,
    dissent: Dissent,
}

/// Scenes that follow from each other, and flows in each.
fn series(judges: &mut Judges, seed: u64, counting: &Counting) -> Result<(), Box<Failure>> {
    let mut dice = Dice(seed);
    let mut scene = worlds::scene(&mut dice);
    let mut before = Scene::default();
    judges.start_over();
    for _ in 0..SCENES {
        let flows = worlds::flows(&mut dice, &scene, FLOWS);
        let agreed = match judged(judges, &scene, &flows) {
            Ok(agreed) => agreed.expect("a scene is made of objects"),
            Err(dissent) => return Err(Box::new(Failure { before, scene, dissent })),
        };
        counting.pairs.fetch_add(agreed.flows as u64, Ordering::Relaxed);
        counting.allowed.fetch_add(agreed.allowed as u64, Ordering::Relaxed);
        counting.worlds.fetch_add(1, Ordering::Relaxed);
        before = scene.clone();
        worlds::happen(&mut dice, &mut scene);
        if dice.happens(20) {
            // The agent takes in what has queued up, and plans once.
            worlds::happen(&mut dice, &mut scene);
        }
    }
    Ok(())
}

/// `None` if an object of the scene is none. A judge that panics disagrees.
fn judged(judges: &mut Judges, scene: &Scene, flows: &[Flow]) -> Result<Option<Agreed>, Dissent> {
    let judge = || match judges.turn_to(scene)? {
        true => judges.ask(flows).map(Some),
        false => Ok(None),
    };
    catch_unwind(AssertUnwindSafe(judge)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        Err(Dissent { flow: None, between: format!("one of them panicked: {}", said.unwrap_or_default()) })
    })
}

/// The disagreement, in the smallest world that shows it, or on the smallest way from one world to another.
fn report(seed: u64, failure: &Failure) -> String {
    let Failure { before, scene, dissent } = failure;
    // Every candidate may panic once more, and once was enough.
    std::panic::set_hook(Box::new(|_| {}));
    let mut judges = Judges::new();
    let (dissent, world) = if let Some((scene, dissent)) = smallest(&mut judges, scene, dissent, |_| {}) {
        (dissent, format!("smallest world that shows it:\n{}", scene.yaml()))
    } else if let Some((before, scene, dissent)) = smallest_way(&mut judges, before, scene, dissent) {
        let (before, scene) = (before.yaml(), scene.yaml());
        (dissent, format!("only on the way from this world\n{before}\nto this one\n{scene}"))
    } else {
        let (before, scene) = (before.yaml(), scene.yaml());
        let world = format!(
            "not shown by the last step alone, which led from this world\n{before}\nto this one\n{scene}"
        );
        (dissent.clone(), world)
    };
    drop(std::panic::take_hook());
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
    let mut last = None;
    let mut shows = |scene: &Scene| {
        judges.start_over();
        let mut found = judged(judges, scene, &[]);
        if let (Ok(Some(_)), Some(flow)) = (&found, dissent.flow) {
            meddle(judges);
            found = judges.ask(&[flow]).map(Some);
        }
        note(&mut last, found)
    };
    let scene = shows(scene).then(|| shrink(scene, SHRINKING, &mut shows))?;
    // Once more, for the words of this very scene.
    shows(&scene);
    Some((scene, last?))
}

/// Where it shows only when one world follows from another: the smallest two.
fn smallest_way(
    judges: &mut Judges,
    before: &Scene,
    scene: &Scene,
    dissent: &Dissent,
) -> Option<(Scene, Scene, Dissent)> {
    let flows: Vec<Flow> = dissent.flow.into_iter().collect();
    let mut last = None;
    let mut shows = |both: &Scene| {
        let [before, scene] = BOTH.map(|part| part_of(both, part));
        judges.start_over();
        // What shows in the first world already is another matter.
        matches!(judged(judges, &before, &[]), Ok(Some(_))) && note(&mut last, judged(judges, &scene, &flows))
    };
    let both = both(before, scene);
    let both = shows(&both).then(|| shrink(&both, SHRINKING, &mut shows))?;
    shows(&both);
    let [before, scene] = BOTH.map(|part| part_of(&both, part));
    Some((before, scene, last?))
}

fn note<T>(last: &mut Option<Dissent>, found: Result<T, Dissent>) -> bool {
    let dissent = found.err();
    let shown = dissent.is_some();
    *last = dissent.or(last.take());
    shown
}

const BOTH: [&str; 2] = ["before", "after"];

/// Two scenes as one, for [`shrink`]: what is the same in both is in it once.
fn both(before: &Scene, after: &Scene) -> Scene {
    let same = before.objects.iter().filter(|object| after.objects.contains(object));
    let mut objects: Vec<Value> = same.map(|object| json!({"both": object})).collect();
    for (part, scene, other) in [(BOTH[0], before, after), (BOTH[1], after, before)] {
        let own = scene.objects.iter().filter(|object| !other.objects.contains(object));
        objects.extend(own.map(|object| json!({part: object})));
    }
    Scene { objects }
}

fn part_of(both: &Scene, part: &str) -> Scene {
    let objects = both.objects.iter().filter_map(|object| object.get("both").or_else(|| object.get(part)));
    Scene { objects: objects.cloned().collect() }
}
