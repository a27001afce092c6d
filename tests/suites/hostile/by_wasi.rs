//! Attacks through the interfaces of WASI that every plugin may import: clocks, streams, sockets, and HTTP.

use super::misdeeds::{Fate, Misdeed, forever, misdeed, times};

pub fn all() -> Vec<Misdeed> {
    use Fate::{Either, Letter, Written};
    let second_write = "(call $write-and-flush (local.get $n) (i32.const 2048) (i32.const 1) (i32.const 2080))";
    let body = "(call $body (call $request (call $fields)) (i32.const 2048))
        (call $write (i32.load (i32.const 2052)) (i32.const 2064))
        (local.set $n (i32.load (i32.const 2068)))";
    let print = "(call $print (local.get $i) (i32.const 100000) (i32.const 4096) (i32.const 2080))";
    vec![
        misdeed("sleeping", Letter("time limit"), forever("(call $block (call $sleep (i64.const 3600000000000)))"))
            .importing(CLOCK, &["wasi:io/poll@0.2.0", "wasi:clocks/monotonic-clock@0.2.0"], CLOCK_WIT),
        misdeed("handles", Letter("resource table"), forever("(drop (call $sleep (i64.const 1)))")).importing(
            CLOCK,
            &["wasi:io/poll@0.2.0", "wasi:clocks/monotonic-clock@0.2.0"],
            CLOCK_WIT,
        ),
        misdeed("foreign-handle", Letter("unknown handle index"), "(call $block (i32.const 77)) unreachable")
            .importing(CLOCK, &["wasi:io/poll@0.2.0", "wasi:clocks/monotonic-clock@0.2.0"], CLOCK_WIT),
        misdeed(
            "polling-for-an-hour",
            Letter("time limit"),
            forever(
                "(i32.store (i32.const 2048) (call $sleep (i64.const 3600000000000)))
                 (call $poll (i32.const 2048) (i32.const 1) (i32.const 2080))",
            ),
        )
        .importing(CLOCK, &["wasi:io/poll@0.2.0", "wasi:clocks/monotonic-clock@0.2.0"], CLOCK_WIT),
        misdeed(
            "polling-nothing",
            Letter(""),
            "(call $poll (i32.const 2048) (i32.const 0) (i32.const 2080)) unreachable",
        )
        .importing(CLOCK, &["wasi:io/poll@0.2.0", "wasi:clocks/monotonic-clock@0.2.0"], CLOCK_WIT),
        misdeed(
            "polling-a-billion",
            Letter(""),
            "(call $poll (i32.const 2048) (i32.const 1000000000) (i32.const 2080)) unreachable",
        )
        .importing(CLOCK, &["wasi:io/poll@0.2.0", "wasi:clocks/monotonic-clock@0.2.0"], CLOCK_WIT),
        misdeed(
            "dropped-twice",
            Letter("handle"),
            "(local.set $i (call $sleep (i64.const 1))) (call $drop-pollable (local.get $i))
             (call $drop-pollable (local.get $i)) unreachable",
        )
        .importing(CLOCK, &["wasi:io/poll@0.2.0", "wasi:clocks/monotonic-clock@0.2.0"], CLOCK_WIT),
        misdeed(
            "waiting-for-its-own-clock",
            Letter("time limit"),
            "(loop $ever (br_if $ever (i64.lt_u (call $now) (i64.const 3600000000000)))) unreachable",
        )
        .importing(CLOCK, &["wasi:io/poll@0.2.0", "wasi:clocks/monotonic-clock@0.2.0"], CLOCK_WIT),
        misdeed(
            "randomness",
            Letter("random bytes"),
            "(call $random (i64.const 0x10000000000) (i32.const 2048)) unreachable",
        )
        .importing(RANDOM, &["wasi:random/random@0.2.0"], RANDOM_WIT),
        misdeed("endless-randomness", Letter("limit"), forever("(call $random (i64.const 1048576) (i32.const 2048))"))
            .importing(RANDOM, &["wasi:random/random@0.2.0"], RANDOM_WIT),
        misdeed("exit", Letter("exit"), "(call $exit (i32.const 1)) unreachable").importing(
            EXIT,
            &["wasi:cli/exit@0.2.0"],
            EXIT_WIT,
        ),
        misdeed("exit-well", Letter("exit"), "(call $exit (i32.const 0)) unreachable").importing(
            EXIT,
            &["wasi:cli/exit@0.2.0"],
            EXIT_WIT,
        ),
        misdeed("endless-printing", Letter("limit"), format!("(local.set $i (call $stderr)) {}", forever(print)))
            .importing(PRINT, &["wasi:io/streams@0.2.0", "wasi:cli/stderr@0.2.0", "wasi:cli/stdin@0.2.0"], PRINT_WIT),
        misdeed(
            "printing-a-megabyte-without-an-end",
            Written,
            format!("(local.set $i (call $stderr)) {} (call $keep)", times(250, print)),
        )
        .importing(PRINT, &["wasi:io/streams@0.2.0", "wasi:cli/stderr@0.2.0", "wasi:cli/stdin@0.2.0"], PRINT_WIT),
        misdeed(
            "printing-escapes",
            Written,
            "(call $print (call $stderr) $\"\x1b[2J\x1b]0;owned\x07\nforged line\n\" (i32.const 2080)) (call $keep)",
        )
        .importing(PRINT, &["wasi:io/streams@0.2.0", "wasi:cli/stderr@0.2.0", "wasi:cli/stdin@0.2.0"], PRINT_WIT),
        misdeed(
            "reading-standard-input",
            Written,
            "(call $read (call $stdin) (i64.const -1) (i32.const 2080)) (call $keep)",
        )
        .importing(PRINT, &["wasi:io/streams@0.2.0", "wasi:cli/stderr@0.2.0", "wasi:cli/stdin@0.2.0"], PRINT_WIT),
        misdeed(
            "sockets",
            Written,
            format!(
                "{} (call $keep)",
                times(1000, "(call $socket (i32.const 0) (i32.const 2048)) (if (i32.eqz (i32.load8_u (i32.const 2048))) (then unreachable))")
            ),
        )
        .importing(SOCKET, &["wasi:sockets/tcp-create-socket@0.2.0"], SOCKET_WIT),
        misdeed("http-without-a-grant", Letter("grants.http"), "(drop (call $fields)) unreachable").importing(
            HTTP, &HTTP_INTERFACES, HTTP_WIT,
        ),
        misdeed("body-that-nobody-reads", Letter("time limit"), format!("{body} {second_write} {second_write} {second_write} unreachable"))
            .importing(HTTP, &HTTP_INTERFACES, HTTP_WIT)
            .granted(ONE_HOST),
        misdeed("fields-hoarded", Letter("resource table"), forever("(drop (call $fields))"))
            .importing(HTTP, &HTTP_INTERFACES, HTTP_WIT)
            .granted(ONE_HOST),
        misdeed("requests-hoarded", Letter("resource table"), forever("(drop (call $request (call $fields)))"))
            .importing(HTTP, &HTTP_INTERFACES, HTTP_WIT)
            .granted(ONE_HOST),
        misdeed(
            "bodies-hoarded",
            Letter(""),
            forever(
                "(call $body (call $request (call $fields)) (i32.const 2048))
                 (call $write (i32.load (i32.const 2052)) (i32.const 2064))
                 (call $zeroes (i32.load (i32.const 2068)) (i64.const 16384) (i32.const 2080))
                 (call $drop-stream (i32.load (i32.const 2068))) (call $drop-body (i32.load (i32.const 2052)))",
            ),
        )
        .importing(HTTP, &HTTP_INTERFACES, HTTP_WIT)
        .granted(ONE_HOST),
        misdeed(
            "fields-stuffed",
            Either,
            format!(
                "(local.set $i (call $fields)) {} (call $keep)",
                times(10_000, r#"(call $append (local.get $i) $"a" (i32.const 100000) (i32.const 1000) (i32.const 2048))"#)
            ),
        )
        .importing(HTTP, &HTTP_INTERFACES, HTTP_WIT)
        .granted(ONE_HOST),
        misdeed(
            "zeroes-of-an-exabyte",
            Letter(""),
            format!("{body} (call $zeroes (local.get $n) (i64.const 0x1000000000000000) (i32.const 2080)) unreachable"),
        )
        .importing(HTTP, &HTTP_INTERFACES, HTTP_WIT)
        .granted(ONE_HOST),
    ]
}

const ONE_HOST: &str = "grants.http = ['127.0.0.1:1']";

const CLOCK: &str = r#"(import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $sleep (param i64) (result i32)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop-pollable (param i32)))
  (import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))"#;
const CLOCK_WIT: &str = "
  package wasi:io@0.2.0 { interface poll {
    resource pollable { block: func(); }
    poll: func(in: list<borrow<pollable>>) -> list<u32>;
  } }
  package wasi:clocks@0.2.0 { interface monotonic-clock {
    use wasi:io/poll@0.2.0.{pollable};
    now: func() -> u64;
    subscribe-duration: func(when: u64) -> pollable;
  } }";

const RANDOM: &str = r#"(import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))"#;
const RANDOM_WIT: &str =
    "package wasi:random@0.2.0 { interface random { get-random-bytes: func(len: u64) -> list<u8>; } }";

const EXIT: &str = r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#;
const EXIT_WIT: &str = "package wasi:cli@0.2.0 { interface exit { exit: func(status: result); } }";

const PRINT: &str = r#"(import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
  (import "wasi:cli/stdin@0.2.0" "get-stdin" (func $stdin (result i32)))
  (import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read" (func $read (param i32 i64 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush" (func $print (param i32 i32 i32 i32)))"#;
const PRINT_WIT: &str = "
  package wasi:io@0.2.0 {
    interface error { resource error; }
    interface streams {
      use error.{error};
      variant stream-error { last-operation-failed(error), closed }
      resource input-stream { blocking-read: func(len: u64) -> result<list<u8>, stream-error>; }
      resource output-stream { blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>; }
    }
  }
  package wasi:cli@0.2.0 {
    interface stderr { use wasi:io/streams@0.2.0.{output-stream}; get-stderr: func() -> output-stream; }
    interface stdin { use wasi:io/streams@0.2.0.{input-stream}; get-stdin: func() -> input-stream; }
  }";

const SOCKET: &str =
    r#"(import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket" (func $socket (param i32 i32)))"#;
const SOCKET_WIT: &str = "
  package wasi:sockets@0.2.0 {
    interface network {
      enum error-code {
        unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout, concurrency-conflict,
        not-in-progress, would-block, invalid-state, new-socket-limit, address-not-bindable, address-in-use,
        remote-unreachable, connection-refused, connection-reset, connection-aborted, datagram-too-large,
        name-unresolvable, temporary-resolver-failure, permanent-resolver-failure
      }
      enum ip-address-family { ipv4, ipv6 }
    }
    interface tcp { resource tcp-socket; }
    interface tcp-create-socket {
      use network.{error-code, ip-address-family};
      use tcp.{tcp-socket};
      create-tcp-socket: func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
    }
  }";

const HTTP_INTERFACES: [&str; 3] = ["wasi:io/error@0.2.0", "wasi:io/streams@0.2.0", "wasi:http/types@0.2.0"];
const HTTP: &str = r#"(import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[method]fields.append" (func $append (param i32 i32 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-request" (func $request (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $write (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[resource-drop]outgoing-body" (func $drop-body (param i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop-stream (param i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.write-zeroes" (func $zeroes (param i32 i64 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
    (func $write-and-flush (param i32 i32 i32 i32)))"#;
const HTTP_WIT: &str = "
  package wasi:io@0.2.0 {
    interface error { resource error; }
    interface streams {
      use error.{error};
      variant stream-error { last-operation-failed(error), closed }
      resource output-stream {
        blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
        write-zeroes: func(len: u64) -> result<_, stream-error>;
      }
    }
  }
  package wasi:http@0.2.0 { interface types {
    use wasi:io/streams@0.2.0.{output-stream};
    variant header-error { invalid-syntax, forbidden, immutable }
    resource fields { constructor(); append: func(name: string, value: list<u8>) -> result<_, header-error>; }
    type headers = fields;
    resource outgoing-body { write: func() -> result<output-stream>; }
    resource outgoing-request { constructor(headers: headers); body: func() -> result<outgoing-body>; }
  } }";
