//! Plugins that attack the host: they block a worker, fill memory, or pass texts that the log or the store can't take.

use std::sync::{Arc, mpsc};
use std::thread;

use reduct_sink::config::{FailurePolicy, GrantedDirectory, InstancesFor, PluginConfig};
use reduct_sink::plugin::LoadProblem;
use reduct_sink::record::entry_name::{EntriesAllowed, EntryPattern};
use reduct_sink::record::{InputRecord, TopicPartition};

use crate::bed::{
    Bed, PATIENCE, SHORT, dead_letter, input, keep_log, load_error, logged, output, outputs, record, resident,
    runs_alone, runtime,
};
use crate::grants::{asking, chain};
use crate::guest::{Guest, guest};

const BODY: &str = "package wasi:io@0.2.0 {
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
package wasi:http@0.2.0 {
  interface types {
    use wasi:io/streams@0.2.0.{output-stream};
    resource fields { constructor(); }
    type headers = fields;
    resource outgoing-body { write: func() -> result<output-stream>; }
    resource outgoing-request { constructor(headers: headers); body: func() -> result<outgoing-body>; }
  }
}";
const IMPORTS: &str = r#"
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-request" (func $request (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $write (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[resource-drop]outgoing-body" (func $drop-body (param i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop-stream (param i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.write-zeroes" (func $zeroes (param i32 i64 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
    (func $flush (param i32 i32 i32 i32)))"#;
const BODIES: [&str; 3] = ["wasi:io/error@0.2.0", "wasi:io/streams@0.2.0", "wasi:http/types@0.2.0"];

/// Writes three times to the body of a request that is never sent: the second write waits for a reader.
const WAITING: &str = "(call $body (call $request (call $fields)) (i32.const 2048))
  (call $write (i32.load (i32.const 2052)) (i32.const 2064))
  (local.set $n (i32.load (i32.const 2068)))
  (call $flush (local.get $n) (i32.const 2048) (i32.const 1) (i32.const 2080))
  (call $flush (local.get $n) (i32.const 2048) (i32.const 1) (i32.const 2080))
  (call $flush (local.get $n) (i32.const 2048) (i32.const 1) (i32.const 2080))";

fn with_http(plugin: &mut PluginConfig) {
    plugin.grants.http = vec!["127.0.0.1:1".into()];
}

/// The result of `call`, which runs on a thread of its own, so that the test fails instead of hanging if the host
/// hangs.
fn in_time<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, answered) = mpsc::channel();
    thread::spawn(move || done.send(call()));
    answered.recv_timeout(PATIENCE).expect("the call never ends")
}

/// By this a component needs the engine on which calls are asynchronous.
const ASYNC: &str = r#"(import "$root" "[context-set-0]" (func $context (param i32)))"#;

#[test]
fn a_body_that_nobody_reads_holds_no_call_up() {
    for (name, import, begin) in [("waiting", "", ""), ("waiting-async", ASYNC, "(call $context (i32.const 7))")] {
        let guest = asking(&format!("{begin} {WAITING} (call $keep)"), &format!("{IMPORTS} {import}"), &BODIES, BODY);
        let failure = in_time(move || {
            let mut chain = chain(name, guest, |plugin| {
                with_http(plugin);
                plugin.timeout = SHORT;
            });
            let failure = dead_letter(chain.transform(&input(1)));
            dead_letter(chain.transform(&input(2)));
            failure
        });
        assert!(failure.reason.contains("time limit of 200ms, while it waited for the host"), "{failure:?}");
    }
}

#[test]
fn a_body_that_nobody_reads_holds_no_load_up() {
    let configure = WAITING.replace("local.set $n", "global.set $at").replace("local.get $n", "global.get $at");
    let packages = format!(
        "package test:ask; {BODY} world ask {{ include reduct-sink:transform/transform@0.1.0;
         import wasi:io/error@0.2.0; import wasi:io/streams@0.2.0; import wasi:http/types@0.2.0; }}"
    );
    let guest = Guest::new("(call $keep)").configure(&format!("{configure} (i32.const 0)"));
    let guest = guest.importing(IMPORTS, &packages, "ask").build();
    let problem = in_time(move || {
        let bed = Bed::of(&[]).with("waiting-at-start", &guest, with_http);
        runtime().load(&bed.plugins[0]).unwrap_err().problem
    });
    assert!(matches!(problem, LoadProblem::StartTimedOut), "{problem:?}");
}

#[test]
fn without_a_grant_http_holds_nothing() {
    keep_log();
    let guest = asking("(drop (call $fields)) (call $keep)", IMPORTS, &BODIES, BODY);
    let failure = dead_letter(chain("ungranted", guest, |_| {}).transform(&input(1)));
    assert!(failure.reason.contains("`grants.http`"), "{failure:?}");
    assert_eq!(logged(&["WARN", "plugin=ungranted", "by HTTP"]).len(), 1);
}

#[test]
fn bodies_of_requests_are_bounded() {
    if !runs_alone("attacks::bodies_of_requests_are_bounded") {
        return;
    }
    // Each call makes 50 requests with two chunks of 1 MiB each.
    let guest = asking(
        "(loop $more
           (call $body (call $request (call $fields)) (i32.const 2048))
           (call $write (i32.load (i32.const 2052)) (i32.const 2064))
           (local.set $i (i32.load (i32.const 2068)))
           (call $zeroes (local.get $i) (i64.const 1048576) (i32.const 2080))
           (call $zeroes (local.get $i) (i64.const 1048576) (i32.const 2080))
           (call $drop-stream (local.get $i))
           (call $drop-body (i32.load (i32.const 2052)))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const 50))))
         (call $keep)",
        IMPORTS,
        &BODIES,
        BODY,
    );
    let mut chain = chain("hoarder-of-bodies", guest, with_http);
    let before = resident();
    for offset in 0..10 {
        chain.transform(&input(offset));
    }
    let more = resident().saturating_sub(before) >> 20;
    assert!(more < 200, "{more} MB more");
}

#[test]
fn tables_count_against_the_memory_limit() {
    // Half a million elements take 4 MB.
    let component = Guest::new("(call $keep)").defining("(table 500000 funcref)").build();
    let bed = Bed::of(&[]).with("tables", &component, |plugin| plugin.memory_bytes = 2 << 20);
    let error = runtime().load(&bed.plugins[0]).unwrap_err();
    assert!(error.to_string().contains("memory limit"), "{error}");
    let bed = Bed::of(&[]).with("tables", &component, |plugin| plugin.memory_bytes = 8 << 20);
    runtime().load(&bed.plugins[0]).unwrap();
}

#[test]
fn what_the_store_can_not_bear_is_refused_at_the_verdict() {
    let long = |unit: &str, times: usize| unit.repeat(times);
    for (body, reason) in [
        (format!(r#"(call $entry $"{}") (call $change)"#, long("a", 600)), "illegal entry"),
        (format!(r#"(call $entry $"{}a") (call $change)"#, long("a/", 20)), "illegal entry"),
        (format!(r#"(call $type $"text/{}") (call $change)"#, long("x", 255)), "illegal content type"),
        (r#"(call $label $"l" (i32.const 100000) (i32.const 66000)) (call $change)"#.into(), "65536"),
    ] {
        let failure = dead_letter(Bed::of(&[&guest(&body)]).chain().transform(&input(1)));
        assert!(failure.reason.contains(reason), "{reason}: {}", failure.reason);
    }
}

#[test]
fn labels_are_bounded_over_the_whole_chain() {
    let label =
        |name: &str| guest(&format!(r#"(call $label $"{name}" (i32.const 100000) (i32.const 40000)) (call $change)"#));
    let failure = dead_letter(Bed::of(&[&label("x"), &label("y")]).chain().transform(&input(1)));
    assert_eq!(&*failure.plugin, "b");
    assert!(failure.reason.contains("80002 bytes; the most are 65536"), "{}", failure.reason);
}

#[test]
fn the_verdicts_on_the_parts_of_one_record_are_bounded_together() {
    let splits = guest("(call $part) (call $part) (call $part) (call $split)");
    let grows = guest("(call $payload (i32.const 0) (i32.const 40000)) (call $change)");
    let transform = |bytes| {
        let bed = Bed::of(&[&splits]).with("grower", &grows, |plugin| plugin.limits.verdict_bytes = bytes);
        bed.chain().transform(&input(1))
    };
    assert_eq!(outputs(transform(120_000)).len(), 3);
    let failure = dead_letter(transform(100_000));
    assert_eq!(&*failure.plugin, "grower");
    assert!(failure.reason.contains("120000 bytes so far; the most are 100000"), "{}", failure.reason);
}

#[test]
fn what_a_plugin_says_is_one_line_everywhere() {
    keep_log();
    let evil = "x\n2026-11-25T00:00:00Z  INFO reduct_sink::pipeline: stopped\u{1b}]0;owned\u{7}\u{202e}\u{2028}";
    let error = load_error(&Guest::new("(call $keep)").configure(&format!("(call $refuse $\"{evil}\")")).build());
    assert!(matches!(error.problem, LoadProblem::ConfigureRefused(_)), "{error}");
    let rejecting = guest(&format!("(call $reject $\"{evil}\")"));
    let rejected = dead_letter(Bed::of(&[&rejecting]).chain().transform(&input(1))).reason;
    let logging = guest(&format!("(call $host-log (i32.const 1) $\"{evil}\") (call $keep)"));
    outputs(Bed::of(&[]).with("forger", &logging, |_| {}).chain().transform(&input(1)));
    let [line] = logged(&["forger", "owned"]).try_into().unwrap();
    for text in [error.to_string(), rejected, line] {
        assert!(text.contains("x\\n2026") && text.contains("\\u{1b}]0;owned\\u{7}\\u{202e}\\u{2028}"), "{text}");
        assert!(!text.contains(['\n', '\u{1b}', '\u{7}', '\u{202e}', '\u{2028}']), "{text}");
    }
}

#[test]
fn an_instance_for_each_topic_sees_the_records_of_one_topic() {
    let count = guest("(call $time (global.get $calls)) (call $change)");
    let calls = |instances| {
        let bed = Bed::of(&[]).with("per-topic", &count, |plugin| plugin.instances = instances);
        let mut chain = bed.chain();
        let ask = |topic: &str| {
            let source = TopicPartition { topic: topic.into(), partition: 0 };
            let record = Arc::new(InputRecord { source, ..record(1) });
            output(chain.transform(&record)).timestamp_us.unwrap()
        };
        ["a", "b", "a", "b", "a"].map(ask)
    };
    assert_eq!(calls(InstancesFor::AllTopics), [1, 2, 3, 4, 5]);
    assert_eq!(calls(InstancesFor::EachTopic), [1, 1, 2, 2, 3]);
}

#[test]
fn a_plugin_that_fails_on_everything_costs_the_log_a_few_lines() {
    keep_log();
    for (policy, name) in [(FailurePolicy::DeadLetter, "loser"), (FailurePolicy::Skip, "skipper")] {
        let bed = Bed::of(&[]).with(name, &guest(r#"(call $reject $"no header camera")"#), |plugin| {
            plugin.on_failure = policy;
        });
        let mut chain = bed.chain();
        for offset in 0..1000 {
            chain.transform(&input(offset));
        }
        drop((chain, bed));
        let lines = logged(&[&format!("plugin={name}"), "no header camera"]);
        assert!((1..=3).contains(&lines.len()), "{lines:?}");
        assert!(lines[0].contains("topic=line.7 partition=2 offset=0"), "{lines:?}");
        assert!(lines.last().unwrap().contains("records="), "the others are counted: {lines:?}");
    }
}

#[test]
fn what_a_plugin_printed_before_it_failed_is_the_reason() {
    keep_log();
    let streams = "package wasi:io@0.2.0 {
      interface error { resource error; }
      interface streams {
        use error.{error};
        variant stream-error { last-operation-failed(error), closed }
        resource output-stream { blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>; }
      }
    }
    package wasi:cli@0.2.0 {
      interface stderr { use wasi:io/streams@0.2.0.{output-stream}; get-stderr: func() -> output-stream; }
    }";
    let imports = r#"(import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
       (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
         (func $print (param i32 i32 i32 i32)))"#;
    let print = |text: &str| format!(r#"(call $print (call $stderr) $"{text}" (i32.const 1024))"#);
    let body = format!(
        "(if (i64.eq (local.get $offset) (i64.const 1)) (then {} (return (call $keep)))) {} unreachable",
        print("a warning of a record before\n"),
        print("File app.py, line 7, in transform\nValueError: not a frame"),
    );
    let guest = asking(&body, imports, &["wasi:cli/stderr@0.2.0", "wasi:io/streams@0.2.0"], streams);
    let mut chain = chain("snake", guest, |_| {});
    output(chain.transform(&input(1)));
    let reason = dead_letter(chain.transform(&input(2))).reason;
    let cause = "File app.py, line 7, in transform | ValueError: not a frame (wasm trap: wasm `unreachable`";
    assert!(reason.starts_with(cause), "{reason}");
    let printed = logged(&["plugin=snake", "plugin: ", "ValueError"]);
    assert!(printed.iter().any(|line| line.contains("topic=\"line.7\" partition=2 offset=2")), "{printed:?}");
}

#[test]
fn a_directory_that_holds_the_hosts_own_files_is_not_granted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["etc", "etc/models", "cache", "cache/inside", "data"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("etc/sink.toml"), "").unwrap();
    std::os::unix::fs::symlink(at("etc"), at("data/link")).unwrap();
    let load = |directory: &str, writable| {
        let bed = Bed::of(&[]).with("granted", &guest("(call $keep)"), |plugin| {
            let granted = GrantedDirectory { path: at(directory), guest: "/g".into(), writable };
            plugin.grants.directories = vec![granted];
            plugin.grants.own_files = vec![at("etc/sink.toml"), at("cache"), at("data/plugins/p.wasm")];
            plugin.grants.own_secrets = vec![at("cache")];
        });
        runtime().load(&bed.plugins[0]).map(|_| ()).map_err(|error| error.to_string())
    };
    for (directory, writable) in [
        ("etc", true),
        ("data/link", true),
        ("cache/inside", true),
        ("data", true),
        ("", true),
        ("cache", false),
        ("", false),
    ] {
        let error = load(directory, writable).expect_err(directory);
        assert!(error.contains("it could"), "{directory}: {error}");
    }
    for (directory, writable) in [("etc/models", true), ("etc", false), ("data", false)] {
        load(directory, writable).expect(directory);
    }
}

#[test]
fn no_plugin_can_put_a_link_in_the_way_to_a_granted_directory() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["data", "data/models", "models", "other"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    for (target, link) in
        [("../models", "data/way"), ("data/way", "hidden"), ("data/models", "into"), ("models", "fine")]
    {
        std::os::unix::fs::symlink(target, at(link)).unwrap();
    }
    let load = |directory: &str, own: &[&str], others: &[&str]| {
        let bed = Bed::of(&[]).with("granted", &guest("(call $keep)"), |plugin| {
            let granted = |name: &str, writable| GrantedDirectory { path: at(name), guest: "/g".into(), writable };
            plugin.grants.directories = own.iter().map(|name| granted(name, true)).collect();
            plugin.grants.directories.push(granted(directory, false));
            plugin.grants.written_by_plugins = others.iter().map(|name| at(name)).collect();
        });
        runtime().load(&bed.plugins[0]).map(|_| ()).map_err(|error| error.to_string())
    };
    for directory in ["data/models", "data/way", "hidden", "into"] {
        for (own, others) in [(&["data"][..], &[][..]), (&[], &["data"])] {
            let error = load(directory, own, others).expect_err(directory);
            assert!(error.contains("it could put a link"), "{directory}: {error}");
        }
    }
    for (directory, others) in
        [("data", "data"), ("models", "data"), ("fine", "data"), ("hidden", "other"), ("data", "data/models")]
    {
        load(directory, &[], &[others]).expect(directory);
    }
}

#[test]
fn a_plugin_chooses_only_the_entries_that_it_may() {
    let choose = |entry: &str, allowed: &[&str]| {
        let bed =
            Bed::of(&[]).with("chooser", &guest(&format!(r#"(call $entry $"{entry}") (call $change)"#)), |plugin| {
                let listed = allowed.iter().map(|pattern| EntryPattern::parse(pattern).unwrap()).collect();
                plugin.entries = EntriesAllowed::Listed(listed);
            });
        bed.chain().transform(&input(1))
    };
    // The topic is line.7.
    for (entry, allowed) in [("images/front", &["images/*"][..]), ("line_2E7/a", &["x", "{topic}/*"]), ("a", &["*"])] {
        output(choose(entry, allowed));
    }
    for (entry, allowed) in
        [("lidar/0", &["images/*"][..]), ("images", &["images/*"]), ("line_2E7", &["{topic}/*"]), ("a", &[])]
    {
        let failure = dead_letter(choose(entry, allowed));
        assert!(failure.reason.contains("`limits.entries`"), "{failure:?}");
    }
}

#[test]
fn an_unsigned_plugin_does_not_load_where_keys_are_configured() {
    // This signature belongs to another file: it is the example of minisign's documentation.
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let signature = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1556193335\tfile:test
y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==";
    let bed = Bed::of(&[]).with("unsigned", &guest("(call $keep)"), |plugin| plugin.signed_by = vec![key.into()]);
    let load = || runtime().load(&bed.plugins[0]).unwrap_err().to_string();
    assert!(load().contains("has no signature"), "{}", load());
    std::fs::write(bed.path(0).with_extension("wasm.minisig"), signature).unwrap();
    assert!(load().contains("none of the configured keys"), "{}", load());
    std::fs::write(bed.path(0), "test").unwrap();
    assert!(!load().contains("signature"), "the right one for these bytes, which are no component: {}", load());
}
