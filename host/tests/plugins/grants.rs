//! Tests what plugins can reach with a grant, and what they find without one.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use reduct_sink::chain::{Chain, Outcome};
use reduct_sink::config::{GrantedDirectory, PluginConfig, Secret};

use crate::bed::{Bed, PATIENCE, input, keep_log, label, logged, output, runtime};
use crate::guest::Guest;

/// A chain of one guest that imports an interface of WASI.
pub fn chain(name: &str, guest: Vec<u8>, adjust: impl FnOnce(&mut PluginConfig)) -> Chain {
    Bed::of(&[]).with(name, &guest, adjust).chain()
}

pub fn asking(body: &str, imports: &str, interfaces: &[&str], packages: &str) -> Vec<u8> {
    let interfaces: String = interfaces.iter().map(|interface| format!("import {interface};")).collect();
    let wit = format!(
        "package test:ask; {packages}
         world ask {{ include reduct-sink:transform/transform@0.1.0; {interfaces} }}"
    );
    Guest::new(body).importing(imports, &wit, "ask").build()
}

const CLOCKS: &str = "package wasi:clocks@0.2.0 {
  interface wall-clock { record datetime { seconds: u64, nanoseconds: u32 } now: func() -> datetime; }
  interface monotonic-clock { now: func() -> u64; }
}";

#[test]
fn without_a_grant_the_time_is_the_records_own() {
    keep_log();
    // The guest returns the seconds of the wall clock, and how far the monotonic clock moves between two reads.
    let clock = asking(
        r#"(call $wall (i32.const 2048))
           (call $part) (call $time (i64.load (i32.const 2048)))
           (call $part) (call $time (i64.load32_u (i32.const 2056)))
           (call $part) (call $time (i64.sub (i64.const 0) (i64.sub (call $monotonic) (call $monotonic))))
           (call $split)"#,
        r#"(import "wasi:clocks/wall-clock@0.2.0" "now" (func $wall (param i32)))
           (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $monotonic (result i64)))"#,
        &["wasi:clocks/wall-clock@0.2.0", "wasi:clocks/monotonic-clock@0.2.0"],
        CLOCKS,
    );
    let mut without = chain("timeless", clock.clone(), |_| {});
    for _ in 0..2 {
        let times: Vec<_> = crate::bed::outputs(without.transform(&input(7))).iter().map(|o| o.timestamp_us).collect();
        assert_eq!(times, [Some(1_700_000_000), Some(0), Some(1_000)], "the record's own second");
    }
    let told = logged(&["plugin=timeless", "asked for the time", "grants.clocks = true"]);
    assert_eq!(told.len(), 1, "once for each version: {told:?}");
    let mut with = chain("timed", clock, |plugin| plugin.grants.clocks = true);
    let times: Vec<_> = crate::bed::outputs(with.transform(&input(7))).iter().map(|o| o.timestamp_us).collect();
    assert!(times[0] > Some(1_700_000_000), "the present: {times:?}");
    assert_eq!(logged(&["plugin=timed", "asked for"]), Vec::<String>::new());
}

#[test]
fn without_a_grant_random_numbers_follow_from_the_record() {
    keep_log();
    let dice = asking(
        "(call $time (i64.and (call $random) (i64.const 0xffffffffffff))) (call $change)",
        r#"(import "wasi:random/random@0.2.0" "get-random-u64" (func $random (result i64)))"#,
        &["wasi:random/random@0.2.0"],
        "package wasi:random@0.2.0 { interface random { get-random-u64: func() -> u64; } }",
    );
    let throw = |chain: &mut Chain, offset| output(chain.transform(&input(offset))).timestamp_us.unwrap();
    let mut loaded = chain("loaded", dice.clone(), |_| {});
    let first = throw(&mut loaded, 1);
    assert_ne!(first, throw(&mut loaded, 2), "another record");
    assert_eq!(first, throw(&mut loaded, 1), "the same record again");
    assert_eq!(first, throw(&mut chain("loaded", dice.clone(), |_| {}), 1), "in another instance too");
    assert!(!logged(&["plugin=loaded", "grants.random = true"]).is_empty());
    let mut fair = chain("fair", dice, |plugin| plugin.grants.random = true);
    assert_ne!(throw(&mut fair, 1), throw(&mut fair, 1));
}

#[test]
fn a_granted_environment_is_seen() {
    let ask = || {
        asking(
            r#"(call $environment (i32.const 1024)) (local.set $i (i32.load (i32.const 1024)))
               (if (i32.ne (i32.load (i32.const 1028)) (i32.const 2)) (then (return (call $keep))))
               (call $label (i32.load (local.get $i)) (i32.load offset=4 (local.get $i))
                            (i32.load offset=8 (local.get $i)) (i32.load offset=12 (local.get $i)))
               (call $label (i32.load offset=16 (local.get $i)) (i32.load offset=20 (local.get $i)) $"there")
               (call $change)"#,
            r#"(import "wasi:cli/environment@0.2.0" "get-environment" (func $environment (param i32)))"#,
            &["wasi:cli/environment@0.2.0"],
            "package wasi:cli@0.2.0 { interface environment { get-environment: func() -> list<tuple<string, string>>; } }",
        )
    };
    let mut granted = chain("a", ask(), |plugin| {
        plugin.grants.environment.insert("A_site".into(), Some(Secret::new("hall-3")));
        plugin.grants.environment.insert("PATH".into(), None);
    });
    let seen = output(granted.transform(&input(1)));
    let told: Vec<_> = seen.labels.iter().map(|label| (label.name.as_str(), label.value.as_deref())).collect();
    assert_eq!(told, [("A_site", Some("hall-3")), ("PATH", Some("there"))]);
    let bed = Bed::of(&[]).with("a", &ask(), |plugin| {
        plugin.grants.environment.insert("NO_SUCH_VARIABLE_HERE".into(), None);
    });
    let error = runtime().load(&bed.plugins[0]).unwrap_err().to_string();
    assert!(error.contains("the host's environment has no NO_SUCH_VARIABLE_HERE"), "{error}");
}

const FILES: &str = "package wasi:filesystem@0.2.0 {
  interface types {
    type filesize = u64;
    enum error-code {
      access, would-block, already, bad-descriptor, busy, deadlock, quota, exist, file-too-large, illegal-byte-sequence,
      in-progress, interrupted, invalid, io, is-directory, loop, too-many-links, message-size, name-too-long, no-device,
      no-entry, no-lock, insufficient-memory, insufficient-space, not-directory, not-empty, not-recoverable, unsupported,
      no-tty, no-such-device, overflow, not-permitted, pipe, read-only, invalid-seek, text-file-busy, cross-device
    }
    flags path-flags { symlink-follow }
    flags open-flags { create, directory, exclusive, truncate }
    flags descriptor-flags { read, write, file-integrity-sync, data-integrity-sync, requested-write-sync,
                             mutate-directory }
    resource descriptor {
      open-at: func(path-flags: path-flags, path: string, open-flags: open-flags, %flags: descriptor-flags)
        -> result<descriptor, error-code>;
      read: func(length: filesize, offset: filesize) -> result<tuple<list<u8>, bool>, error-code>;
    }
  }
  interface preopens { use types.{descriptor}; get-directories: func() -> list<tuple<descriptor, string>>; }
}";

/// A guest that opens `path` in the first directory for reading, and with `create` also for writing. It sets the label
/// `file` to the file's content, or the timestamp to the error's number.
fn opening(path: &str, create: bool) -> Vec<u8> {
    let (open, flags) = if create { (1, 3) } else { (0, 1) };
    asking(
        &format!(
            r#"(call $directories (i32.const 1024))
               (if (i32.eqz (i32.load (i32.const 1028))) (then (call $label $"file" $"no directory") (return (call $change))))
               (call $open (i32.load (i32.load (i32.const 1024))) (i32.const 1) $"{path}"
                           (i32.const {open}) (i32.const {flags}) (i32.const 2048))
               (if (i32.load8_u (i32.const 2048)) (then
                 (call $time (i64.load8_u (i32.const 2052))) (return (call $change))))
               (call $read (i32.load (i32.const 2052)) (i64.const 100) (i64.const 0) (i32.const 2064))
               (if (i32.load8_u (i32.const 2064)) (then unreachable))
               (call $label $"file" (i32.load (i32.const 2068)) (i32.load (i32.const 2072))) (call $change)"#
        ),
        r#"(import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $directories (param i32)))
           (import "wasi:filesystem/types@0.2.0" "[method]descriptor.open-at"
             (func $open (param i32 i32 i32 i32 i32 i32 i32)))
           (import "wasi:filesystem/types@0.2.0" "[method]descriptor.read"
             (func $read (param i32 i64 i64 i32)))"#,
        &["wasi:filesystem/types@0.2.0", "wasi:filesystem/preopens@0.2.0"],
        FILES,
    )
}

#[test]
fn a_granted_directory_can_be_read_and_no_more() {
    keep_log();
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    std::fs::write(models.join("one"), "a model").unwrap();
    std::fs::write(folder.path().join("secret"), "beside it").unwrap();
    std::os::unix::fs::symlink("../secret", models.join("link")).unwrap();
    let grant = |writable| {
        let directory = GrantedDirectory { path: models.clone(), guest: "/models".into(), writable };
        move |plugin: &mut PluginConfig| plugin.grants.directories = vec![directory]
    };
    let opened = |guest, grant| output(chain("reader", guest, grant).transform(&input(1)));
    let read = opened(opening("one", false), grant(false));
    assert_eq!(label(&read, "file").as_deref(), Some("a model"));
    const NOT_PERMITTED: u64 = 31;
    for (path, create) in [("../secret", false), ("link", false), ("/etc/passwd", false), ("two", true), ("one", true)]
    {
        let denied = opened(opening(path, create), grant(false));
        assert_eq!(denied.timestamp_us, Some(NOT_PERMITTED), "{path}, create: {create}: {denied:?}");
    }
    assert!(!models.join("two").exists());
    // Each attempt has a chain of its own, and therefore its own log line.
    assert_eq!(logged(&["plugin=reader", "asked for a path outside", "grants.directories = "]).len(), 3);
    assert_eq!(logged(&["plugin=reader", "asked for writing", "writable = true"]).len(), 2);
    opened(opening("two", true), grant(true));
    assert!(models.join("two").exists());

    let without = output(chain("shut-out", opening("one", false), |_| {}).transform(&input(1)));
    assert_eq!(label(&without, "file").as_deref(), Some("no directory"));
    assert_eq!(logged(&["plugin=shut-out", "asked for directories", "grants.directories = "]).len(), 1);

    let bed = Bed::of(&[]).with("a", &opening("one", false), |plugin| {
        let path = folder.path().join("nothing-there");
        plugin.grants.directories = vec![GrantedDirectory { path, guest: "/models".into(), writable: false }];
    });
    let error = runtime().load(&bed.plugins[0]).unwrap_err().to_string();
    assert!(error.contains("nothing-there can't be opened"), "{error}");
}

const HTTP: &str = "package wasi:io@0.2.0 {
  interface poll { resource pollable { block: func(); } }
}
package wasi:http@0.2.0 {
  interface types {
    use wasi:io/poll@0.2.0.{pollable};
    variant scheme { HTTP, HTTPS, other(string) }
    record DNS-error-payload { rcode: option<string>, info-code: option<u16> }
    record TLS-alert-received-payload { alert-id: option<u8>, alert-message: option<string> }
    record field-size-payload { field-name: option<string>, field-size: option<u32> }
    variant error-code {
      DNS-timeout, DNS-error(DNS-error-payload), destination-not-found, destination-unavailable,
      destination-IP-prohibited, destination-IP-unroutable, connection-refused, connection-terminated,
      connection-timeout, connection-read-timeout, connection-write-timeout, connection-limit-reached,
      TLS-protocol-error, TLS-certificate-error, TLS-alert-received(TLS-alert-received-payload), HTTP-request-denied,
      HTTP-request-length-required, HTTP-request-body-size(option<u64>), HTTP-request-method-invalid,
      HTTP-request-URI-invalid, HTTP-request-URI-too-long, HTTP-request-header-section-size(option<u32>),
      HTTP-request-header-size(option<field-size-payload>), HTTP-request-trailer-section-size(option<u32>),
      HTTP-request-trailer-size(field-size-payload), HTTP-response-incomplete,
      HTTP-response-header-section-size(option<u32>), HTTP-response-header-size(field-size-payload),
      HTTP-response-body-size(option<u64>), HTTP-response-trailer-section-size(option<u32>),
      HTTP-response-trailer-size(field-size-payload), HTTP-response-transfer-coding(option<string>),
      HTTP-response-content-coding(option<string>), HTTP-response-timeout, HTTP-upgrade-failed, HTTP-protocol-error,
      loop-detected, configuration-error, internal-error(option<string>)
    }
    resource fields { constructor(); }
    type headers = fields;
    resource incoming-response { status: func() -> u16; }
    resource future-incoming-response {
      subscribe: func() -> pollable;
      get: func() -> option<result<result<incoming-response, error-code>>>;
    }
    resource request-options { }
    resource outgoing-request {
      constructor(headers: headers);
      set-scheme: func(scheme: option<scheme>) -> result;
      set-authority: func(authority: option<string>) -> result;
      set-path-with-query: func(path-with-query: option<string>) -> result;
    }
  }
  interface outgoing-handler {
    use types.{outgoing-request, request-options, future-incoming-response, error-code};
    handle: func(request: outgoing-request, options: option<request-options>)
      -> result<future-incoming-response, error-code>;
  }
}";
const REQUEST_DENIED: u64 = 1000 + 15;

/// A guest that sends a request to `authority` over HTTP, or over HTTPS if `scheme` is 1. It sets the timestamp to the
/// answer's status, or to 1000 plus the error's number.
fn fetching(scheme: u32, authority: &str) -> Vec<u8> {
    asking(
        &format!(
            r#"(local.set $i (call $request (call $fields)))
               (drop (call $set-scheme (local.get $i) (i32.const 1) (i32.const {scheme}) (i32.const 0) (i32.const 0)))
               (drop (call $set-authority (local.get $i) (i32.const 1) $"{authority}"))
               (drop (call $set-path (local.get $i) (i32.const 1) $"/"))
               (call $handle (local.get $i) (i32.const 0) (i32.const 0) (i32.const 2048))
               (if (i32.load8_u (i32.const 2048)) (then unreachable))
               (local.set $i (i32.load (i32.const 2056)))
               (call $block (call $subscribe (local.get $i)))
               (call $get (local.get $i) (i32.const 2112))
               (call $time (if (result i64) (i32.load8_u (i32.const 2128))
                 (then (i64.add (i64.const 1000) (i64.load8_u (i32.const 2136))))
                 (else (i64.extend_i32_u (call $status (i32.load (i32.const 2136)))))))
               (call $change)"#
        ),
        r#"(import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
           (import "wasi:http/types@0.2.0" "[constructor]outgoing-request" (func $request (param i32) (result i32)))
           (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-scheme"
             (func $set-scheme (param i32 i32 i32 i32 i32) (result i32)))
           (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-authority"
             (func $set-authority (param i32 i32 i32 i32) (result i32)))
           (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-path-with-query"
             (func $set-path (param i32 i32 i32 i32) (result i32)))
           (import "wasi:http/outgoing-handler@0.2.0" "handle" (func $handle (param i32 i32 i32 i32)))
           (import "wasi:http/types@0.2.0" "[method]future-incoming-response.subscribe"
             (func $subscribe (param i32) (result i32)))
           (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
           (import "wasi:http/types@0.2.0" "[method]future-incoming-response.get" (func $get (param i32 i32)))
           (import "wasi:http/types@0.2.0" "[method]incoming-response.status" (func $status (param i32) (result i32)))"#,
        &["wasi:io/poll@0.2.0", "wasi:http/types@0.2.0", "wasi:http/outgoing-handler@0.2.0"],
        HTTP,
    )
}

#[test]
fn http_reaches_granted_hosts_only() {
    keep_log();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap() > 0 {
            request.push(byte[0]);
        }
        client.write_all(b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 0\r\n\r\n").unwrap();
        String::from_utf8(request).unwrap()
    });
    let mut granted = chain("online", fetching(0, &address), |plugin| plugin.grants.http = vec![address.clone()]);
    assert_eq!(output(granted.transform(&input(1))).timestamp_us, Some(418));
    assert!(server.join().unwrap().starts_with("GET / HTTP/1.1\r\n"));

    let mut denied = chain("offline", fetching(0, "127.0.0.1:1"), |plugin| plugin.grants.http = vec![address]);
    for offset in 0..3 {
        assert_eq!(output(denied.transform(&input(offset))).timestamp_us, Some(REQUEST_DENIED));
    }
    let told = logged(&["WARN", "plugin=offline", r#"grants.http = ["127.0.0.1:1"]"#]);
    assert_eq!(told.len(), 1, "once: {told:?}");
}

#[test]
fn a_host_that_never_answers_is_waited_for_no_longer_than_the_time_limit() {
    // The server accepts connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for scheme in [0, 1] {
        let mut waiting = chain("a", fetching(scheme, &address), |plugin| {
            plugin.grants.http = vec![address.clone()];
            plugin.timeout = Duration::from_millis(300);
        });
        let start = Instant::now();
        // The request's own timeout and the call's deadline are milliseconds apart, so either may come first.
        match waiting.transform(&input(1)) {
            Outcome::DeadLetter(failure) => assert!(failure.reason.contains("time limit of 300ms"), "{failure:?}"),
            other => assert!(matches!(output(other).timestamp_us, Some(1008 | 1009 | 1033)), "a time-out"),
        }
        let took = start.elapsed();
        assert!(took < PATIENCE, "scheme {scheme}: {took:?}");
    }
    drop(listener);
}
