//! Tests rollouts: trials, bake windows, and rollbacks.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

use reduct_sink::chain::{Chain, Outcome as Fate, SharedChain};
use reduct_sink::config::{self, Mode, PluginConfig, Share};
use reduct_sink::plugin::Digest;
use reduct_sink::rollout::{self, Control, Pace, PluginActions, RolloutHandle, RolloutOutcome, SwapReport};

use crate::bed::{Bed, input, keep_log, logged, output, wait_for};
use crate::guest::guest;

/// A version that marks each record with its number.
pub(super) fn version(number: u64) -> Vec<u8> {
    guest(&format!("(call $time (i64.const {number})) (call $change)"))
}

/// A version that marks each record with its number, and traps on one record in a hundred.
fn trapping(number: u64) -> Vec<u8> {
    guest(&format!(
        "(if (i64.eq (i64.rem_u (local.get $offset) (i64.const 100)) (i64.const 7)) (then unreachable))
         (call $time (i64.const {number})) (call $change)"
    ))
}

pub(super) fn quick() -> Pace {
    Pace { debounce: Duration::from_millis(20), poll: Duration::from_millis(300), settle: Duration::from_millis(400) }
}

/// A chain of one plugin with a running rollout task, and records that this thread puts through it.
struct Run {
    bed: Bed,
    shared: Arc<SharedChain>,
    chain: Chain,
    rollout: RolloutHandle,
    control: Control,
    offset: u64,
}

impl Run {
    fn new(name: &str, adjust: impl FnOnce(&mut PluginConfig)) -> Self {
        let bed = Bed::of(&[]).with(name, &version(1), adjust);
        let shared = bed.shared();
        let chain = Chain::new(shared.clone()).unwrap();
        let rollout = rollout::start(shared.clone(), None, quick());
        let control = rollout.control();
        Self { bed, shared, chain, rollout, control, offset: 0 }
    }

    fn put(&self, bytes: &[u8]) {
        let new = self.bed.folder.path().join("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.bed.path(0)).unwrap();
    }

    /// Puts records through the chain until `found` returns something.
    fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        wait_for(what, || {
            for _ in 0..50 {
                self.next();
            }
            found(self)
        })
    }

    fn next(&mut self) -> Fate {
        self.chain.refresh();
        self.offset += 1;
        self.chain.transform(&input(self.offset))
    }

    fn outcome(&mut self, outcome: RolloutOutcome) -> SwapReport {
        self.until(&format!("{outcome:?}"), |run| {
            run.control.swaps.last().pop().filter(|report| report.outcome == outcome)
        })
    }

    fn at_work(&self) -> Digest {
        self.shared.versions()[0].digest
    }
}

#[test]
fn a_trial_sees_live_records_and_changes_nothing_until_it_is_passed() {
    let mut run = Run::new("tried", |plugin| {
        plugin.trial.mode = Mode::Auto;
        (plugin.trial.records, plugin.trial.every) = (200, 3);
    });
    run.put(&version(2));
    run.until("the trial", |run| {
        run.control.swaps.last().pop().filter(|report| report.outcome == RolloutOutcome::OnTrial)
    });
    let report = run.outcome(RolloutOutcome::Baking);
    let found = report.trial.unwrap();
    assert_eq!((found.records, found.failed, found.same, found.timestamps_differ), (200, 0, 0, 200), "{found:?}");
    assert!(found.first_difference.as_deref().unwrap().contains("timestamp \"1\", the candidate's \"2\""));
    assert!(found.latency.measured == 200 && found.latency_present.p50_us > 0.0, "{found:?}");
    let steps = report.steps;
    assert!(steps.compile_ms.is_some() && steps.start_ms.is_some() && steps.trial_ms.is_some(), "{steps:?}");
    assert_eq!((run.at_work(), output(run.next()).timestamp_us), (Digest::of(&version(2)), Some(2)));
    let (before, now) = (&run.shared.retired()[0], &run.shared.versions()[0]);
    let counted = before.counts.changed + now.counts.changed;
    assert_eq!(counted, run.offset, "what the candidate did on trial counts for nobody");
    run.rollout.stop();
}

#[test]
fn a_candidate_that_fails_on_trial_never_takes_over() {
    keep_log();
    let mut run = Run::new("unfit", |plugin| {
        plugin.trial.mode = Mode::Auto;
        (plugin.trial.records, plugin.trial.every) = (100_000, 2);
    });
    run.put(&trapping(2));
    let report = run.outcome(RolloutOutcome::FailedTrial);
    assert!(report.reason.unwrap().contains("it failed on"), "{:?}", report.trial);
    assert!(report.trial.unwrap().first_failure.unwrap().contains("unreachable"));
    for _ in 0..300 {
        assert_eq!(output(run.next()).timestamp_us, Some(1));
    }
    assert_eq!(logged(&["ERROR", "unfit", "failed its trial", "first_failure"]).len(), 1);
    thread::sleep(quick().poll * 2);
    assert_eq!(run.control.swaps.last().len(), 1, "the same file isn't tried again");
    run.put(&version(3));
    run.until("version 3 on trial", |run| (run.control.swaps.last().len() == 2).then_some(()));
}

#[test]
fn a_trial_without_records_ends_by_itself() {
    let mut run = Run::new("idle", |plugin| {
        plugin.trial.mode = Mode::Auto;
        plugin.trial.within = Duration::from_millis(300);
    });
    run.put(&version(2));
    let shared = run.shared.clone();
    wait_for("version 2", || (shared.versions()[0].digest == Digest::of(&version(2))).then_some(()));
    assert_eq!(output(run.next()).timestamp_us, Some(2));
}

#[test]
fn by_hand_a_candidate_waits_for_its_promotion() {
    let mut run = Run::new("by-hand", |plugin| {
        plugin.trial.mode = Mode::Manual;
        (plugin.trial.records, plugin.trial.every) = (20, 1);
    });
    assert_eq!(run.control.promote("by-hand").unwrap_err(), "plugin by-hand has no candidate");
    let unknown = run.control.promote("nobody").unwrap_err();
    assert!(unknown.starts_with("the chain has no plugin nobody; it has: "), "{unknown}");
    run.put(&version(2));
    let report = run.outcome(RolloutOutcome::AwaitsPromotion);
    assert_eq!((report.trial.unwrap().records, run.at_work()), (20, Digest::of(&version(1))));
    let can = |promote, roll_back| PluginActions { promote, roll_back };
    let actions = run.control.actions.clone();
    wait_for("the candidate", || (actions.of("by-hand") == can(true, true)).then_some(()));
    assert!(run.control.promote("by-hand").unwrap().contains(&Digest::of(&version(2)).short()));
    assert_eq!(actions.of("by-hand"), can(false, true));
    assert_eq!(output(run.next()).timestamp_us, Some(2));
    assert!(run.control.rollback("by-hand").unwrap().contains(&Digest::of(&version(1)).short()));
    assert_eq!(actions.of("by-hand"), can(false, false));
    assert_eq!(output(run.next()).timestamp_us, Some(1));
    assert_eq!(run.outcome(RolloutOutcome::RolledBack).reason.as_deref(), Some("a person asked for it"));
    assert_eq!(run.control.rollback("by-hand").unwrap_err(), "it has no previous version");
    thread::sleep(quick().poll * 2);
    assert_eq!(run.control.swaps.last().len(), 1, "the file still holds version 2, which isn't wanted");
}

/// A plugin may fail in its trial because something that it needs is still missing; a person can promote it anyway.
#[test]
fn what_a_candidate_failed_on_in_its_trial_leaves_its_breaker_closed() {
    let mut run = Run::new("unready", |plugin| {
        plugin.trial.mode = Mode::Manual;
        (plugin.trial.records, plugin.trial.every) = (20, 1);
        let (then, pause) = (config::WhileOpen::Skip, Duration::from_secs(3600));
        plugin.breaker = Some(config::BreakerConfig { failures: 5, then, pause });
    });
    run.put(&guest("unreachable"));
    let report = run.outcome(RolloutOutcome::AwaitsPromotion);
    assert_eq!(report.trial.map(|found| (found.records, found.failed)), Some((20, 20)));
    run.control.promote("unready").unwrap();
    assert!(!run.shared.versions()[0].breaker_open);
    run.until("its breaker to open at work", |run| run.shared.versions()[0].breaker_open.then_some(()));
}

#[test]
fn a_version_that_traps_on_one_record_in_a_hundred_is_back_out_by_itself() {
    keep_log();
    let mut run = Run::new("relapse", |_| {});
    run.put(&trapping(2));
    let (mut failed, mut by_two) = (0, 0);
    let report = wait_for("the way back", || {
        for _ in 0..20 {
            match run.next() {
                Fate::DeadLetter(failure) => {
                    assert_eq!(failure.digest, Digest::of(&trapping(2)));
                    failed += 1;
                }
                fate => by_two += u64::from(output(fate).timestamp_us == Some(2)),
            }
        }
        thread::sleep(Duration::from_millis(1));
        run.control.swaps.last().pop().filter(|report| report.outcome == RolloutOutcome::RolledBack)
    });
    let baked = report.bake.unwrap();
    assert!(failed > 5 && baked.failed > 5 && baked.failed <= failed, "{failed} {baked:?}");
    assert!(by_two > 400, "99 of 100 were well: {by_two}");
    assert!(report.reason.unwrap().contains("are allowed (0.50 %)"));
    for _ in 0..300 {
        assert_eq!(output(run.next()).timestamp_us, Some(1));
    }
    let told = logged(&["ERROR", "relapse", "rolled back", &Digest::of(&trapping(2)).short()]);
    assert_eq!(told.len(), 1, "{told:?}");
    thread::sleep(quick().poll * 2);
    assert_eq!(run.at_work(), Digest::of(&version(1)), "the same file isn't taken again");
    let wrong = run.control.next_start.reasons();
    assert!(wrong.len() == 1 && wrong[0].contains("was rolled back, and a restart would load it"), "{wrong:?}");
    run.put(&version(3));
    let good = Digest::of(&version(3));
    run.until("the next version", |run| (run.at_work() == good).then_some(()));
    assert!(run.control.next_start.reasons().is_empty());
}

#[test]
fn a_version_that_is_slow_beyond_its_bound_is_back_out_by_itself() {
    let mut run = Run::new("slow-one", |plugin| plugin.bake.max_slowdown = 5);
    run.until("measurements", |run| (run.shared.versions()[0].latency.measured >= 32).then_some(()));
    let slow = "(local.set $i (i32.const 700000))
                (loop $more (br_if $more (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
                (call $keep)";
    run.put(&guest(slow));
    let report = run.outcome(RolloutOutcome::RolledBack);
    assert!(report.reason.unwrap().contains("its median call takes"));
    assert_eq!(run.at_work(), Digest::of(&version(1)));
}

#[test]
fn a_bake_window_in_manual_mode_or_off_rolls_nothing_back() {
    for (mode, outcome) in [(Mode::Manual, RolloutOutcome::Baking), (Mode::Off, RolloutOutcome::Active)] {
        let mut run = Run::new("kept", |plugin| {
            plugin.bake.mode = mode;
            plugin.bake.max_failures = Share(0.0);
        });
        run.put(&trapping(2));
        let bad = Digest::of(&trapping(2));
        run.until("the bad version", |run| (run.at_work() == bad).then_some(()));
        run.until("its failures", |run| (run.shared.versions()[0].counts.failed > 20).then_some(()));
        if mode == Mode::Manual {
            run.until("the reason", |run| run.control.swaps.last().pop().and_then(|report| report.reason));
        }
        thread::sleep(quick().poll);
        let report = run.control.swaps.last().pop().unwrap();
        assert_eq!((report.outcome, run.at_work()), (outcome, bad));
        assert_eq!(report.reason.is_some(), mode == Mode::Manual, "told, but left to a person");
    }
}

#[test]
fn a_bake_window_ends() {
    let mut run = Run::new("settled", |plugin| plugin.bake.window = Duration::from_millis(300));
    run.put(&version(2));
    let report = run.outcome(RolloutOutcome::Active);
    let baked = report.bake.unwrap();
    assert!(baked.seconds >= 0.3 && baked.records > 0 && baked.failed == 0, "{baked:?}");
    assert!(report.steps.worker_ms.unwrap() > 0.0);
}

#[test]
fn what_is_told_of_a_plugin_adds_up() {
    let mut run = Run::new("told", |_| {});
    (0..6400).for_each(|_| drop(run.next()));
    let told = &run.shared.versions()[0];
    assert_eq!((told.counts.changed, told.latency.measured), (6400, 100));
    assert!(told.latency.p50_us > 0.0 && told.latency.p50_us <= told.latency.p99_us, "{:?}", told.latency);
    assert!(told.latency.p99_us <= told.latency.max_us * 1.2, "{:?}", told.latency);
    let memory = 4 * 65536..4 * 65536 + 1024;
    assert!(memory.contains(&told.memory_bytes), "a single worker's instance, with a small table: {told:?}");
}
