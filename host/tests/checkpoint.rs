//! Tests the state of a partition in a simple model of Kafka, the store and a host, over random schedules of everything
//! that can happen to a partition: 20,000 schedules, or a million if `TESTBED_LONG` is set. `TESTBED_SEED` repeats a
//! run.
//!
//! At the end of each schedule the faults stop, the host catches up, and every record that the topic holds must be in
//! the store exactly once and undamaged. Wrong rules that reduct-sink once followed are kept here as [`Rule`]s, to show
//! that the schedules notice each of them.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "checkpoint/world.rs"]
mod world;

use fastrand::Rng;
use world::{Rule, World};

/// Within this many schedules a wrong rule must be noticed.
const ENOUGH: usize = 200_000;

fn seed() -> u64 {
    let seed =
        std::env::var("TESTBED_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}; again with TESTBED_SEED={seed}");
    seed
}

#[test]
fn no_schedule_loses_or_doubles_a_record() {
    let long = std::env::var_os("TESTBED_LONG").is_some_and(|value| !value.is_empty());
    let (seed, schedules) = (seed(), if long { 1_000_000 } else { 20_000 });
    let mut rng = Rng::with_seed(seed);
    for number in 0..schedules {
        let mut steps = Vec::new();
        if let Err(fault) = schedule(&mut rng.fork(), None, &mut steps) {
            panic!("schedule {number} of seed {seed}: {fault}, after {steps:?}");
        }
    }
    println!("{schedules} schedules");
}

#[test]
fn the_schedules_notice_each_rule_that_was_wrong() {
    let mut rng = Rng::with_seed(seed());
    for rule in Rule::ALL {
        let noticed = (0..ENOUGH).find(|_| schedule(&mut rng.fork(), Some(rule), &mut Vec::new()).is_err());
        let Some(noticed) = noticed else { panic!("{rule:?} survived {ENOUGH} schedules") };
        println!("{rule:?}: noticed by schedule {noticed}");
    }
}

/// Runs one schedule. `Err` says what is wrong at its end.
fn schedule(rng: &mut Rng, rule: Option<Rule>, steps: &mut Vec<&'static str>) -> Result<(), String> {
    let mut world = World::new(rng.fork(), rule);
    for _ in 0..rng.usize(5..60) {
        steps.push(world.step());
    }
    world.finish()
}
