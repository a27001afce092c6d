//! The checkpoint against a model that is too simple to be wrong, over random schedules: 10,000, or a million where
//! `TESTBED_LONG` is set. `TESTBED_SEED` plays one run again.

#![allow(clippy::indexing_slicing, reason = "an index out of bounds fails the test, as it should")]

use std::collections::BTreeMap;

use fastrand::Rng;
use reduct_sink::flow::Checkpoint;

/// Everything that happened, kept for ever.
#[derive(Debug, Default)]
struct Model {
    /// Each received offset, and whether it is settled.
    received: BTreeMap<u64, bool>,
    end: u64,
}

impl Model {
    fn position(&self) -> u64 {
        self.received.iter().find(|(_, settled)| !**settled).map_or(self.end, |(offset, _)| *offset)
    }

    fn in_flight(&self) -> usize {
        self.received.values().filter(|settled| !**settled).count()
    }
}

#[test]
fn no_schedule_commits_what_is_not_settled() {
    let long = std::env::var_os("TESTBED_LONG").is_some_and(|value| !value.is_empty());
    let seed =
        std::env::var("TESTBED_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}; again with TESTBED_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let schedules = if long { 1_000_000 } else { 10_000 };
    for number in 0..schedules {
        let mut steps = Vec::new();
        schedule(&mut rng.fork(), &mut steps).unwrap_or_else(|fault| {
            panic!("schedule {number} of seed {seed}: {fault}, after {steps:?}");
        });
    }
    println!("{schedules} schedules");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Receive(u64),
    Settle(u64),
    SkipTo(u64),
    /// The host dies, and another begins at what was committed last.
    Crash,
}

fn schedule(rng: &mut Rng, steps: &mut Vec<Step>) -> Result<(), String> {
    // What Kafka holds from here on; offsets have gaps.
    let mut next = rng.u64(..1000);
    let (mut checkpoint, mut model) = (Checkpoint::starting_at(next), Model { end: next, ..Model::default() });
    // Where this host began: Kafka delivers nothing before that.
    let mut floor = next;
    let mut committed: Option<u64> = None;
    for _ in 0..rng.usize(1..60) {
        let step = match rng.u8(..20) {
            0..8 => {
                next += 1 + if rng.u8(..4) == 0 { rng.u64(..20) } else { 0 };
                Step::Receive(next)
            }
            // A consumer that was set back delivers again.
            8 => Step::Receive(next.saturating_sub(rng.u64(..30)).max(floor)),
            9..17 => Step::Settle(some_offset(rng, &model, next)),
            17 => {
                next += rng.u64(..5);
                Step::SkipTo(next.saturating_sub(rng.u64(..10)).max(floor))
            }
            18 => Step::SkipTo(rng.u64(..2000).max(floor)),
            _ => Step::Crash,
        };
        steps.push(step);
        let before = checkpoint.position();
        match step {
            Step::Receive(offset) => {
                let new = offset >= model.end;
                if new {
                    model.received.insert(offset, false);
                    model.end = offset + 1;
                }
                if checkpoint.receive(offset) != new {
                    return Err(format!("receive({offset}) should be {new}"));
                }
            }
            Step::Settle(offset) => {
                if let Some(settled) = model.received.get_mut(&offset) {
                    *settled = true;
                }
                checkpoint.acknowledge(offset);
            }
            Step::SkipTo(offset) => {
                model.end = model.end.max(offset);
                checkpoint.skip_to(offset);
            }
            Step::Crash => {
                // Nothing that isn't settled may lie before what was committed.
                let lost = model.received.iter().find(|(offset, settled)| !**settled && Some(**offset) < committed);
                if let Some((offset, _)) = lost {
                    return Err(format!("{offset} is lost: committed {committed:?}"));
                }
                next = committed.unwrap_or(floor);
                floor = next;
                (checkpoint, model) = (Checkpoint::starting_at(next), Model { end: next, ..Model::default() });
                continue;
            }
        }
        let position = checkpoint.position();
        if position != model.position() {
            return Err(format!("the position is {position}, not {}", model.position()));
        }
        if position < before {
            return Err(format!("the position went from {before} to {position}"));
        }
        if checkpoint.in_flight() != model.in_flight() {
            return Err(format!("{} in flight, not {}", checkpoint.in_flight(), model.in_flight()));
        }
        // Commits happen now and then.
        if rng.u8(..4) == 0 {
            committed = Some(position);
        }
    }
    Ok(())
}

/// Mostly one that is in flight; sometimes one that is settled, or was never received.
fn some_offset(rng: &mut Rng, model: &Model, next: u64) -> u64 {
    let all: Vec<u64> = model.received.keys().copied().collect();
    match rng.u8(..10) {
        0 => next.saturating_sub(rng.u64(..40)),
        1 if !all.is_empty() => all[rng.usize(..all.len())],
        _ => {
            let open: Vec<u64> = model.received.iter().filter(|(_, settled)| !**settled).map(|(o, _)| *o).collect();
            if open.is_empty() { next } else { open[rng.usize(..open.len())] }
        }
    }
}
