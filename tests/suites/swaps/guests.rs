//! Versions of a plugin, good and bad, made from text.

use crate::guest::{Guest, guest};

/// A version that marks each record with its number, in a label.
pub fn good(number: u64) -> Vec<u8> {
    guest(&format!(r#"(call $label $"version" $"{number}") (call $change)"#))
}

/// A version that marks each record with its number, and traps on one record in a hundred.
pub fn trapping(number: u64) -> Vec<u8> {
    guest(&format!(
        r#"(if (i64.eq (i64.rem_u (local.get $offset) (i64.const 100)) (i64.const 7)) (then unreachable))
           (call $label $"version" $"{number}") (call $change)"#
    ))
}

pub fn is_trapped(offset: u64) -> bool {
    offset % 100 == 7
}

/// A version that doesn't load, for a reason that depends on `number`, and what the host logs about it.
pub fn bad(number: usize) -> (Vec<u8>, &'static str) {
    let refusing = || Guest::new("(call $keep)").configure(&format!(r#"(call $refuse $"version {number} refuses")"#));
    let trapping = || Guest::new("(call $keep)").configure(&format!("(drop (i32.const {number})) unreachable"));
    let whole = good(number as u64);
    let bytes = match number / 3 % 5 {
        0 => format!("not WebAssembly {number}").into_bytes(),
        1 => whole[..whole.len() - 40 - number % 7].to_vec(),
        2 => refusing().build(),
        3 => trapping().build(),
        _ => Guest::new(&format!("(drop (i32.const {number})) (call $keep)")).core_module(),
    };
    (bytes, "doesn't load")
}

/// A plugin that sets each record's timestamp to the time at which it is asked, in microseconds.
pub fn clock() -> Vec<u8> {
    let clock = Guest::new(
        r#"(call $now (i32.const 1024))
           (call $time (i64.add
             (i64.mul (i64.load (i32.const 1024)) (i64.const 1000000))
             (i64.div_u (i64.extend_i32_u (i32.load (i32.const 1032))) (i64.const 1000))))
           (call $change)"#,
    );
    let clock = clock.importing(
        r#"(import "wasi:clocks/wall-clock@0.2.0" "now" (func $now (param i32)))"#,
        "package test:clock;
         package wasi:clocks@0.2.0 {
           interface wall-clock { record datetime { seconds: u64, nanoseconds: u32 } now: func() -> datetime; }
         }
         world clock { include reduct-sink:transform/transform@0.1.0; import wasi:clocks/wall-clock@0.2.0; }",
        "clock",
    );
    clock.build()
}
