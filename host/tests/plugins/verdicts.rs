//! Tests what each verdict makes of a record, of one plugin and in chains.

use std::sync::Arc;

use bytes::Bytes;
use reduct_sink::chain::{Chain, Outcome, SharedChain};
use reduct_sink::config::PluginSource;
use reduct_sink::plugin::Counts;
use reduct_sink::record::LabelChange;

use crate::bed::{Bed, dead_letter, header, input, label, output, outputs, plugin, record, runtime};
use crate::guest::guest;

#[test]
fn an_empty_chain_keeps_records_and_marks_nothing() {
    let mut chain = Bed::of(&[]).chain();
    let kept = output(chain.transform(&input(7)));
    assert_eq!((kept.index, kept.handled_by), (None, None));
}

#[test]
fn the_builtin_passthrough_leaves_no_mark() {
    let shared = SharedChain::load(runtime(), &[plugin("passthrough", PluginSource::Builtin)]).unwrap();
    let kept = output(Chain::new(shared).unwrap().transform(&input(7)));
    assert_eq!(kept.handled_by, None);
}

#[test]
fn keep_leaves_the_record_as_it_is_and_marks_who_saw_it() {
    let bed = Bed::of(&[&guest("(call $keep)")]);
    let shared = bed.shared();
    let mut chain = Chain::new(shared.clone()).unwrap();
    let input = input(7);
    let kept = output(chain.transform(&input));
    assert!(Arc::ptr_eq(&kept.input, &input));
    assert_eq!((kept.index, kept.entry, kept.timestamp_us, kept.content_type), (None, None, None, None));
    assert!(kept.labels.is_empty() && kept.payload.is_none());
    assert_eq!(*kept.handled_by.unwrap(), format!("a@{}", shared.versions()[0].digest.short()));
}

#[test]
fn drop_settles_the_record_and_asks_nobody_after() {
    let bed = Bed::of(&[&guest("(call $drop)"), &guest("unreachable")]);
    assert!(matches!(bed.chain().transform(&input(7)), Outcome::Dropped));
}

#[test]
fn change_sets_what_it_names_and_leaves_the_rest() {
    let all = guest(
        r#"(call $entry $"left") (call $time (i64.const 42)) (call $label $"line" $"7") (call $unlabel $"size")
           (call $type $"image/png") (call $payload $"pixels") (call $change)"#,
    );
    let nothing = guest("(call $change)");
    let changed = output(Bed::of(&[&all, &nothing]).chain().transform(&input(7)));
    assert_eq!(changed.entry.as_deref(), Some("left"));
    assert_eq!(changed.timestamp_us, Some(42));
    assert_eq!(changed.content_type.as_deref(), Some("image/png"));
    assert_eq!(changed.payload, Some(Bytes::from_static(b"pixels")));
    let expected = [("line", Some("7")), ("size", None)];
    let expected = expected.map(|(name, value)| LabelChange { name: name.into(), value: value.map(Into::into) });
    assert_eq!(changed.labels, expected.to_vec());
    assert_eq!(changed.index, None);
}

#[test]
fn an_empty_payload_is_not_the_same_as_none() {
    let changed = output(Bed::of(&[&guest(r#"(call $payload $"") (call $change)"#)]).chain().transform(&input(7)));
    assert_eq!(changed.payload, Some(Bytes::new()));
}

const SPLIT_IN_TWO: &str = r#"(call $part) (call $entry $"left") (call $payload $"12")
                              (call $part) (call $entry $"right") (call $payload $"3") (call $split)"#;

#[test]
fn split_makes_numbered_parts_of_the_record() {
    let bed = Bed::of(&[&guest(r#"(call $label $"seen" $"yes") (call $change)"#), &guest(SPLIT_IN_TWO)]);
    let parts = outputs(bed.chain().transform(&input(7)));
    let told: Vec<_> = parts.iter().map(|part| (part.index, part.entry.as_deref(), part.payload())).collect();
    assert_eq!(told, [(Some(0), Some("left"), "12".into()), (Some(1), Some("right"), "3".into())]);
    assert!(parts.iter().all(|part| label(part, "seen").as_deref() == Some("yes")), "{parts:?}");
}

#[test]
fn the_one_part_of_a_split_is_numbered_too() {
    let part = output(Bed::of(&[&guest("(call $part) (call $split)")]).chain().transform(&input(7)));
    assert_eq!((part.index, part.payload()), (Some(0), "0123456789".into()));
}

#[test]
fn the_plugins_after_a_split_see_each_part() {
    // The second plugin keeps the part with two bytes, and labels it with the entry that the first plugin chose.
    let second = guest(
        r#"(if (result i32) (i64.eq (local.get $payload-size) (i64.const 2))
             (then (call $host-entry) (call $label $"at" (global.get $got) (global.get $got-length)) (call $change))
             (else (call $drop)))"#,
    );
    let part = output(Bed::of(&[&guest(SPLIT_IN_TWO), &second]).chain().transform(&input(7)));
    assert_eq!((part.index, label(&part, "at").as_deref()), (Some(0), Some("left")));
}

#[test]
fn a_split_of_parts_keeps_their_order() {
    let again = guest(r#"(call $part) (call $part) (call $type $"b/b") (call $split)"#);
    let parts = outputs(Bed::of(&[&guest(SPLIT_IN_TWO), &again]).chain().transform(&input(7)));
    let told: Vec<_> = parts.iter().map(|part| (part.index, part.payload(), part.content_type.is_some())).collect();
    let expected = [("12", false), ("12", true), ("3", false), ("3", true)];
    let expected: Vec<_> = (0..).zip(expected).map(|(at, (text, typed))| (Some(at), text.into(), typed)).collect();
    assert_eq!(told, expected);
}

#[test]
fn a_plugin_sees_what_the_ones_before_it_made_of_the_record() {
    let first = guest(
        r#"(call $entry $"left") (call $time (i64.const 42)) (call $label $"type" $"jpeg") (call $type $"image/jpeg")
           (call $payload $"pixels") (call $change)"#,
    );
    // Labels are sorted by name: `size`, `type`. Each takes 16 bytes, with the value's address and length at 8 and 12.
    let second = guest(
        r#"(call $host-entry) (call $label $"entry" (global.get $got) (global.get $got-length))
           (call $host-type) (call $label $"content-type" (global.get $got) (global.get $got-length))
           (call $host-payload) (call $label $"payload" (global.get $got) (global.get $got-length))
           (call $host-read (i64.const 2) (i32.const 3))
           (call $label $"part" (global.get $got) (global.get $got-length))
           (call $host-labels) (call $label $"old-type" (i32.load offset=24 (global.get $got))
                                                         (i32.load offset=28 (global.get $got)))
           (if (i64.ne (local.get $payload-size) (i64.const 6)) (then unreachable))
           (if (i64.ne (local.get $timestamp) (i64.const 42)) (then unreachable))
           (call $change)"#,
    );
    let seen = output(Bed::of(&[&first, &second]).chain().transform(&input(7)));
    for (name, value) in [
        ("entry", "left"),
        ("content-type", "image/jpeg"),
        ("payload", "pixels"),
        ("part", "xel"),
        ("old-type", "jpeg"),
    ] {
        assert_eq!(label(&seen, name).as_deref(), Some(value), "{name}");
    }
}

#[test]
fn a_plugin_sees_the_record_as_kafka_has_it() {
    // The guest makes a label of each header's key and value; then the rest of the message is checked.
    let tell = guest(
        r#"(local.set $i (local.get $headers))
           (local.set $n (i32.add (local.get $headers) (i32.mul (local.get $header-count) (i32.const 20))))
           (loop $next
             (if (i32.lt_u (local.get $i) (local.get $n)) (then
               (if (i32.load8_u offset=8 (local.get $i))
                 (then (call $label (i32.load (local.get $i)) (i32.load offset=4 (local.get $i))
                         (i32.load offset=12 (local.get $i)) (i32.load offset=16 (local.get $i))))
                 (else (call $label (i32.load (local.get $i)) (i32.load offset=4 (local.get $i)) $"was null")))
               (local.set $i (i32.add (local.get $i) (i32.const 20)))
               (br $next))))
           (call $label $"topic" (local.get $topic) (local.get $topic-length))
           (if (local.get $has-key) (then (call $label $"key" (local.get $key) (local.get $key-length))))
           (call $host-entry) (call $label $"entry" (global.get $got) (global.get $got-length))
           (call $host-read (i64.const 8) (i32.const 99))
           (call $label $"end" (global.get $got) (global.get $got-length))
           (if (i32.ne (local.get $partition) (i32.const 2)) (then unreachable))
           (if (i64.ne (local.get $offset) (i64.const 1234)) (then unreachable))
           (if (i64.ne (local.get $timestamp) (i64.const 1700000000000000)) (then unreachable))
           (if (i64.ne (local.get $payload-size) (i64.const 10)) (then unreachable))
           (call $change)"#,
    );
    let mut record = record(1234);
    record.headers = vec![header(b"plain", Some(b"text")), header(b"b\xffd", Some(b"")), header(b"none", None)];
    let told = output(Bed::of(&[&tell]).chain().transform(&Arc::new(record)));
    let told: Vec<_> = told.labels.iter().map(|l| (l.name.as_str(), l.value.as_deref().unwrap())).collect();
    let headers = [("plain", "text"), ("b%ffd", ""), ("none", "was null")];
    let rest = [("topic", "line.7"), ("key", "key"), ("entry", "line_2E7"), ("end", "89")];
    assert_eq!(told, [headers.as_slice(), rest.as_slice()].concat());
}

#[test]
fn a_tombstone_has_neither_payload_nor_size_nor_key() {
    let check = guest(
        r#"(call $host-payload)
           (if (i64.ne (i64.add (local.get $payload-size) (i64.extend_i32_u (global.get $got-length))) (i64.const 0))
             (then unreachable))
           (if (local.get $has-key) (then unreachable))
           (call $keep)"#,
    );
    let mut record = record(1);
    (record.payload, record.key) = (None, None);
    let kept = output(Bed::of(&[&check]).chain().transform(&Arc::new(record)));
    assert!(kept.payload.is_none(), "a tombstone stays one");
}

/// A body that splits the record into `count` parts.
fn parts(count: u32) -> String {
    format!(
        "(loop $more (call $part) (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const {count})))) (call $split)"
    )
}

#[test]
fn wrong_answers_fail_the_record_with_the_rule_they_broke() {
    let labels = format!(
        r#"(loop $more (call $label $"l" $"v") (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const {})))) (call $change)"#,
        257
    );
    let large = r#"(drop (memory.grow (i32.const 1100)))
                   (call $payload (i32.const 0) (i32.const 67108865)) (call $change)"#;
    for (body, rule, calls) in [
        ("(call $split)", "split the record into no parts", 2),
        (parts(1025).as_str(), "1025 parts; the most are 1024", 1),
        (labels.as_str(), "257 labels of one record; the most are 256", 1),
        (r#"(call $entry $"a b") (call $change)"#, "illegal entry", 2),
        (r#"(call $entry $"") (call $change)"#, "illegal entry", 2),
        (r#"(call $part) (call $part) (call $entry $"a//b") (call $split)"#, "illegal entry", 2),
        (r#"(call $type $"a,b") (call $change)"#, "illegal content type", 2),
        (r#"(call $type $"") (call $change)"#, "illegal content type", 2),
        (large, "67108865 bytes; the most are 67108864", 1),
    ] {
        // The guest answers wrongly about one record and rightly about the next one. The same instance answers both,
        // unless it exceeded a limit.
        let body = format!(
            "(if (i64.eq (local.get $offset) (i64.const 2))
               (then (call $time (global.get $calls)) (return (call $change)))) {body}"
        );
        let bed = Bed::of(&[]).with("wrong", &guest(&body), |plugin| plugin.memory_bytes = 128 << 20);
        let mut chain = bed.chain();
        let failure = dead_letter(chain.transform(&input(1)));
        assert!(failure.reason.contains(rule), "{rule}: {}", failure.reason);
        assert_eq!(&*failure.plugin, "wrong");
        assert_eq!(output(chain.transform(&input(2))).timestamp_us, Some(calls), "{rule}");
    }
}

#[test]
fn the_limit_on_outputs_holds_over_the_whole_chain() {
    let bed = Bed::of(&[&guest(&parts(40)), &guest(&parts(30))]);
    let failure = dead_letter(bed.chain().transform(&input(1)));
    assert!(
        failure.reason.contains("makes 1200 outputs of the record; at most 1024 are allowed"),
        "{}",
        failure.reason
    );
    assert_eq!(&*failure.plugin, "b");
    let most = Bed::of(&[&guest(&parts(32)), &guest(&parts(32))]);
    assert_eq!(outputs(most.chain().transform(&input(1))).len(), 1024);
}

#[test]
fn the_passthrough_takes_messages_of_any_size_over_and_over() {
    let mut builtin = plugin("passthrough", PluginSource::Builtin);
    builtin.memory_bytes = 8 << 20;
    let mut chain = Chain::new(SharedChain::load(runtime(), &[builtin]).unwrap()).unwrap();
    let mut large = record(1);
    large.headers = (0..1000).map(|_| header(b"many", Some(&[b'x'; 1000]))).collect();
    large.headers.push(header(b"large", Some(&[b'y'; 1 << 20])));
    let large = Arc::new(large);
    for offset in 0..40 {
        assert_eq!(output(chain.transform(&large)).input.headers.len(), 1001, "record {offset}");
        assert!(output(chain.transform(&input(offset))).labels.is_empty());
    }
}

#[test]
fn calls_are_counted_by_what_became_of_them() {
    let body = r#"(if (i64.eq (local.get $offset) (i64.const 1)) (then (return (call $drop))))
                  (if (i64.eq (local.get $offset) (i64.const 2)) (then (return (call $change))))
                  (if (i64.eq (local.get $offset) (i64.const 3)) (then (call $part) (return (call $split))))
                  (if (i64.eq (local.get $offset) (i64.const 4)) (then (return (call $reject $"no"))))
                  (if (i64.eq (local.get $offset) (i64.const 5)) (then (return (call $retry $"later"))))
                  (if (i64.eq (local.get $offset) (i64.const 6)) (then unreachable))
                  (call $keep)"#;
    let shared = Bed::of(&[&guest(body)]).shared();
    let mut workers = [Chain::new(shared.clone()).unwrap(), Chain::new(shared.clone()).unwrap()];
    for offset in 0..20 {
        workers[offset % 2].transform(&input(offset as u64));
    }
    let expected = Counts { kept: 14, dropped: 1, changed: 1, split: 1, failed: 2, retried: 1 };
    assert_eq!(shared.versions()[0].counts, expected);
}
