//! Tests the configured limits of plugins: the plugin fails on a record for which it exceeds a limit, and decides about
//! the next one.

use std::sync::Arc;
use std::time::Duration;

use reduct_sink::chain::{Chain, Outcome, StageSpec, Version};
use reduct_sink::config::{BreakerConfig, FailurePolicy, PluginConfig, WhileOpen};
use reduct_sink::plugin::{Counts, Digest, LoadProblem};

use crate::bed::{Bed, dead_letter, input, keep_log, logged, output, runtime};
use crate::guest::guest;

/// A chain of this guest under these limits.
fn chain(body: &str, adjust: impl FnOnce(&mut PluginConfig)) -> Chain {
    Bed::of(&[]).with("a", &guest(body), adjust).chain()
}

/// A body that does `body` for record 1, and sets a label with the number of this instance's calls for any other
/// record.
fn once(body: &str) -> String {
    format!(
        "(if (i64.ne (local.get $offset) (i64.const 1)) (then (call $time (global.get $calls)) (return (call $change))))
         {body}"
    )
}

#[test]
fn lower_limits_hold_and_the_instance_is_replaced() {
    let log = r#"(loop $more (call $host-log (i32.const 3) $"x") (local.set $n (i32.add (local.get $n) (i32.const 1)))
                   (br_if $more (i32.lt_u (local.get $n) (i32.const 6)))) (call $keep)"#;
    let three = "(call $part) (call $part) (call $part) (call $split)";
    for (body, reason) in [
        (three, "3 parts; the most are 2"),
        (r#"(call $label $"a" $"1") (call $label $"b" $"2") (call $change)"#, "2 labels of one record; the most are 1"),
        ("(call $payload (i32.const 0) (i32.const 5001)) (call $change)", "5001 bytes; the most are 5000"),
        (log, "logged more lines in one call than it may"),
    ] {
        let mut chain = chain(&once(body), |plugin| {
            plugin.limits.outputs = 2;
            plugin.limits.labels = 1;
            plugin.limits.verdict_bytes = 5000;
            plugin.limits.log_lines = 5;
        });
        assert_eq!(output(chain.transform(&input(0))).timestamp_us, Some(1), "{reason}");
        let failure = dead_letter(chain.transform(&input(1)));
        assert!(failure.reason.contains(reason), "{reason}: {}", failure.reason);
        assert_eq!(output(chain.transform(&input(2))).timestamp_us, Some(1), "{reason}: a fresh instance");
    }
}

#[test]
fn an_instance_is_recycled_after_its_calls_and_above_its_memory() {
    let tell = "(call $time (global.get $calls)) (call $change)";
    let calls = |chain: &mut Chain| -> Vec<u64> {
        (0..7).map(|offset| output(chain.transform(&input(offset))).timestamp_us.unwrap()).collect()
    };
    let mut by_count = chain(tell, |plugin| plugin.recycle.calls = 3);
    assert_eq!(calls(&mut by_count), [1, 2, 3, 1, 2, 3, 1]);
    // The guest starts with 256 KiB of memory and takes 64 KiB more with each call.
    let mut by_memory = chain(&format!("(drop (memory.grow (i32.const 1))) {tell}"), |plugin| {
        // Tables count as memory, too; this guest has a small one.
        plugin.recycle.memory_bytes = Some((256 + 64 + 1) << 10);
    });
    assert_eq!(calls(&mut by_memory), [1, 2, 1, 2, 1, 2, 1]);
}

#[test]
fn after_its_last_attempt_a_retry_is_a_failure_under_the_policy() {
    let retry = r#"(call $retry $"not yet")"#;
    let mut letters = chain(retry, |plugin| plugin.attempts = 3);
    for attempt in [1, 2] {
        assert!(matches!(letters.attempt(&input(1), attempt), Outcome::Retry(_)), "attempt {attempt}");
    }
    assert_eq!(dead_letter(letters.attempt(&input(1), 3)).reason, "not yet (tried 3 times)");
    let mut passing = chain(retry, |plugin| (plugin.attempts, plugin.on_failure) = (1, FailurePolicy::Pass));
    output(passing.transform(&input(1)));
}

#[test]
fn a_file_with_another_digest_than_the_pinned_one_is_refused() {
    let right = guest("(call $keep)");
    let load = |pinned: &[u8]| {
        let pinned = Digest::of(pinned).to_string();
        let bed = Bed::of(&[]).with("pinned", &right, |plugin| plugin.sha256 = Some(pinned));
        runtime().load(&bed.plugins[0])
    };
    assert_eq!(load(&right).unwrap().digest, Digest::of(&right));
    let error = load(b"another").unwrap_err();
    assert!(matches!(error.problem, LoadProblem::OtherDigest { .. }));
    let text = error.to_string();
    for part in [Digest::of(&right).to_string(), Digest::of(b"another").to_string(), "`sha256`".into()] {
        assert!(text.contains(&part), "{text}");
    }
}

#[test]
fn a_file_above_its_limit_is_refused_before_it_is_compiled() {
    let bed = Bed::of(&[]).with("large", &vec![b'x'; 5000], |plugin| plugin.limits.file_bytes = 4999);
    let error = runtime().load(&bed.plugins[0]).unwrap_err();
    assert!(error.to_string().contains("has 5000 bytes, and 4999 are the most"), "{error}");
}

/// A body that fails on records with an offset below 10.
const FAILING: &str = "(if (i64.lt_u (local.get $offset) (i64.const 10)) (then unreachable)) (call $keep)";

#[test]
fn a_breaker_opens_when_everything_fails_and_decides_as_it_is_told() {
    let opened = |then| {
        let mut chain = chain(FAILING, |plugin| {
            plugin.breaker = Some(BreakerConfig { failures: 3, then, pause: Duration::from_secs(3600) });
        });
        for offset in 0..3 {
            assert!(dead_letter(chain.transform(&input(offset))).reason.contains("unreachable"), "it is asked");
        }
        chain.transform(&input(20))
    };
    assert!(dead_letter(opened(WhileOpen::DeadLetter)).reason.contains("circuit breaker is open"));
    assert!(matches!(opened(WhileOpen::Skip), Outcome::Skipped(_)));
    assert_eq!(output(opened(WhileOpen::Pass)).handled_by, None);
    assert!(matches!(opened(WhileOpen::Stop), Outcome::Stop(_)));
    assert!(matches!(opened(WhileOpen::Wait), Outcome::Wait(failure, _) if failure.reason.contains("breaker")));
}

#[test]
fn a_breaker_is_of_all_workers_and_closes_after_a_record_that_goes_well() {
    keep_log();
    let opened = |pause| {
        let bed = Bed::of(&[]).with("broken-circuit", &guest(FAILING), |plugin| {
            plugin.breaker = Some(BreakerConfig { failures: 4, then: WhileOpen::Wait, pause });
        });
        let shared = bed.shared();
        let mut workers = [Chain::new(shared.clone()).unwrap(), Chain::new(shared.clone()).unwrap()];
        for offset in 0..4 {
            dead_letter(workers[offset % 2].transform(&input(offset as u64)));
        }
        workers
    };
    for worker in &mut opened(Duration::from_secs(3600)) {
        assert!(matches!(worker.transform(&input(20)), Outcome::Wait(..)));
    }
    // The breaker's own tests show with a clock of theirs that the pause is kept.
    let pause = Duration::from_millis(1);
    let mut workers = opened(pause);
    std::thread::sleep(pause);
    assert!(dead_letter(workers[0].transform(&input(5))).reason.contains("unreachable"), "a trial, which fails");
    std::thread::sleep(pause);
    output(workers[1].transform(&input(20)));
    output(workers[0].transform(&input(21)));
    assert_eq!(logged(&["ERROR", "broken-circuit@", "opened"]).len(), 2, "once for each breaker");
    assert_eq!(logged(&["INFO", "broken-circuit@", "closed"]).len(), 1);
}

#[test]
fn dead_letters_that_are_tried_neither_feed_nor_ask_the_breaker_and_are_counted_apart() {
    let bed = Bed::of(&[]).with("a", &guest(FAILING), |plugin| {
        let pause = Duration::from_secs(3600);
        plugin.breaker = Some(BreakerConfig { failures: 3, then: WhileOpen::Wait, pause });
    });
    let shared = bed.shared();
    let mut trial = Chain::for_replay(shared.clone()).unwrap();
    let asked = |trial: &mut Chain| assert!(dead_letter(trial.transform(&input(1))).reason.contains("unreachable"));
    (0..200).for_each(|_| asked(&mut trial));
    let version = shared.versions().remove(0);
    assert!(!version.breaker_open && version.failures.is_empty(), "{version:?}");
    assert_eq!((version.counts, version.latency.measured), (Counts::default(), 0));
    let mut worker = Chain::new(shared.clone()).unwrap();
    (0..3).for_each(|_| assert!(matches!(worker.transform(&input(1)), Outcome::DeadLetter(_))));
    assert!(shared.versions().remove(0).breaker_open);
    asked(&mut trial);
    assert_eq!(shared.versions().remove(0).counts.failed, 3, "those of the worker");
    let version = Version::new(shared.runtime().load(&bed.plugins[0]).unwrap());
    shared.replace(StageSpec::new(Arc::new(bed.plugins[0].clone()), version)).unwrap();
    trial.refresh();
    (0..5).for_each(|_| asked(&mut trial));
    let version = shared.versions().remove(0);
    assert_eq!((version.counts, version.breaker_open), (Counts::default(), false), "nor by the next version");
}
