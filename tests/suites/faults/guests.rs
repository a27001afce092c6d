//! Plugins that the fault tests need, made from text.

use crate::guest::{Guest, guest};

/// Splits each record into three: the first third of its bytes, the second, and the rest.
pub fn split() -> Vec<u8> {
    guest(
        r#"
        (call $host-payload)
        (local.set $n (i32.div_u (global.get $got-length) (i32.const 3)))
        (call $part)
        (call $payload (global.get $got) (local.get $n))
        (call $part)
        (call $payload (i32.add (global.get $got) (local.get $n)) (local.get $n))
        (call $part)
        (local.set $i (i32.shl (local.get $n) (i32.const 1)))
        (call $payload
            (i32.add (global.get $got) (local.get $i))
            (i32.sub (global.get $got-length) (local.get $i)))
        (call $split)"#,
    )
}

/// What [`split`] makes of a payload.
pub fn thirds(payload: &[u8]) -> [&[u8]; 3] {
    let (first, rest) = payload.split_at(payload.len() / 3);
    let (second, rest) = rest.split_at(payload.len() / 3);
    [first, second, rest]
}

/// Fails on one record in a hundred, as [`is_poison`] says: by a trap and by a reject, in turn.
pub fn poisoned() -> Vec<u8> {
    guest(
        r#"
        (if (i64.eq (i64.rem_u (local.get $offset) (i64.const 200)) (i64.const 7)) (then unreachable))
        (if (i64.eq (i64.rem_u (local.get $offset) (i64.const 200)) (i64.const 107))
            (then (return (call $reject $"poison"))))
        (call $keep)"#,
    )
}

pub fn is_poison(offset: u64) -> bool {
    offset % 100 == 7
}

/// Gives later records earlier timestamps.
pub fn backwards() -> Vec<u8> {
    guest(
        r#"
        (call $time (i64.sub (i64.const 1700000000000000) (local.get $offset)))
        (call $change)"#,
    )
}

/// Sends one record in fifty to an entry of its own.
pub fn seldom() -> Vec<u8> {
    guest(
        r#"
        (if (i64.eq (i64.rem_u (local.get $offset) (i64.const 50)) (i64.const 7))
            (then (call $entry $"seldom") (return (call $change))))
        (call $keep)"#,
    )
}

/// Takes this long for each record. It needs the grant `clocks`.
pub fn slow(millis: u32) -> Vec<u8> {
    let nanos = u64::from(millis) * 1_000_000;
    let body = "(call $block (local.get $i)) (call $drop-pollable (local.get $i)) (call $keep)";
    Guest::new(&format!("(local.set $i (call $sleep (i64.const {nanos}))) {body}"))
        .importing(
            r#"(import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $sleep (param i64) (result i32)))
               (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
               (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop-pollable (param i32)))"#,
            "package test:slow;
             package wasi:io@0.2.0 { interface poll { resource pollable { block: func(); } } }
             package wasi:clocks@0.2.0 {
               interface monotonic-clock {
                 use wasi:io/poll@0.2.0.{pollable};
                 subscribe-duration: func(when: u64) -> pollable;
               }
             }
             world slow {
               include reduct-sink:transform/transform@0.1.0;
               import wasi:io/poll@0.2.0; import wasi:clocks/monotonic-clock@0.2.0;
             }",
            "slow",
        )
        .build()
}
