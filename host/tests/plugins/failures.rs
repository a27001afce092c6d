//! Tests what the host does with a record on which a plugin fails, and that the records around it are not affected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reduct_sink::chain::{Chain, Outcome, StageSpec, Version};
use reduct_sink::config::FailurePolicy;

use crate::bed::{Bed, PATIENCE, SHORT, dead_letter, input, keep_log, load_error, logged, output, outputs, runtime};
use crate::directories;
use crate::guest::{Guest, guest};

/// A guest that does `body`, which fails, for record 3; for any other record it sets a label with the number of calls
/// that the instance has had.
fn failing(body: &str) -> Vec<u8> {
    let guard = "(if (i64.eq (local.get $offset) (i64.const 3)) (then";
    guest(&format!("{guard} {body})) (call $time (global.get $calls)) (call $change)"))
}

#[test]
fn a_failure_harms_no_other_record() {
    for (body, reason, fresh) in [
        ("unreachable", "wasm `unreachable` instruction executed", true),
        ("(loop $ever (br $ever)) unreachable", "time limit of 2s", true),
        (
            "(loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) unreachable",
            "after it met its memory limit",
            true,
        ),
        ("(drop (i32.load (i32.const -4)))", "out of bounds memory access", true),
        (r#"(return (call $reject $"no such camera"))"#, "no such camera", false),
        // Case 9 isn't a verdict.
        ("(return (call $verdict (i32.const 9)))", "discriminant", true),
        // The text's address isn't in memory.
        ("(return (call $reject (i32.const -9) (i32.const 5)))", "out of bounds", true),
    ] {
        // Calls that end by themselves have this limit, too, so it is one that they keep on a busy machine.
        let limit = if reason.contains("time limit") { Duration::from_secs(2) } else { PATIENCE };
        let mut chain = Bed::of(&[]).with("a", &failing(body), |plugin| plugin.timeout = limit).chain();
        for offset in [1, 2] {
            assert_eq!(output(chain.transform(&input(offset))).timestamp_us, Some(offset), "{body}");
        }
        let failure = dead_letter(chain.transform(&input(3)));
        assert!(failure.reason.contains(reason), "{body}: {}", failure.reason);
        assert!(!failure.reason.contains('\n'), "one line: {}", failure.reason);
        let calls = if fresh { 1 } else { 4 };
        assert_eq!(output(chain.transform(&input(4))).timestamp_us, Some(calls), "{body}");
    }
}

/// The table says that all code is line 7 of plugin.c.
#[test]
fn a_reason_names_the_line_from_the_components_table() {
    let in_plugin_c = r#"(@custom "reduct-sink:lines" "\01\01\08plugin.c\00\01\07")"#;
    for (table, body, start, end) in [
        (in_plugin_c, "unreachable", "wasm trap: wasm `unreachable`", " executed (plugin.c:7)"),
        (in_plugin_c, "(loop $ever (br $ever)) unreachable", "it was stopped", "time limit of 200ms (plugin.c:7)"),
        (
            in_plugin_c,
            r#"(call $host-log (i32.const 0) $"on fire") unreachable"#,
            "on fire (plugin.c:7) (wasm trap:",
            ")",
        ),
        (
            in_plugin_c,
            r#"(call $host-log (i32.const 0) $"panic (plugin.c:7)") unreachable"#,
            "panic (plugin.c:7) (wasm",
            ")",
        ),
        // Not while its code runs.
        (in_plugin_c, "(return (call $reject (i32.const -9) (i32.const 5)))", "", "out of bounds of memory"),
        ("", "unreachable", "wasm trap:", "components of C, C++, Rust and Zig)"),
        ("", r#"(call $host-log (i32.const 0) $"on fire") unreachable"#, "on fire (wasm trap:", " executed)"),
        ("", "(loop $ever (br $ever)) unreachable", "it was stopped", "time limit of 200ms"),
    ] {
        let component = Guest::new(body).defining(table).build();
        let limit = if end.contains("time limit") { SHORT } else { PATIENCE };
        let bed = Bed::of(&[]).with("a", &component, |plugin| plugin.timeout = limit);
        let reason = dead_letter(bed.chain().transform(&input(3))).reason;
        assert!(reason.starts_with(start) && reason.ends_with(end), "{table} {body}: {reason}");
        assert!(!reason.contains("backtrace"), "{reason}");
    }
    let refused = Guest::new("(call $keep)").defining(in_plugin_c).configure("unreachable").build();
    let error = load_error(&refused).to_string();
    assert!(
        error.contains("trapped in `configure`: wasm trap: wasm `unreachable`") && error.contains("(plugin.c:7)"),
        "{error}"
    );
}

#[test]
fn a_time_limit_is_kept_and_not_cut_short() {
    let bed = Bed::of(&[]).with("a", &guest("(loop $ever (br $ever)) unreachable"), |plugin| {
        plugin.timeout = SHORT;
    });
    let mut chain = bed.chain();
    for offset in 0..3 {
        let start = Instant::now();
        dead_letter(chain.transform(&input(offset)));
        let took = start.elapsed();
        assert!(took >= SHORT, "cut short: {took:?}");
        assert!(took < PATIENCE, "let run: {took:?}");
    }
}

#[test]
fn each_policy_decides_over_the_record() {
    let outcome = |policy| {
        let bed = Bed::of(&[]).with("a", &guest("unreachable"), |plugin| plugin.on_failure = policy);
        bed.chain().transform(&input(7))
    };
    assert!(matches!(outcome(FailurePolicy::DeadLetter), Outcome::DeadLetter(failure) if &*failure.plugin == "a"));
    assert!(matches!(outcome(FailurePolicy::Skip), Outcome::Skipped(failure) if &*failure.plugin == "a"));
    assert!(matches!(outcome(FailurePolicy::Stop), Outcome::Stop(failure) if &*failure.plugin == "a"));
    let passed = output(outcome(FailurePolicy::Pass));
    assert_eq!((passed.payload(), passed.handled_by), ("0123456789".into(), None));
}

#[test]
fn a_retry_is_a_retry_under_every_policy() {
    for policy in [FailurePolicy::DeadLetter, FailurePolicy::Skip, FailurePolicy::Pass, FailurePolicy::Stop] {
        let retry = r#"(if (i64.eq (global.get $calls) (i64.const 2)) (then (return (call $keep))))
                       (call $retry $"the model is loading")"#;
        let bed = Bed::of(&[]).with("a", &guest(retry), |plugin| plugin.on_failure = policy);
        let mut chain = bed.chain();
        match chain.transform(&input(7)) {
            Outcome::Retry(failure) => assert_eq!(failure.reason, "the model is loading"),
            other => panic!("{policy:?}: {other:?}"),
        }
        output(chain.transform(&input(7)));
    }
}

/// Splits a record into three parts with 1, 2 and 3 bytes.
const THREE: &str = r#"(call $part) (call $payload $"1") (call $part) (call $payload $"22")
                       (call $part) (call $payload $"333") (call $split)"#;
/// Labels each part, and traps on the part with two bytes.
const PICKY: &str = r#"(if (i64.eq (local.get $payload-size) (i64.const 2)) (then unreachable))
                       (call $label $"picky" $"yes") (call $change)"#;

#[test]
fn a_failure_on_one_part_fails_the_whole_record() {
    let bed = Bed::of(&[&guest(THREE), &guest(PICKY), &guest("(call $keep)")]);
    let failure = dead_letter(bed.chain().transform(&input(7)));
    assert_eq!(&*failure.plugin, "b");
}

#[test]
fn pass_is_as_if_the_plugin_were_not_there_for_all_parts() {
    let bed = Bed::of(&[&guest(THREE)])
        .with("picky", &guest(PICKY), |plugin| plugin.on_failure = FailurePolicy::Pass)
        .with("last", &guest(r#"(call $entry $"last") (call $change)"#), |_| {});
    let shared = bed.shared();
    let mut chain = Chain::new(shared.clone()).unwrap();
    let parts = outputs(chain.transform(&input(7)));
    assert_eq!(parts.len(), 3);
    let digest = |at: usize| shared.versions()[at].digest.short();
    for (index, part) in (0..).zip(&parts) {
        assert_eq!((part.index, part.entry.as_deref(), part.labels.len()), (Some(index), Some("last"), 0), "{part:?}");
        assert_eq!(*part.handled_by.clone().unwrap(), format!("a@{}+last@{}", digest(0), digest(2)));
    }
}

#[test]
fn a_grown_instance_is_replaced_before_it_meets_its_limit() {
    // Each call takes another 1 MiB of 16 and never frees it; the host replaces the instance before a call fails.
    let hoarder = guest(
        "(if (i32.eq (i32.const -1) (memory.grow (i32.const 16))) (then unreachable))
         (call $time (global.get $calls)) (call $change)",
    );
    let mut chain = Bed::of(&[&hoarder]).chain();
    let calls: Vec<u64> = (0..40).map(|offset| output(chain.transform(&input(offset))).timestamp_us.unwrap()).collect();
    let oldest = calls.iter().max().unwrap();
    assert!((8..16).contains(oldest), "an instance had up to {oldest} calls: {calls:?}");
}

/// The file beside which no instance of [`moody`] starts.
const MOOD: &str = "not-today";

/// A guest whose `configure` refuses while its directory holds the file [`MOOD`].
fn moody(body: &str) -> Vec<u8> {
    let configure = format!(
        r#"(call $directories (i32.const 1024))
           (call $open (i32.load (i32.load (i32.const 1024))) (i32.const 0) $"{MOOD}" (i32.const 0) (i32.const 1)
             (i32.const 2048))
           (if (i32.load8_u (i32.const 2048)) (then (return (i32.const 0))))
           (call $refuse $"not today")"#
    );
    let imports: String = directories::INTERFACES.iter().map(|interface| format!("import {interface};")).collect();
    let packages = format!(
        "package test:moody; {}
         world moody {{ include reduct-sink:transform/transform@0.1.0; {imports} }}",
        directories::FILES
    );
    Guest::new(body).configure(&configure).importing(directories::IMPORTS, &packages, "moody").build()
}

#[test]
fn where_no_fresh_instance_starts_the_record_fails_and_the_next_tries_again() {
    let folder = tempfile::tempdir().unwrap();
    let mood = folder.path().join(MOOD);
    let mut chain = Bed::of(&[]).with("a", &moody("unreachable"), directories::granted(folder.path())).chain();
    std::fs::write(&mood, "").unwrap();
    assert!(dead_letter(chain.transform(&input(1))).reason.contains("unreachable"), "the loaded instance runs");
    for offset in [2, 3] {
        let failure = dead_letter(chain.transform(&input(offset)));
        assert!(failure.reason.contains("refuses its configuration: not today"), "{}", failure.reason);
    }
    std::fs::remove_file(&mood).unwrap();
    assert!(dead_letter(chain.transform(&input(4))).reason.contains("unreachable"), "a fresh instance ran");
}

#[test]
fn where_a_new_version_does_not_start_on_a_worker_the_one_before_goes_on() {
    keep_log();
    let folder = tempfile::tempdir().unwrap();
    let first = guest("(call $time (i64.const 1)) (call $change)");
    let bed = Bed::of(&[]).with("held-back", &first, directories::granted(folder.path()));
    let shared = bed.shared();
    let mut chain = Chain::new(shared.clone()).unwrap();
    std::fs::write(bed.path(0), moody("(call $time (i64.const 2)) (call $change)")).unwrap();
    let version = Version::new(runtime().load(&bed.plugins[0]).unwrap());
    // The plugin loads, and from here on no instance of it starts, neither ahead of time nor on the worker.
    std::fs::write(folder.path().join(MOOD), "").unwrap();
    shared.replace(StageSpec::new(Arc::new(bed.plugins[0].clone()), version)).unwrap();
    chain.refresh();
    let kept = output(chain.transform(&input(1)));
    let old = shared.retired()[0].digest.short();
    assert_eq!((kept.timestamp_us, &*kept.handled_by.unwrap()), (Some(1), format!("held-back@{old}").as_str()));
    let told = logged(&["ERROR", "plugin=held-back", "not today", "stays active"]);
    assert_eq!(told.len(), 1, "{told:?}");
}
