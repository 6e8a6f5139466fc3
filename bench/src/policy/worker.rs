//! One world in a process of its own: what the agent's loop does with each event, without the loop.
//!
//! The same code path as in `weir-agent`: a `World` takes the object in, a `Compiler` makes the plan, a `Dataplane` writes it
//! into real maps. Objects are made before the clock runs, and let go of as a watch does.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dataplane::{Capacities, Dataplane, Options};
use policy::tables::MapOp;
use policy::{Compiler, Object, World};
use serde::{Deserialize, Serialize};

use super::memory::{self, Maps};
use super::shape::{self, Shape, Variant};
use crate::place;
use crate::statistics::quantile;

/// Events of one kind, at most, and for how long.
const EVENTS: u32 = 300;
const PATIENCE: Duration = Duration::from_secs(6);
/// A world that takes longer than this is not compiled from nothing once more.
const TOO_LONG: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The world, as JSON
    world: String,
    /// Rows that the map RULES has room for
    #[arg(long)]
    rules: Option<u32>,
}

/// What came out of one world.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) shape: Shape,
    /// Rows that `RULES` has room for, where it is not the usual number.
    pub(crate) room: Option<u32>,
    /// Before the first object, bytes.
    pub(crate) rss_empty: u64,
    /// With the world in force, bytes; and after all events.
    pub(crate) rss: u64,
    pub(crate) rss_after: u64,
    pub(crate) maps: Maps,
    pub(crate) classes: usize,
    pub(crate) rule_sets: usize,
    pub(crate) rules: usize,
    pub(crate) peers: usize,
    pub(crate) cidrs: usize,
    /// `compile` of the world into tables, which knows nothing of before, milliseconds; absent where it takes too long.
    pub(crate) from_nothing_ms: Option<f64>,
    /// The first update of the compiler that remembers, milliseconds.
    pub(crate) first_ms: f64,
    pub(crate) first_apply_ms: f64,
    pub(crate) events: Vec<Events>,
    /// Where the world does not fit: what is said, and how long it took to say so.
    pub(crate) refusal: Option<Refusal>,
}

impl Outcome {
    pub(crate) fn events_of(&self, kind: &str) -> Option<&Events> {
        self.events.iter().find(|events| events.kind == kind)
    }
}

/// What events of one kind cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Events {
    pub(crate) kind: String,
    pub(crate) count: usize,
    /// From the object in hand to the last map write, milliseconds.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Of which compiling and planning.
    pub(crate) compile_p50_ms: f64,
    pub(crate) compile_p99_ms: f64,
    /// Rows written or removed, the epoch apart.
    pub(crate) writes_p50: f64,
    pub(crate) writes_max: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) ms: f64,
    /// The generation before and after: the same.
    pub(crate) generations: (u64, u64),
    /// How many policies had to go until the rest was taken up.
    pub(crate) removed: Option<u32>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // As the agent does.
    dataplane::one_heap();
    place::die_with_parent()?;
    let shape: Shape = serde_json::from_str(&args.world).context("the world is no JSON of a world")?;
    let pins = Path::new(place::FILES).join(format!("policy-{}", std::process::id()));
    place::mount_bpffs(&pins)?;
    let outcome = measure(shape, args.rules, &pins)?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// A node without packets.
struct Node {
    world: World,
    compiler: Compiler,
    dataplane: Dataplane,
}

/// One event: how long until the plan was there, how long until it was in the maps, and how many rows that took.
struct Taken {
    compile: Duration,
    whole: Duration,
    writes: usize,
}

impl Node {
    fn settle(&mut self, began: Instant) -> Result<Taken> {
        let update = self.compiler.update(&mut self.world, self.dataplane.tables());
        let compile = began.elapsed();
        self.dataplane.apply(&update.plan)?;
        self.compiler.carried_out();
        let writes = update.plan.iter().filter(|op| **op != MapOp::AdvanceEpoch).count();
        Ok(Taken { compile, whole: began.elapsed(), writes })
    }

    fn take(&mut self, event: Event) -> Result<Taken> {
        let began = Instant::now();
        match event {
            Event::Apply(object) => self.world.apply(object, &[]),
            Event::Delete(object) => self.world.delete(&object.key()),
        }
        self.settle(began)
    }
}

enum Event {
    Apply(Object),
    Delete(Object),
}

fn measure(shape: Shape, room: Option<u32>, pins: &Path) -> Result<Outcome> {
    let capacities = Capacities(room.map(|rows| (common::maps::RULES, rows)).into_iter().collect());
    let options = Options { pins: pins.to_owned(), capacities, ..Options::default() };
    let dataplane = Dataplane::open(&options).context("open a datapath")?;
    let mut node = Node { world: World::new("node-0"), compiler: Compiler::new(), dataplane };
    let rss_empty = memory::rss()?;

    for index in 0..shape::NAMESPACES {
        node.world.apply(shape.namespace(index, index), &[]);
    }
    for index in 0..shape.pods {
        node.world.apply(shape.pod(index, index), &[]);
    }
    for index in 0..shape::LOCAL.min(shape.pods) {
        node.world.attach(shape.attachment(index));
    }
    if room.is_some() {
        // So that there is a last good generation.
        node.settle(Instant::now())?;
    }
    for index in 0..shape.policies {
        node.world.apply(shape.policy(index, Variant::default()), &[]);
    }

    let before = node.dataplane.config()?.generation;
    let began = Instant::now();
    let update = node.compiler.update(&mut node.world, node.dataplane.tables());
    let first_ms = ms(began.elapsed());
    let began = Instant::now();
    let applied = node.dataplane.apply(&update.plan);
    let first_apply_ms = ms(began.elapsed());
    let mut refusal = None;
    match applied {
        Ok(()) => drop(node.compiler.carried_out()),
        Err(error) => {
            let generations = (before, node.dataplane.config()?.generation);
            ensure!(generations.0 == generations.1, "refused, and yet written: {generations:?}");
            let message = format!("{:#}", anyhow::Error::from(error));
            let removed = if room.is_some() { shrink(&mut node, &shape)? } else { None };
            refusal = Some(Refusal { message, ms: first_apply_ms, generations, removed });
        }
    }
    drop(update);
    let mut outcome = Outcome {
        shape,
        room,
        rss_empty,
        rss: memory::rss()?,
        rss_after: 0,
        maps: memory::maps()?,
        classes: 0,
        rule_sets: 0,
        rules: 0,
        peers: 0,
        cidrs: 0,
        from_nothing_ms: None,
        first_ms,
        first_apply_ms,
        events: Vec::new(),
        refusal,
    };
    outcome.count(&node);
    if outcome.refusal.is_none() {
        outcome.events = events(&mut node, &shape)?;
    }
    outcome.rss_after = memory::rss()?;
    if Duration::from_secs_f64(first_ms / 1e3) < TOO_LONG {
        let began = Instant::now();
        let compiled = policy::compile(&node.world);
        outcome.from_nothing_ms = Some(ms(began.elapsed()));
        ensure!(
            outcome.refusal.is_some() || compiled.tables == *node.dataplane.tables(),
            "the maps do not hold what the world compiles to"
        );
    }
    Ok(outcome)
}

/// Takes policies away until the rest fits, half of them each time. How many.
fn shrink(node: &mut Node, shape: &Shape) -> Result<Option<u32>> {
    let mut left = shape.policies;
    while left > 0 {
        let next = left / 2;
        for index in next..left {
            node.world.delete(&shape.policy(index, Variant::default()).key());
        }
        left = next;
        if node.settle(Instant::now()).is_ok() {
            return Ok(Some(shape.policies - left));
        }
    }
    bail!("not even a world without policies fits")
}

impl Outcome {
    fn count(&mut self, node: &Node) {
        let tables = node.dataplane.tables();
        let mut classes: Vec<_> = tables.peers.values().chain(tables.cidrs.values()).collect();
        classes.sort_unstable();
        classes.dedup();
        self.classes = classes.len();
        let mut sets: Vec<_> = tables.endpoints.values().flat_map(|row| [row.ingress, row.egress]).collect();
        sets.sort_unstable();
        sets.dedup();
        self.rule_sets = sets.iter().filter(|set| !set.is_open()).count();
        (self.rules, self.peers, self.cidrs) = (tables.rules.len(), tables.peers.len(), tables.cidrs.len());
    }
}

/// Every kind of event, and each undone by the next of its kind, so that the world stays as large as it is.
fn events(node: &mut Node, shape: &Shape) -> Result<Vec<Events>> {
    let (pods, local) = (shape.pods, shape::LOCAL.min(shape.pods));
    // A pod of another node, and one that has its labels.
    let other = |n: u32| local + n * 7919 % (pods - local).max(1);
    let policy = |n: u32, variant| Event::Apply(shape.policy(shape.policy_in_use(n / 2 * 37), variant));
    let odd = |n: u32| n % 2;
    let kinds: [(&str, &dyn Fn(u32) -> Event); 9] = [
        ("pod comes, class known", &|n| Event::Apply(shape.pod(pods + n, other(n)))),
        ("pod goes", &|n| Event::Delete(shape.pod(pods + n, other(n)))),
        ("pod relabelled, class known", &|n| {
            let (pod, neighbour) = shape.neighbours(n / 2).unwrap_or((local, local));
            Event::Apply(shape.pod(pod, if odd(n) == 0 { neighbour } else { pod }))
        }),
        ("local pod relabelled", &|n| {
            let (pod, application) = (n / 2 % local, shape.applications());
            let like = (pod + application * (1 + n / 2 % 7)) % pods;
            let same = like % application == pod % application;
            Event::Apply(shape.pod(pod, if odd(n) == 0 && same { like } else { pod }))
        }),
        ("policy: other ports", &|n| policy(n, Variant { port: 1 - n as i32 % 2, ..Variant::default() })),
        ("policy: peers known elsewhere", &|n| {
            policy(n, Variant { peers_of: 1 - odd(n), ..Variant::default() })
        }),
        ("policy: a new selector", &|n| {
            policy(n, Variant { novel: (odd(n) == 0).then_some(n), ..Variant::default() })
        }),
        ("policy goes and comes", &|n| {
            let object = shape.policy(shape.policy_in_use(n / 2 * 37), Variant::default());
            if odd(n) == 0 { Event::Delete(object) } else { Event::Apply(object) }
        }),
        ("namespace relabelled", &|n| {
            let namespace = n / 2 % shape::NAMESPACES;
            Event::Apply(shape.namespace(namespace, namespace + 1 - odd(n)))
        }),
    ];
    let exists = |name: &str| !name.starts_with("pod relabelled") || shape.neighbours(0).is_some();
    kinds.iter().filter(|(name, _)| exists(name)).map(|(name, event)| of_kind(node, name, event)).collect()
}

fn of_kind(node: &mut Node, kind: &str, event: &dyn Fn(u32) -> Event) -> Result<Events> {
    let began = Instant::now();
    let mut taken = Vec::new();
    for n in 0..EVENTS {
        // Not in the middle of a pair.
        if began.elapsed() > PATIENCE && n % 2 == 0 && n >= 4 {
            break;
        }
        taken.push(node.take(event(n)).with_context(|| kind.to_owned())?);
    }
    let sorted = |value: &dyn Fn(&Taken) -> f64| {
        let mut values: Vec<f64> = taken.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let whole = sorted(&|taken| ms(taken.whole));
    let compile = sorted(&|taken| ms(taken.compile));
    let writes = sorted(&|taken| taken.writes as f64);
    let at = |values: &[f64], share| quantile(values, share).unwrap_or(f64::NAN);
    Ok(Events {
        kind: kind.to_owned(),
        count: taken.len(),
        p50_ms: at(&whole, 0.5),
        p99_ms: at(&whole, 0.99),
        compile_p50_ms: at(&compile, 0.5),
        compile_p99_ms: at(&compile, 0.99),
        writes_p50: at(&writes, 0.5),
        writes_max: taken.iter().map(|taken| taken.writes).max().unwrap_or(0),
    })
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
