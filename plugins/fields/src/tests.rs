//! Tests the whole plugin: which verdicts it gives about which records.

use reduct_sink_plugin::LabelChange;
use reduct_sink_plugin::testing::{Sample, configure};

use super::*;

const FRAME: &str = r#"{
    "camera": {"name": "left", "id": 7, "tags": ["front", {"k": "v"}, null]},
    "temp": 21.50, "big": 123456789012345678901234567890, "ok": true, "none": null, "empty": "",
    "a.b": "dotted", "city": "Köln", "quote": "a\"b", "half": "\ud800",
    "stamp": {"sec": 1700000000, "nanosec": 5000}, "at": "2023-11-14T22:13:20Z"
}"#;

fn plugin(config: &str) -> Fields {
    configure(config).unwrap_or_else(|error| panic!("{config}: {error}"))
}

fn change(config: &str, sample: &Sample) -> Change {
    match sample.transform(&mut plugin(config)) {
        Ok(Verdict::Change(change)) => change,
        Ok(Verdict::Keep) => Change::new(),
        other => panic!("{config}: {other:?}"),
    }
}

fn reason(config: &str, sample: &Sample) -> String {
    match sample.transform(&mut plugin(config)) {
        Err(Failure::Reject(reason)) => reason,
        other => panic!("{config}: {other:?}"),
    }
}

/// The labels that the verdict sets, each `name=value`, in order.
fn labels(config: &str, sample: &Sample) -> String {
    let show = |LabelChange { name, value }: LabelChange| format!("{name}={}", value.unwrap_or("(removed)".into()));
    change(config, sample).labels.into_iter().map(show).collect::<Vec<_>>().join(" ")
}

fn json(rest: &str) -> String {
    format!(r#"{{"format": "json", {rest}}}"#)
}

fn label(source: &str) -> String {
    labels(&json(&format!(r#""labels": {{"l": {source}}}"#)), &Sample::new().key("k").payload(FRAME))
}

#[test]
fn labels_are_fields_of_the_payload() {
    for (source, expected) in [
        (r#""payload:camera.name""#, "l=left"),
        (r#""payload:camera.id""#, "l=7"),
        (r#""payload:camera.tags[0]""#, "l=front"),
        (r#""payload:camera.tags[1].k""#, "l=v"),
        (r#""payload:temp""#, "l=21.50"),
        (r#""payload:big""#, "l=123456789012345678901234567890"),
        (r#""payload:ok""#, "l=true"),
        (r#""payload:[\"a.b\"]""#, "l=dotted"),
        (r#""payload:city""#, "l=K%C3%B6ln"),
        (r#""payload:quote""#, "l=a%22b"),
        (r#""payload:empty""#, "l="),
        (r#""key""#, "l=k"),
        // These values are missing in one way or another.
        (r#""payload:none""#, ""),
        (r#""payload:half""#, ""),
        (r#""payload:x""#, ""),
        (r#""payload:camera""#, ""),
        (r#""payload:camera.tags""#, ""),
        (r#""payload:camera.tags[9]""#, ""),
        (r#""payload:camera.tags.name""#, ""),
        (r#""payload:temp.x""#, ""),
        (r#""payload:temp[0]""#, ""),
        (r#""header:x""#, ""),
        (r#"{"field": "payload:temp", "type": "number"}"#, "l=21.50"),
        (r#"{"field": "payload:temp", "type": "integer"}"#, ""),
        (r#"{"field": "payload:temp", "type": "text", "default": "none"}"#, "l=none"),
        (r#"{"field": "payload:x", "default": "Ö"}"#, "l=%C3%96"),
    ] {
        assert_eq!(label(source), expected, "{source}");
    }
}

#[test]
fn several_paths_share_their_beginnings() {
    let config = json(
        r#""labels": {"a": "payload:camera.name", "b": "payload:camera.id", "c": "payload:camera.tags[0]",
            "d": "payload:temp", "e": "payload:camera", "f": "payload:camera.name"}"#,
    );
    assert_eq!(labels(&config, &Sample::new().payload(FRAME)), "a=left b=7 c=front d=21.50 f=left");
    let list = Sample::new().payload(r#"[{"a": 1}, {"a": 2, "b": [10, 20]}]"#);
    let config = json(r#""labels": {"a": "payload:[1].a", "b": "payload:[1].b[1]", "c": "payload:[0].a"}"#);
    assert_eq!(labels(&config, &list), "a=2 b=20 c=1");
}

#[test]
fn a_missing_field_is_skipped_replaced_or_a_reason_to_reject() {
    let sample = Sample::new().payload(FRAME);
    for (rest, expected) in [
        (r#""missing": "reject", "labels": {"l": "payload:x"}"#, "payload:x: the payload has no such field"),
        (
            r#""labels": {"l": {"field": "payload:camera", "missing": "reject"}}"#,
            "payload:camera: found an object, expected a text, number or boolean",
        ),
        (
            r#""labels": {"l": {"field": "payload:city", "type": "number", "missing": "reject"}}"#,
            "payload:city: found the text \"Köln\", expected a number",
        ),
        (
            r#""labels": {"l": {"field": "payload:none", "missing": "reject"}}"#,
            "payload:none: found null, expected a text, number or boolean",
        ),
        (
            r#""timestamp": {"field": "payload:city", "unit": "ms", "missing": "reject"}"#,
            "payload:city: found the text \"Köln\", expected milliseconds since 1970",
        ),
        (r#""missing": "reject", "entry": "a/{payload:x}""#, "entry: a field of the template has no value"),
        (r#""missing": "reject", "content_type": "{payload:x}""#, "content_type: a field of the template has no value"),
    ] {
        assert_eq!(reason(&json(rest), &sample), expected, "{rest}");
    }
    let skips = json(r#""missing": "reject", "labels": {"l": {"field": "payload:x", "missing": "skip"}}"#);
    assert_eq!(labels(&skips, &sample), "");
}

#[test]
fn entry_content_type_and_timestamp_come_from_fields() {
    let sample = Sample::new().payload(FRAME);
    let of = |rest: &str| change(&json(rest), &sample);
    let entry = |source: &str| of(&format!(r#""entry": {source}"#)).entry;
    assert_eq!(entry(r#""cameras/{payload:camera.name}""#).as_deref(), Some("cameras/left"));
    assert_eq!(entry(r#""{topic}/{payload:city}""#).as_deref(), Some("topic/K_C3_B6ln"));
    assert_eq!(entry(r#""cameras/{payload:x}""#), None);
    let default = r#"{"value": "cameras/{payload:x}", "default": "cameras/other"}"#;
    assert_eq!(entry(default).as_deref(), Some("cameras/other"));
    let next = r#"{"value": "{payload:city}", "illegal": "next", "default": "odd"}"#;
    assert_eq!(entry(next).as_deref(), Some("odd"));

    let content_type = |source: &str| of(&format!(r#""content_type": {source}"#)).content_type;
    assert_eq!(content_type(r#""application/json""#).as_deref(), Some("application/json"));
    assert_eq!(content_type(r#""image/{payload:camera.name}""#).as_deref(), Some("image/left"));
    assert_eq!(content_type(r#"{"value": "{payload:x}", "default": "text/plain"}"#).as_deref(), Some("text/plain"));

    let time = |field: &str, unit: &str| {
        of(&format!(r#""timestamp": {{"field": "payload:{field}", "unit": "{unit}"}}"#)).timestamp
    };
    assert_eq!(time("stamp", "ros"), Some(1_700_000_000_000_005));
    assert_eq!(time("stamp.sec", "s"), Some(1_700_000_000_000_000));
    assert_eq!(time("at", "rfc3339"), Some(1_700_000_000_000_000));
    assert_eq!(time("temp", "s"), Some(21_500_000));
    assert_eq!(time("city", "s"), None);
    assert_eq!(time("x", "s"), None);
    let ros1 = Sample::new().payload(r#"{"stamp": {"secs": 1, "nsecs": 2000, "more": []}}"#);
    let config = json(r#""timestamp": {"field": "payload:stamp", "unit": "ros"}, "labels": {"s": "payload:stamp"}"#);
    let both = change(&config, &ros1);
    assert_eq!((both.timestamp, both.labels.len()), (Some(1_000_002), 0));
}

#[test]
fn records_are_dropped_by_their_fields() {
    let filter = |rules: &str| {
        let config = json(&format!(r#""filter": {{"on_match": "drop", "match": "all", "rules": [{rules}]}}"#));
        let sample = Sample::new().header("kind", "frame").payload(FRAME);
        let verdict = sample.transform(&mut plugin(&config)).unwrap();
        (verdict == Verdict::Drop, sample.payload_reads() > 0)
    };
    for (rules, dropped, read) in [
        (r#"{"field": "payload:temp", "below": 21.5}"#, false, true),
        (r#"{"field": "payload:temp", "below": 21.6}"#, true, true),
        (r#"{"field": "payload:temp", "max": 21.5}"#, true, true),
        (r#"{"field": "payload:ok", "equals": "true"}"#, true, true),
        (r#"{"field": "payload:camera.name", "glob": "l*"}"#, true, true),
        (r#"{"field": "payload:x", "below": 20}"#, false, true),
        (r#"{"field": "payload:x", "exists": false}"#, true, true),
        (r#"{"field": "payload:none", "exists": true}"#, true, true),
        (r#"{"field": "payload:camera", "exists": true}"#, true, true),
        (r#"{"field": "header:kind", "equals": "frame"}"#, true, false),
        // The first condition that doesn't hold decides, and the payload isn't read.
        (r#"{"field": "header:kind", "equals": "x"}, {"field": "payload:temp", "below": 99}"#, false, false),
    ] {
        assert_eq!(filter(rules), (dropped, read), "{rules}");
    }
}

#[test]
fn a_payload_that_is_no_json_is_rejected_or_kept() {
    let config = json(r#""labels": {"l": "payload:a"}"#);
    for payload in ["no JSON", "{\"a\": 1", "{\"a\" 1}", "{\"b\": tru}", "\u{1}\u{2}"] {
        let sample = Sample::new().payload(payload);
        let reason = reason(&config, &sample);
        assert!(reason.starts_with("the payload isn't JSON: "), "{reason}");
        let keeps = json(r#""unreadable": "keep", "labels": {"l": "payload:a"}"#);
        assert_eq!(sample.transform(&mut plugin(&keeps)), Ok(Verdict::Keep));
    }
    // The payload is JSON but not an object, so it has no such field.
    for payload in ["7", "\"a\"", "[1]", "{}", "null", " {\"a\": {}} "] {
        assert_eq!(labels(&config, &Sample::new().payload(payload)), "", "{payload}");
    }
    assert_eq!(labels(&config, &Sample::new()), "", "an empty payload has no fields");
    assert_eq!(labels(&config, &Sample::new().payload("\u{feff}{\"a\": 1}")), "l=1");
}

#[test]
fn only_what_is_needed_is_read() {
    let long = "x".repeat(200_000);
    let early = Sample::new().payload(format!(r#"{{"a": 1, "b": "{long}", "c": 2}}"#));
    assert_eq!(labels(&json(r#""labels": {"l": "payload:a"}"#), &early), "l=1");
    assert_eq!(early.payload_reads(), 1);
    let late = early.clone();
    assert_eq!(labels(&json(r#""labels": {"l": "payload:c", "m": "payload:a"}"#), &late), "l=2 m=1");
    assert_eq!(late.payload_reads(), 1 + 3);
}

/// A value that is cut off at the end of the part that was read must not count as complete, wherever the cut is.
#[test]
fn a_value_is_whole_wherever_a_part_ends() {
    let config = json(r#""labels": {"l": "payload:key", "m": "payload:list[1]"}"#);
    for (value, label) in [
        ("1234567", "1234567"),
        ("-12.5e-3", "-12.5e-3"),
        ("\"te\\u00e4xt\"", "te%C3%A4xt"),
        ("\"äöü\"", "%C3%A4%C3%B6%C3%BC"),
        ("false", "false"),
    ] {
        for shift in 0..40 {
            let fill = "x".repeat(4096 - 30 + shift - value.len());
            let tail = "y".repeat(40_000);
            let sample =
                Sample::new().payload(format!(r#"{{"fill":"{fill}","key":{value},"list":[0,{value}],"t":"{tail}"}}"#));
            assert_eq!(labels(&config, &sample), format!("l={label} m={label}"), "{value} {shift}");
            let alone = json(r#""labels": {"l": "payload:list[1]"}"#);
            let sample = Sample::new().payload(format!(r#"{{"fill":"{fill}","list":[0,{value},"{tail}"]}}"#));
            assert_eq!(labels(&alone, &sample), format!("l={label}"), "{value} {shift}");
        }
    }
}

#[test]
fn the_schema_registrys_prefix_is_recognised() {
    let with = |id: [u8; 4], text: &str| Sample::new().payload([[0].as_slice(), &id, text.as_bytes()].concat());
    let config = json(r#""schema_id": "schema.id", "labels": {"l": "payload:a"}"#);
    assert_eq!(labels(&config, &with([0, 1, 0, 2], "{\"a\": 5}")), "l=5 schema.id=65538");
    assert_eq!(labels(&config, &Sample::new().payload("{\"a\": 5}")), "l=5");
    let always = json(r#""prefix": "always", "labels": {"l": "payload:a"}"#);
    assert!(reason(&always, &Sample::new().payload("{}")).contains("no schema registry's prefix"));
    assert!(reason(&always, &Sample::new().payload([0, 1])).contains("no schema registry's prefix"));
    let never = json(r#""prefix": "never", "labels": {"l": "payload:a"}"#);
    assert!(reason(&never, &with([0, 0, 0, 1], "{}")).starts_with("the payload isn't JSON"));
    // The payload is read for this label alone.
    assert_eq!(labels(&json(r#""schema_id": "id""#), &with([0, 0, 0, 1], "{}")), "id=1");
}

#[test]
fn csv_fields_are_columns() {
    let csv = |rest: &str| format!(r#"{{"format": "csv", {rest}}}"#);
    let sample = Sample::new().payload("camera,temp.c,note,empty\nleft,21.50,\"a, \"\"b\"\"\",\nright,1,,\n");
    let all = csv(r#""labels": {"a": "payload:camera", "b": {"field": "payload:temp.c", "type": "number"},
        "c": "payload:note", "d": "payload:empty", "e": "payload:x"}"#);
    assert_eq!(labels(&all, &sample), "a=left b=21.50 c=a, %22b%22");
    let drops = csv(r#""filter": {"on_match": "drop", "rules": [{"field": "payload:temp.c", "max": 21.5}]}"#);
    assert_eq!(sample.transform(&mut plugin(&drops)), Ok(Verdict::Drop));
    let tab = csv(r#""csv": {"delimiter": "\t"}, "labels": {"a": "payload:b"}"#);
    assert_eq!(labels(&tab, &Sample::new().payload("a\tb\r\n1\t2")), "a=2");
    let typed = csv(r#""labels": {"a": {"field": "payload:camera", "type": "integer", "missing": "reject"}}"#);
    assert_eq!(reason(&typed, &sample), "payload:camera: found \"left\", expected a whole number");
    for payload in ["camera", "camera\n", "\n\n"] {
        assert_eq!(labels(&all, &Sample::new().payload(payload)), "", "{payload}");
    }
    // The payload is read only as far as the end of the row.
    let long = Sample::new().payload(format!("camera,note\nleft,{}\n{}", "x".repeat(9000), "y\n".repeat(100_000)));
    assert_eq!(labels(&all, &long).len(), "a=left c=".len() + 9000);
    assert_eq!(long.payload_reads(), 2);
}

#[test]
fn a_wrong_configuration_is_refused_by_the_key() {
    for (config, message) in [
        ("{}", "missing field `format`"),
        (r#"{"format": "xml"}"#, "format: unknown variant `xml`, expected "),
        (r#"{"format": "json", "label": {}}"#, "label: unknown field `label`, expected one of `format`"),
        (r#"{"format": "json", "labels": {"a": "temp"}}"#, "labels.a: unknown field \"temp\"; a field is"),
        (
            r#"{"format": "json", "labels": {"a": 7}}"#,
            "labels.a: invalid type: integer `7`, expected a text or a table",
        ),
        (
            r#"{"format": "json", "labels": {"a": {"field": "payload:a..b"}}}"#,
            "labels.a.field: payload:a..b is no field",
        ),
        (
            r#"{"format": "json", "labels": {"a": {"field": "key", "typ": "text"}}}"#,
            "labels.a.typ: unknown field `typ`",
        ),
        (r#"{"format": "json", "labels": {"a": {"field": "key", "type": "float"}}}"#, "labels.a.type: unknown variant"),
        (r#"{"format": "json", "labels": {"A": "key"}}"#, "labels: \"A\" can't be a label's name"),
        (r#"{"format": "json", "schema_id": "kafka.id"}"#, "schema_id: \"kafka.id\" can't be a label's name"),
        (r#"{"format": "json", "entry": "a b"}"#, "entry: \"a b\" can't be an entry"),
        (r#"{"format": "json", "entry": "{payload:}"}"#, "entry: payload: is no field of a payload"),
        (r#"{"format": "json", "timestamp": {"field": "payload:a"}}"#, "timestamp: missing field `unit`"),
        (
            r#"{"format": "json", "timestamp": {"field": "payload:a", "unit": "m"}}"#,
            "timestamp.unit: unknown variant `m`",
        ),
        (r#"{"format": "json", "filter": {"on_match": "drop", "rules": []}}"#, "filter: rules: at least one is needed"),
        (r#"{"format": "csv", "csv": {"delimiter": ";;"}}"#, "csv.delimiter: \";;\" can't be a delimiter"),
    ] {
        let error = configure::<Fields>(config).err().unwrap_or_default();
        assert!(error.starts_with(message), "{config}: {error}");
    }
}
