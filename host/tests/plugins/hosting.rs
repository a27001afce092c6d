//! Tests what every plugin can use: the host's log, and a WASI that gives access to nothing.

use std::time::{Duration, Instant};

use crate::bed::{Bed, input, keep_log, label, logged, output};
use crate::guest::Guest;

#[test]
fn log_lines_name_the_plugin_and_the_record() {
    keep_log();
    let talk = Guest::new(r#"(call $host-log (i32.const 1) $"a warm sensor\ntwice") (call $keep)"#)
        .configure(r#"(call $host-log (i32.const 3) $"configured and well") (i32.const 0)"#)
        .build();
    let mut chain = Bed::of(&[]).with("talker", &talk, |_| {}).chain();
    output(chain.transform(&input(77)));
    let lines = logged(&["plugin=talker", "a warm sensor"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["WARN", "topic=\"line.7\"", "partition=2", "offset=77"] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
    assert!(
        logged(&["plugin=talker", "DEBUG", "configured and well"]).len() >= 2,
        "the first instance and the worker's"
    );
}

/// A plugin that reports errors and goes on isn't a plugin that panics.
#[test]
fn error_lines_are_held_back_only_where_the_call_fails() {
    keep_log();
    let complain = Guest::new(
        r#"(call $host-log (i32.const 0) $"the lens is dirty")
           (if (i64.ge_u (local.get $offset) (i64.const 10)) (then
             (call $host-log (i32.const 0) $"the lens broke") (unreachable)))
           (call $keep)"#,
    );
    let mut chain = Bed::of(&[]).with("complainer", &complain.build(), |_| {}).chain();
    (0..10).for_each(|offset| drop(output(chain.transform(&input(offset)))));
    let lines = logged(&["plugin=complainer", "ERROR", "the lens is dirty"]);
    assert_eq!(lines.len(), 10, "{lines:?}");
    assert!((0..10).all(|offset| lines.iter().any(|line| line.contains(&format!("offset={offset}")))), "{lines:?}");
    (10..20).for_each(|offset| drop(chain.transform(&input(offset))));
    let broke = logged(&["plugin=complainer", "ERROR", "the lens broke"]);
    assert_eq!(broke.len(), 2, "{broke:?}");
}

#[test]
fn a_flood_of_log_lines_is_cut_and_counted() {
    keep_log();
    let flood = Guest::new(
        r#"(if (i64.eq (local.get $offset) (i64.const 1)) (then
             (loop $more
               (call $host-log (i32.const 2) $"drip")
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $n) (i32.const 1000))))))
           (if (i64.eq (local.get $offset) (i64.const 2)) (then
             (call $host-log (i32.const 2) (i32.const 0) (i32.const 100000)))) (call $keep)"#,
    );
    let mut chain = Bed::of(&[]).with("flooder", &flood.build(), |_| {}).chain();
    let start = Instant::now();
    output(chain.transform(&input(1)));
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 2;
    let lines = logged(&["plugin=flooder", "drip"]).len();
    assert!((100..=100 * seconds).contains(&lines), "{lines} lines within {seconds} s: at most 100 a second");
    std::thread::sleep(Duration::from_millis(1100));
    output(chain.transform(&input(2)));
    let told = logged(&["plugin=flooder", "left out lines"]);
    assert!(!told.is_empty() && told.iter().all(|line| line.contains("lines=")), "{told:?}");
    let long = logged(&["plugin=flooder", "more bytes"]);
    assert_eq!(long.len(), 1, "{}", long.len());
    assert!(long.iter().all(|line| line.len() < 5_000), "a line has at most 4096 bytes of the plugin's text");
}

const STREAMS: &str = "
  package wasi:io@0.2.0 {
    interface error { resource error; }
    interface streams {
      use error.{error};
      variant stream-error { last-operation-failed(error), closed }
      resource output-stream { blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>; }
    }
  }
  package wasi:cli@0.2.0 {
    interface stdout { use wasi:io/streams@0.2.0.{output-stream}; get-stdout: func() -> output-stream; }
    interface environment {
      get-environment: func() -> list<tuple<string, string>>;
      get-arguments: func() -> list<string>;
    }
  }";

#[test]
fn what_a_plugin_prints_goes_to_the_log_line_by_line() {
    keep_log();
    let print = Guest::new(
        r#"(call $write (call $stdout) $"first half, " (i32.const 1024))
           (call $write (call $stdout) $"second half
another line
" (i32.const 1024))
           (call $keep)"#,
    );
    let print = print.importing(
        r#"(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
           (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
             (func $write (param i32 i32 i32 i32)))"#,
        &format!(
            "package test:print; {STREAMS}
             world print {{
               include reduct-sink:transform/transform@0.1.0;
               import wasi:cli/stdout@0.2.0;
             }}"
        ),
        "print",
    );
    output(Bed::of(&[]).with("printer", &print.build(), |_| {}).chain().transform(&input(1)));
    assert_eq!(logged(&["plugin=printer", "first half, second half"]).len(), 1);
    assert_eq!(logged(&["plugin=printer", "another line"]).len(), 1);
}

#[test]
fn the_environment_is_empty() {
    assert!(std::env::vars().count() > 0, "the host itself has one");
    let ask = Guest::new(
        r#"(call $environment (i32.const 1024))
           (if (i32.load (i32.const 1028)) (then (call $label $"environment" $"seen")))
           (call $arguments (i32.const 1024))
           (if (i32.load (i32.const 1028)) (then (call $label $"arguments" $"seen")))
           (call $label $"asked" $"yes") (call $change)"#,
    );
    let ask = ask.importing(
        r#"(import "wasi:cli/environment@0.2.0" "get-environment" (func $environment (param i32)))
           (import "wasi:cli/environment@0.2.0" "get-arguments" (func $arguments (param i32)))"#,
        &format!(
            "package test:ask; {STREAMS}
             world ask {{ include reduct-sink:transform/transform@0.1.0; import wasi:cli/environment@0.2.0; }}"
        ),
        "ask",
    );
    let told = output(Bed::of(&[&ask.build()]).chain().transform(&input(1)));
    assert_eq!(label(&told, "asked").as_deref(), Some("yes"));
    assert_eq!((label(&told, "environment"), label(&told, "arguments")), (None, None));
}
