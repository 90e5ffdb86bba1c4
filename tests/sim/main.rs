//! The simulator: the whole gateway and a cloud broker in virtual time, against a network, a disk, a device and
//! clients that fail. One seed is one world. A reference model says what must, may and must not arrive.
//!
//! `TIDEGATE_SIM_SEED=7` plays one seed and says all that happens in it; `TIDEGATE_SIM_SEEDS=1000` or `=5000..6000`
//! plays others than the first 300, `TIDEGATE_SIM_FAILURES=1` ends with the first that fails. `seeds.txt` holds those
//! that ever failed, each with its plan: they go first. `TIDEGATE_SIM_PLAN='...'` gives a seed such a plan.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed seed

mod cast;
mod chance;
mod checks;
mod client;
mod disk;
mod faults;
mod hands;
mod line;
mod links;
mod net;
mod pipes;
mod plan;
mod reference;
mod rows;
mod site;
mod wire;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tidegate::base::time::Duration;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};

use self::chance::{Chance, Of};
use self::plan::Plan;
use self::world::{Event, World};

/// What CI plays.
const SEEDS: u64 = 300;
/// A line each: the seed, its plan, and after `#` what it found.
const EVER_FAILED: &str = include_str!("seeds.txt");
/// Virtual time for each part of a world.
const WARM_UP: Duration = Duration::from_secs(60);
const FAULTY: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(900);
/// Longer than a retained message that nobody waits for stays off the disk.
const REST: Duration = Duration::from_secs(12);

/// Remembers what was logged as ERROR: a sound gateway logs none.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Errors {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

/// A world to play.
#[derive(Clone)]
struct Game {
    seed: u64,
    plan: Plan,
}

impl Game {
    fn of_seed(seed: u64) -> Self {
        Self { seed, plan: Plan::new(Chance::new(seed).of(Of::Plan)) }
    }

    fn kept(line: &str) -> Option<Self> {
        let text = line.split('#').next()?.trim();
        let (seed, plan) = text.split_once(' ')?;
        let seed = seed.parse().unwrap_or_else(|_| panic!("{line:?}: no seed"));
        Some(Self { seed, plan: plan.parse().unwrap_or_else(|why| panic!("{line:?}: {why}")) })
    }
}

/// Plays one world to its end. Its digest.
fn play(game: &Game, traced: bool) -> u64 {
    let errors = Errors::default();
    let subscriber = tracing_subscriber::registry().with(errors.clone().with_filter(LevelFilter::ERROR));
    let digest = tracing::subscriber::with_default(subscriber, || {
        let mut world = World::new(game.seed, game.plan.clone(), traced);
        course(&mut world);
        world.trace(format_args!(
            "{} steps, {} deliveries, {} duplicates, {} faults",
            world.steps, world.reference.deliveries, world.reference.duplicates, world.reference.faults
        ));
        world.digest
    });
    let logged = errors.0.lock().unwrap();
    assert!(logged.is_empty(), "errors were logged: {logged:?}");
    digest
}

fn course(world: &mut World) {
    let settled = world.run(world.now.instant + WARM_UP, World::is_settled);
    assert!(settled, "nothing failed, and not everybody could connect: {}", world.complain());
    for client in &mut world.clients {
        client.established = true;
    }
    (world.settled, world.faulty) = (true, true);
    world.pump_line();
    for client in 0..world.clients.len() {
        if !world.clients[client].lanes.is_empty() {
            world.after(Duration::ZERO, Event::Publish(client));
        }
    }
    world.after(Duration::ZERO, Event::Fault);
    world.run(world.now.instant + FAULTY, |world| world.left == 0);
    world.run(world.now.instant + Duration::from_secs(3), |_| false);
    world.trace(format_args!("everything heals"));
    world.heal();
    let drained = world.run(world.now.instant + DRAIN, World::is_drained);
    assert!(drained, "it does not drain: {}", world.complain());
    world.run(world.now.instant + REST, |_| false);
    let drained = world.run(world.now.instant + REST, World::is_drained);
    assert!(drained, "it does not stay drained: {}", world.complain());
    for client in world.clients.iter_mut().filter(|client| client.is_auditor()) {
        client.away_until = world.now.instant;
    }
    let auditors: Vec<_> =
        world.clients.iter().filter(|client| client.is_auditor()).map(|c| c.index).collect();
    for auditor in auditors {
        world.after(Duration::ZERO, Event::Client(auditor));
    }
    world.run(world.now.instant + Duration::from_secs(5), |_| false);
    world.check_retained();
    world.check_counted();
    if world.plan.faults.is_empty() {
        // Refusals end connections of 3.x clients.
        let leave = &world.reference.leave;
        if leave.refuses_up || leave.refuses_all {
            return;
        }
        let (duplicates, faults) = (world.reference.duplicates, world.reference.faults);
        assert_eq!((duplicates, faults), (0, 0), "nothing failed, and yet there are duplicates or cuts");
    }
}

/// Plays all of them, on all cores. The seeds that failed.
fn play_all(games: &[Game]) -> Vec<u64> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let failures_max = std::env::var("TIDEGATE_SIM_FAILURES").ok().and_then(|text| text.parse().ok());
    let is_enough = || failures_max.is_some_and(|most: usize| failed.lock().unwrap().len() >= most);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !is_enough()
                    && let Some(game) = games.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let Game { seed, plan } = game;
                    if catch_unwind(AssertUnwindSafe(|| play(game, false))).is_err() {
                        eprintln!(
                            "seed {seed} failed; again: TIDEGATE_SIM_SEED={seed} TIDEGATE_SIM_PLAN='{plan}' \
                             cargo test --test sim one -- --nocapture"
                        );
                        failed.lock().unwrap().push(*seed);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

fn range() -> Range<u64> {
    let Ok(text) = std::env::var("TIDEGATE_SIM_SEEDS") else { return 0..SEEDS };
    let number =
        |text: &str| text.parse().unwrap_or_else(|_| panic!("TIDEGATE_SIM_SEEDS: {text:?} is no number"));
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&text),
    }
}

#[test]
fn one_seed_alone() {
    if let Ok(seed) = std::env::var("TIDEGATE_SIM_SEED") {
        let mut game = Game::of_seed(seed.parse().expect("TIDEGATE_SIM_SEED is a number"));
        if let Ok(plan) = std::env::var("TIDEGATE_SIM_PLAN") {
            game.plan = plan.parse().expect("TIDEGATE_SIM_PLAN is a plan");
        }
        play(&game, true);
    }
}

#[test]
fn what_was_promised_holds_in_every_world() {
    if std::env::var("TIDEGATE_SIM_SEED").is_ok() {
        return;
    }
    let kept = EVER_FAILED.lines().filter(|line| !line.starts_with('#')).filter_map(Game::kept);
    let games: Vec<Game> = kept.chain(range().map(Game::of_seed)).collect();
    let failed = play_all(&games);
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
}

#[test]
fn a_seed_is_the_same_world_each_time() {
    for game in (0..5).map(Game::of_seed) {
        assert_eq!(play(&game, false), play(&game, false), "seed {}", game.seed);
    }
}

#[test]
fn a_plan_is_what_its_text_says() {
    for plan in (0..100).map(|seed| Game::of_seed(seed).plan) {
        assert_eq!(plan.to_string().parse(), Ok(plan));
    }
}
