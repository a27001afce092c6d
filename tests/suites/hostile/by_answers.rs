//! Attacks through the exchange of values between a plugin and the host: the plugin's allocator, its clean-up function,
//! and answers with invalid addresses and lengths.

use super::misdeeds::{Fate, Misdeed, forever, misdeed, times};

const REALLOC: &str = r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)"#;
const POST: &str = r#"#transform") (param i32) (call $end))"#;
const EVIL: &str = "(global $evil (mut i32) (i32.const 0))";

/// A plugin whose allocator does this. The host calls the allocator when it passes the payload.
fn allocating(name: &'static str, fate: Fate, does: &str) -> Misdeed {
    misdeed(name, fate, "(global.set $evil (i32.const 1)) (call $host-payload) unreachable")
        .with(EVIL)
        .replacing(REALLOC, format!("{REALLOC} (if (global.get $evil) (then {does}))"))
}

/// A plugin that does this when the host has read its answer and calls the clean-up function.
fn cleaning_up(name: &'static str, fate: Fate, does: &str) -> Misdeed {
    misdeed(name, fate, "(global.set $evil (i32.const 1)) (call $keep)")
        .with(EVIL)
        .replacing(POST, format!("#transform\") (param i32) (if (global.get $evil) (then {does})) (call $end))"))
}

pub fn all() -> Vec<Misdeed> {
    [allocators(), lengths(), texts(), places(), instructions()].into_iter().flatten().collect()
}

fn allocators() -> Vec<Misdeed> {
    use Fate::Letter;
    let log = r#"(call $host-log (i32.const 2) (i32.const 4096) (i32.const 4))"#;
    vec![
        allocating("allocator-traps", Letter("unreachable"), "unreachable"),
        allocating("allocator-outside", Letter(""), "(return (i32.const -8))"),
        allocating("allocator-at-the-end", Letter(""), "(return (i32.shl (memory.size) (i32.const 16)))"),
        allocating("allocator-endless", Letter("time limit"), "(loop $ever (br $ever))"),
        allocating("allocator-calls-the-host", Letter(""), log),
        allocating("allocator-recursion", Letter(""), "(call $host-payload)"),
        allocating("allocator-grows", Letter("limit"), "(loop $ever (drop (memory.grow (i32.const 1))) (br $ever))"),
        cleaning_up("clean-up-traps", Letter("unreachable"), "unreachable"),
        cleaning_up("clean-up-endless", Letter("time limit"), "(loop $ever (br $ever))"),
        cleaning_up("clean-up-calls-the-host", Letter(""), log),
    ]
}

fn lengths() -> Vec<Misdeed> {
    use Fate::Letter;
    let labels = "(i32.store offset=32 (global.get $at) (i32.const 32768))";
    vec![
        misdeed(
            "labels-beyond-memory",
            Letter(""),
            format!("{labels} (i32.store offset=36 (global.get $at) (i32.const 0x7fffffff)) (call $change)"),
        ),
        misdeed(
            "labels-wrap-around",
            Letter(""),
            format!("{labels} (i32.store offset=36 (global.get $at) (i32.const 0x0ccccccd)) (call $change)"),
        ),
        misdeed(
            "parts-beyond-memory",
            Letter(""),
            "(i32.store (i32.const 16) (i32.const 65536)) (i32.store (i32.const 20) (i32.const 0x7ffffff))
             (call $verdict (i32.const 3))",
        ),
        misdeed(
            "parts-wrap-around",
            Letter(""),
            "(i32.store (i32.const 16) (i32.const 65536)) (i32.store (i32.const 20) (i32.const 0x4000001))
             (call $verdict (i32.const 3))",
        ),
        misdeed(
            "payload-of-4-gb",
            Letter("out of bounds"),
            "(call $payload (i32.const 0) (i32.const -1)) (call $change)",
        ),
        misdeed("entry-of-4-gb", Letter("out of bounds"), "(call $entry (i32.const 64) (i32.const -1)) (call $change)"),
        misdeed("reject-of-4-gb", Letter("out of bounds"), "(call $reject (i32.const 0) (i32.const -1))"),
        misdeed("no-such-option", Letter("discriminant"), "(i32.store8 (global.get $at) (i32.const 7)) (call $change)"),
        misdeed("no-such-result", Letter("discriminant"), "(i32.store8 (i32.const 0) (i32.const 9)) (i32.const 0)"),
        misdeed("no-such-failure", Letter("discriminant"), "(call $failure (i32.const 9) (i32.const 0) (i32.const 0))"),
        misdeed(
            "labels-of-64-kb-in-all",
            Letter("65536"),
            format!("{} (call $change)", times(256, r#"(call $label $"l" (i32.const 100000) (i32.const 260))"#)),
        ),
        misdeed(
            "label-name-of-64-kb",
            Letter("65536"),
            r#"(call $label (i32.const 100000) (i32.const 65537) $"v") (call $change)"#,
        ),
        misdeed(
            "parts-with-60-mb-of-labels",
            Letter("fuel"),
            format!(
                "{} (call $split)",
                times(1000, r#"(call $part) (call $label $"l" (i32.const 200000) (i32.const 60000))"#)
            ),
        ),
    ]
}

fn texts() -> Vec<Misdeed> {
    use Fate::{Letter, Written};
    let no_text = "(i32.store8 (i32.const 2048) (i32.const 0xff))";
    vec![
        misdeed(
            "label-no-text",
            Letter("utf-8"),
            format!(r#"{no_text} (call $label $"l" (i32.const 2048) (i32.const 1)) (call $change)"#),
        ),
        misdeed(
            "entry-no-text",
            Letter("utf-8"),
            format!("{no_text} (call $entry (i32.const 2048) (i32.const 1)) (call $change)"),
        ),
        misdeed(
            "type-no-text",
            Letter("utf-8"),
            format!("{no_text} (call $type (i32.const 2048) (i32.const 1)) (call $change)"),
        ),
        misdeed(
            "log-no-text",
            Letter("utf-8"),
            format!("{no_text} (call $host-log (i32.const 1) (i32.const 2048) (i32.const 1)) unreachable"),
        ),
        misdeed(
            "log-outside-memory",
            Letter("out of bounds"),
            "(call $host-log (i32.const 1) (i32.const -9) (i32.const 5)) unreachable",
        ),
        misdeed("log-no-such-level", Letter(""), r#"(call $host-log (i32.const 9) $"x") unreachable"#),
        misdeed("retry-escapes", Letter("tried 2 times"), "(call $retry $\"\x1b[2J\nforged line\u{202e}\u{2028}\")"),
        misdeed("reject-nothing", Letter(""), r#"(call $reject $"")"#),
        misdeed("read-outside-the-payload", Written, "(call $host-read (i64.const -1) (i32.const -1)) (call $keep)"),
        misdeed(
            "endless-parts-of-the-payload",
            Letter("limit"),
            forever("(call $host-read (i64.const 0) (i32.const -1))"),
        ),
    ]
}

fn places() -> Vec<Misdeed> {
    use Fate::{Either, Letter};
    let deep = "a/".repeat(20) + "a";
    let entry = |name: &str| format!("(call $entry $\"{name}\") (call $change)");
    let kind = |name: &str| format!("(call $type $\"{name}\") (call $change)");
    vec![
        misdeed("entry-of-another-sink", Letter("limits.entries"), entry("lidar/0")),
        misdeed("entry-of-dead-letters", Letter("limits.entries"), entry("dead-letters/other/0")),
        misdeed("entry-deep", Letter("illegal entry"), entry(&deep)),
        misdeed("entry-encoded", Letter("illegal entry"), entry("%2e%2e/x")),
        misdeed("entry-wildcard", Letter("illegal entry"), entry("*")),
        misdeed("entry-query", Letter("illegal entry"), entry("x?ts=1")),
        misdeed("entry-ends-with-a-slash", Letter("illegal entry"), entry("x/")),
        misdeed("type-comma", Letter("illegal content type"), kind("a/b, c/d")),
        misdeed("type-nul", Letter("illegal content type"), kind("a/\0b")),
        misdeed("type-long", Letter("illegal content type"), kind(&("a/".to_owned() + &"b".repeat(300)))),
        misdeed("time-first", Either, "(call $time (i64.const 0)) (call $change)"),
        misdeed("time-last-signed", Either, "(call $time (i64.const 0x7fffffffffffffff)) (call $change)"),
    ]
}

fn instructions() -> Vec<Misdeed> {
    use Fate::{Letter, Written};
    vec![
        misdeed("memory-below-nothing", Written, "(drop (memory.grow (i32.const -1))) (call $keep)"),
        misdeed("table-below-nothing", Written, "(drop (table.grow $t (ref.null func) (i32.const -1))) (call $keep)")
            .with("(table $t 1 funcref)"),
        misdeed(
            "memory-and-table-in-turn",
            Letter("limit"),
            forever("(drop (memory.grow (i32.const 1))) (drop (table.grow $t (ref.null func) (i32.const 8192)))"),
        )
        .with("(table $t 1 funcref)"),
        misdeed(
            "copy-outside",
            Letter("out of bounds"),
            "(memory.copy (i32.const 0) (i32.const 262100) (i32.const 100)) unreachable",
        ),
        misdeed(
            "fill-outside",
            Letter("out of bounds"),
            "(memory.fill (i32.const 100) (i32.const 1) (i32.const -1)) unreachable",
        ),
        misdeed("table-outside", Letter("table"), "(drop (table.get $t (i32.const 99))) unreachable")
            .with("(table $t 1 funcref)"),
        misdeed("empty-place", Letter("uninitialized"), "(call_indirect $t (i32.const 0)) unreachable")
            .with("(table $t 1 funcref)"),
        misdeed(
            "other-kind-of-function",
            Letter("indirect call type mismatch"),
            "(call_indirect $t (param i32) (i32.const 1) (i32.const 0)) unreachable",
        )
        .with("(table $t funcref (elem $nothing)) (func $nothing)"),
        misdeed("no-number", Letter("integer"), "(drop (i32.trunc_f64_s (f64.const nan))) unreachable"),
        misdeed(
            "endless-filling",
            Letter("time limit"),
            forever("(memory.fill (i32.const 0) (i32.const 1) (i32.const 200000))"),
        ),
        misdeed("recursion-through-the-host", Letter(""), "(call $deeper) unreachable")
            .with("(func $deeper (call $host-labels) (call $deeper))"),
    ]
}
