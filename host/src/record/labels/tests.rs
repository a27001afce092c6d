//! Tests that headers come back from labels whatever they hold, that the configuration and plugins decide what is written, and that labels
//! of others do no harm.

use std::sync::Arc;

use bytes::Bytes;

use super::encode::is_reserved;
use super::*;
use crate::record::{Identity, LabelChange, Rejection};

type Raw = (Vec<u8>, Option<Vec<u8>>);

fn output(headers: &[Raw], key: Option<&[u8]>) -> OutputRecord {
    let headers = headers
        .iter()
        .map(|(key, value)| Header { key: key.clone().into(), value: value.clone().map(Bytes::from) })
        .collect();
    OutputRecord::unchanged(Arc::new(InputRecord {
        source: TopicPartition { topic: "t".into(), partition: 2 },
        topic_id: None,
        offset: 7,
        timestamp_ms: Some(1),
        key: key.map(Bytes::copy_from_slice),
        headers,
        payload: None,
    }))
}

fn text(headers: &[(&str, Option<&str>)]) -> OutputRecord {
    let raw: Vec<Raw> = headers
        .iter()
        .map(|(key, value)| (key.as_bytes().into(), value.map(|value| value.as_bytes().into())))
        .collect();
    output(&raw, Some(b"k"))
}

/// The labels made of the record's headers, as one text, and the value of `kafka.headers`.
fn labels(output: &OutputRecord) -> (String, Option<String>) {
    let rules = LabelRules::default();
    let labels: Vec<String> =
        rules.record_labels(output).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    (labels.join(" "), rules.all_labels(output).remove(HEADERS))
}

fn change(name: &str, value: Option<&str>) -> LabelChange {
    LabelChange { name: name.into(), value: value.map(Into::into) }
}

#[test]
fn plain_text_stays_as_in_the_tutorial_and_needs_no_further_label() {
    let plain = text(&[("load", Some("50 %")), ("size", Some("1024")), ("type", Some("binary"))]);
    assert_eq!(labels(&plain), ("load=50 % size=1024 type=binary".into(), None));
}

#[test]
fn what_a_label_cannot_express_is_in_one_further_label() {
    for (headers, plain, exact) in [
        (&[("deviceId", Some("a"))][..], "deviceid=a", "deviceId"),
        (&[("tag", Some("x")), ("tag", Some("y"))], "tag=y", "tag=x&tag"),
        (&[("b", Some("1")), ("a", Some("2"))], "a=2 b=1", "b&a"),
        (&[("city", Some("Zürich"))], "city=Z%C3%BCrich", "city*"),
        (&[("n", None), ("e", Some(""))], "", "n!&e="),
        (&[("a", Some("1")), ("a", None)], "", "a=1&a!"),
        (&[("kafka.offset", Some("9"))], "kafka_offset=9", "kafka.offset"),
        (&[("", Some("1"))], "_=1", "=1"),
        (&[("a b", Some("1")), ("a_b", Some("2"))], "a_b=2", "a%20b=1&a_b"),
    ] {
        let record = text(headers);
        assert_eq!(labels(&record), (plain.into(), Some(exact.into())), "{headers:?}");
        let original = read_original(&LabelRules::default().all_labels(&record)).unwrap();
        assert_eq!(original.headers, record.input.headers, "{headers:?}");
    }
}

#[test]
fn every_key_comes_back() {
    let all: Vec<u8> = (0..=255).collect();
    for key in [None, Some(&b""[..]), Some(b"plain"), Some(b"%41"), Some(b"@*"), Some(b"\x00\xff"), Some(&all)] {
        let record = output(&[], key);
        let labels = LabelRules::default().all_labels(&record);
        assert_eq!(read_original(&labels).unwrap(), Original { key: record.input.key.clone(), headers: vec![] });
    }
    assert_eq!(LabelRules::default().all_labels(&output(&[], Some(b"plain"))).remove(HEADERS), None);
}

#[test]
fn plugins_change_labels_in_order_and_what_they_removed_is_nowhere() {
    let mut record = text(&[("Token", Some("secret")), ("token", None), ("gone", Some("1")), ("deviceId", Some("a"))]);
    record.labels = vec![
        change("token", None),
        change("gone", None),
        change("Name", Some("näh\n")),
        change("kafka.offset", Some("9")),
        change("e", Some("x")),
        change("e", Some("")),
    ]
    .into();
    let (plain, exact) = labels(&record);
    assert_eq!(plain, "deviceid=a kafka_offset=9 name=n%C3%A4h%0A");
    assert_eq!(exact.as_deref(), Some("deviceId"));
    let all = LabelRules::default().all_labels(&record);
    assert_eq!((all[SOURCE].as_str(), all[OFFSET].as_str(), all[KEY].as_str()), ("t/2", "7", "k"));
    assert_eq!(all[TOMBSTONE], "true");
}

#[test]
fn the_configuration_chooses_headers_and_a_dead_letter_has_all() {
    let pattern = |text: &str| LabelPattern::parse(text).unwrap();
    let rules = LabelRules {
        include: vec![pattern("Device*"), pattern("size")],
        exclude: vec![pattern("*secret")],
        ..LabelRules::default()
    };
    let mut record =
        text(&[("deviceId", Some("a")), ("device.secret", Some("s")), ("size", Some("1")), ("x", Some("2"))]);
    let names = |record: &OutputRecord| rules.record_labels(record).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&record), ["deviceid", "size"]);
    assert_eq!(rules.all_labels(&record)[HEADERS], "deviceId&size");
    record.rejection = Some(Arc::new(Rejection { reason: "\"näh\"\n".into(), plugin: None }));
    let labels = rules.all_labels(&record);
    assert_eq!(read_original(&labels).unwrap().headers, record.input.headers);
    assert_eq!(labels[REASON], "'n?h'");
    for wrong in ["", "a b", "ä", "{x}"] {
        assert!(LabelPattern::parse(wrong).is_err(), "{wrong}");
    }
    let kept = LabelRules { lowercase: false, ..LabelRules::default() };
    let record = text(&[("deviceId", Some("a")), ("deviceid", Some("b"))]);
    let labels = kept.all_labels(&record);
    assert_eq!((labels["deviceId"].as_str(), labels["deviceid"].as_str(), labels.get(HEADERS)), ("a", "b", None));
    assert_eq!(read_original(&labels).unwrap().headers, record.input.headers);
}

#[test]
fn too_many_labels_are_told_with_the_key_that_allows_more() {
    let rules = LabelRules { max_bytes: 4_000, max_count: 10, ..LabelRules::default() };
    let of = |record: &OutputRecord| rules.excess(&rules.all_labels(record));
    assert_eq!(of(&text(&[("a", Some("1"))])), None);
    let long = "x".repeat(4_000);
    assert!(of(&text(&[("a", Some(&long))])).is_some_and(|told| told.contains("labels.max_bytes allows 4000")));
    let names: Vec<String> = (10..20).map(|n| n.to_string()).collect();
    let many: Vec<(&str, Option<&str>)> = names.iter().map(|name| (name.as_str(), Some("1"))).collect();
    assert!(of(&text(&many)).is_some_and(|told| told.contains("it has 14 labels, and labels.max_count allows 10")));
}

#[test]
fn foreign_labels_never_panic() {
    for headers in ["", "@", "@@", "@*", "@!", "x", "a&&b", "%", "=", "*", "a*", "&"] {
        let found = [(HEADERS.to_owned(), headers.to_owned()), ("a".to_owned(), "%4".to_owned())];
        let _ = read_original(&found.into());
        let _ = read_text(headers);
    }
}

#[test]
fn header_keys_reach_plugins_as_text() {
    assert_eq!(header_key_text("ä".as_bytes()), "ä");
    assert_eq!(header_key_text(b"a\xffb\xc3"), "a%ffb%c3");
}

#[test]
fn an_identity_is_read_back() {
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let whole =
        labels(&[("kafka.source", "a.b/3@AAECAwQFBgf7_woLDA0ODw"), ("kafka.offset", "9"), ("kafka.index", "1")]);
    let identity = read_identity(&whole).unwrap();
    assert_eq!(identity.to_string(), "a.b/3@9#1");
    assert_eq!(identity.topic_id.unwrap().to_string(), "AAECAwQFBgf7_woLDA0ODw");
    let of_source = |source: &str| read_identity(&labels(&[("kafka.source", source), ("kafka.offset", "9")]));
    assert_eq!(of_source("a.b/3"), Some(Identity { topic_id: None, index: None, ..identity.clone() }));
    for malformed in ["a", "a/3@", "a/3@AAEC", "a@AAECAwQFBgf7_woLDA0ODw", "a/b@AAECAwQFBgf7_woLDA0ODw"] {
        assert_eq!(of_source(malformed), None, "{malformed}");
    }
    assert_eq!(source_text(&identity.source, identity.topic_id), whole["kafka.source"]);
    assert_eq!(source_text(&identity.source, None), "a.b/3");
    assert_eq!(read_identity(&labels(&[("size", "9")])), None);
}

/// Random bytes, in which those are frequent that labels treat in a special way.
fn any_bytes(random: &mut fastrand::Rng, longest: usize) -> Vec<u8> {
    const PIECES: [&[u8]; 24] = [
        b"%",
        b"%4",
        b"%41",
        b"&",
        b"*",
        b"!",
        b"@",
        b"=",
        b"kafka.",
        b"Sink.",
        b" ",
        b"\"",
        b"\r\n",
        b"\0",
        b"a",
        b"A",
        b"2f",
        b"\xff",
        "ä".as_bytes(),
        b",",
        b"_",
        b".",
        b"__proto__",
        b"z",
    ];
    (0..random.usize(0..=longest)).flat_map(|_| PIECES[random.usize(0..PIECES.len())].iter().copied()).collect()
}

fn any_headers(random: &mut fastrand::Rng) -> Vec<Raw> {
    let plain = random.u8(0..4) == 0;
    (0..random.usize(0..8))
        .map(|n| match plain {
            true => (vec![b'a' + n as u8], Some(b"text".to_vec())),
            false => (any_bytes(random, 2), (random.u8(0..5) > 0).then(|| any_bytes(random, 4))),
        })
        .collect()
}

fn is_safe(name: &str, value: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-'))
        && !value.is_empty()
        && value.trim() == value
        && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"')
}

/// Random headers, ten thousand sets of them, or a million with `TESTBED_LONG`: the key and the headers come back
/// byte for byte and in their order, every label is safe, and none has the name of one of the host's.
#[test]
fn headers_come_back_whatever_they_hold() {
    let long = std::env::var_os("TESTBED_LONG").is_some_and(|value| !value.is_empty());
    let mut random = fastrand::Rng::with_seed(7);
    let (rules, kept) = (LabelRules::default(), LabelRules { lowercase: false, ..LabelRules::default() });
    for n in 0..if long { 1_000_000 } else { 10_000 } {
        let headers = any_headers(&mut random);
        let key = (random.u8(0..3) > 0).then(|| any_bytes(&mut random, 3));
        let mut record = output(&headers, key.as_deref());
        if n % 5 == 0 {
            record.rejection = Some(Arc::new(Rejection { reason: "x".into(), plugin: None }));
        }
        let labels = rules.all_labels(&record);
        assert!(labels.iter().all(|(name, value)| is_safe(name, value)), "{labels:?}");
        assert!(rules.record_labels(&record).keys().all(|name| !is_reserved(name)), "{labels:?}");
        let whole = Original { key: record.input.key.clone(), headers: record.input.headers.clone() };
        assert_eq!(read_original(&labels).as_ref(), Ok(&whole), "{labels:?}");
        assert_eq!(read_original(&kept.all_labels(&record)).as_ref(), Ok(&whole), "{labels:?}");
        assert_eq!(read_text(&whole_text(&record.input)), Ok(whole));
    }
}
