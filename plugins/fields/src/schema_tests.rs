//! Tests Avro and Protobuf payloads that other libraries wrote, and random and malicious ones.

use reduct_sink_plugin::LabelChange;
use reduct_sink_plugin::testing::{Sample, configure};

use super::*;

const AVRO: &[u8] = include_bytes!("../fixtures/frame.avro");
const PROTOBUF: &[u8] = include_bytes!("../fixtures/frame.pb");

fn fixture(name: &str) -> String {
    format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn avro(rest: &str) -> String {
    format!(r#"{{"format": "avro", "schema": "{}", {rest}}}"#, fixture("frame.avsc"))
}

fn protobuf(rest: &str) -> String {
    format!(r#"{{"format": "protobuf", "schema": "{}", {rest}}}"#, fixture("frame.set"))
}

fn transform(config: &str, payload: &[u8]) -> Result<Verdict, Failure> {
    let mut plugin: Fields = configure(config).unwrap_or_else(|error| panic!("{config}: {error}"));
    Sample::new().payload(payload).transform(&mut plugin)
}

fn change(config: &str, payload: &[u8]) -> Change {
    match transform(config, payload) {
        Ok(Verdict::Change(change)) => change,
        Ok(Verdict::Keep) => Change::new(),
        other => panic!("{config}: {other:?}"),
    }
}

fn label(config: &str, payload: &[u8]) -> String {
    let labels = change(config, payload).labels.into_iter();
    labels.map(|LabelChange { value, .. }| value.unwrap_or("(removed)".into())).collect::<Vec<_>>().join(" ")
}

fn reason(config: &str, payload: &[u8]) -> String {
    match transform(config, payload) {
        Err(Failure::Reject(reason)) => reason,
        other => panic!("{config}: {other:?}"),
    }
}

#[test]
fn fields_of_avro_are_found() {
    for (path, expected) in [
        ("camera", "left%20%C3%A9"),
        ("temp", "21.5"),
        ("ok", "true"),
        ("kind", "CLOUD"),
        ("data", "%00%FF"),
        ("points[0]", "0.5"),
        ("points[1]", "-2.25"),
        ("points[2]", ""),
        ("points", ""),
        ("parts[0].name", "one"),
        ("parts[0].delta", "-3"),
        ("parts[0].next.name", "inner"),
        ("parts[0].next.next.name", ""),
        ("parts[1].name", "two"),
        ("parts[1].delta", ""),
        ("counts.x", "7"),
        ("counts[\\\"a.b\\\"]", "-1"),
        ("note", "hi"),
        ("other", ""),
        ("price", "12.34"),
        ("debt", "-0.005"),
        ("id", "abc"),
        ("at", "1700000000123456"),
        ("stamp.sec", "1700000000"),
        ("again.nanosec", "2"),
        ("last", "0.1"),
        ("nothing", ""),
    ] {
        let config = avro(&format!(r#""prefix": "never", "labels": {{"l": "payload:{path}"}}"#));
        let found = label(&config, AVRO);
        assert!(found == expected || found == expected.replace("%20", " "), "{path}: {found:?}");
    }
}

#[test]
fn fields_of_protobuf_are_found() {
    for (path, expected) in [
        ("camera", "left%20%C3%A9"),
        ("temp", "21.5"),
        ("ok", "true"),
        ("kind", "CLOUD"),
        ("data", "%00%FF"),
        ("points[0]", "0.5"),
        ("points[2]", "-2.25"),
        ("points[3]", ""),
        ("points", ""),
        ("header.frame_id", "base"),
        ("header.frameId", "base"),
        ("header", ""),
        ("parts[0].name", "one"),
        ("parts[0].delta", "-3"),
        ("parts[0].at.sec", "1700000001"),
        // Fields that can't be absent have their default.
        ("parts[1].delta", "0"),
        ("parts[1].at.sec", ""),
        ("parts[2].delta", ""),
        ("counts.x", "7"),
        ("counts[\\\"a.b\\\"]", "0"),
        ("counts.y", ""),
        ("by_number.5.name", "five"),
        ("note", ""),
        ("big", "18446744073709551615"),
        ("round", "r"),
        ("square", ""),
        ("low", "-5"),
        ("small", "0.1"),
        ("tags[1]", "b"),
    ] {
        let config = protobuf(&format!(r#""message": "acme.Frame", "labels": {{"l": "payload:{path}"}}"#));
        let found = label(&config, PROTOBUF);
        assert!(found == expected || found == expected.replace("%20", " "), "{path}: {found:?}");
    }
    // An empty message has only the fields that can't be absent.
    let all = r#""message": "acme.Frame", "labels": {"a": "payload:ok", "b": "payload:kind", "c": "payload:temp",
        "d": "payload:note", "e": "payload:header.frame_id", "f": "payload:points[0]"}"#;
    assert_eq!(label(&protobuf(all), &[0x32, 0]), "false UNKNOWN 0");
    // The last of several values counts.
    let twice = [PROTOBUF, b"\x12\x05right"].concat();
    assert_eq!(label(&protobuf(r#""message": "acme.Frame", "labels": {"l": "payload:camera"}"#), &twice), "right");
}

#[test]
fn times_of_ros_and_of_protobuf() {
    let time = |config: &str, payload: &[u8]| change(config, payload).timestamp;
    let stamp = |field: &str| format!(r#""timestamp": {{"field": "payload:{field}", "unit": "ros"}}"#);
    let frame = |field: &str| protobuf(&format!(r#""message": "acme.Frame", {}"#, stamp(field)));
    assert_eq!(time(&frame("header.stamp"), PROTOBUF), Some(1_700_000_000_000_005));
    assert_eq!(time(&frame("parts[0].at"), PROTOBUF), Some(1_700_000_001_000_007));
    assert_eq!(time(&frame("parts[1].at"), PROTOBUF), None);
    assert_eq!(time(&frame("camera"), PROTOBUF), None);
    let record = |field: &str| avro(&format!(r#""prefix": "never", {}"#, stamp(field)));
    assert_eq!(time(&record("stamp"), AVRO), Some(1_700_000_000_000_005));
    assert_eq!(time(&record("again"), AVRO), Some(1_000_000));
    assert_eq!(time(&record("counts"), AVRO), None);
    let micros = avro(r#""prefix": "never", "timestamp": {"field": "payload:at", "unit": "us"}"#);
    assert_eq!(time(&micros, AVRO), Some(1_700_000_000_123_456));
}

#[test]
fn the_schema_registrys_prefix_chooses_the_schema() {
    let by_id = std::env::temp_dir().join(format!("fields-schemas-{}", std::process::id()));
    std::fs::create_dir_all(&by_id).unwrap();
    let write = |name: &str, text: &[u8]| std::fs::write(by_id.join(name), text).unwrap();
    write(
        "7",
        br#"{"schema": "{\"type\": \"record\", \"name\": \"A\", \"fields\": [{\"name\": \"a\", \"type\": \"int\"}]}"}"#,
    );
    write("8", br#"{"type": "record", "name": "B", "fields": [{"name": "b", "type": "string"}, {"name": "a", "type": "long"}]}"#);
    write("9", br#"{"schemaType": "PROTOBUF", "schema": "syntax"}"#);
    write("10", b"{");
    write("11", &std::fs::read(fixture("frame.set")).unwrap());
    let place = by_id.join("{id}").display().to_string();
    let config = |format: &str, rest: &str| {
        format!(
            r#"{{"format": "{format}", "schema": "{place}", "schema_id": "schema", "labels": {{"l": "payload:{rest}"}}}}"#
        )
    };
    let prefixed = |id: u32, body: &[u8]| [&[0], &id.to_be_bytes()[..], body].concat();
    let a = config("avro", "a");
    assert_eq!(label(&a, &prefixed(7, &[84])), "42 7");
    assert_eq!(label(&a, &prefixed(8, b"\x04hi\x01")), "-1 8");
    for (id, body, expected) in [
        (7, &[84, 0][..], "the payload isn't of this Avro schema: 1 bytes are left behind its end"),
        (8, &[84][..], "the payload isn't of this Avro schema: it ends too early at byte 1"),
        (9, &[84][..], "schema 9: the schema is of the type PROTOBUF, not AVRO"),
        (10, &[84][..], "schema 10: the schema isn't JSON"),
        (12, &[84][..], "schema 12: cannot read "),
    ] {
        let reason = reason(&a, &prefixed(id, body));
        assert!(reason.starts_with(expected), "{reason}");
    }
    let no_prefix = "the payload has no schema registry's prefix: its first byte isn't zero";
    assert_eq!(reason(&a, &[84]), no_prefix);
    let keeps = a.replace("\"schema_id\"", "\"unreadable\": \"keep\", \"schema_id\"");
    assert!(matches!(transform(&keeps, &prefixed(12, &[84])), Ok(Verdict::Keep)));

    // Protobuf's prefix goes on with the numbers of the message: none means the first, which is Header.
    let camera = config("protobuf", "frame_id");
    assert_eq!(label(&camera, &prefixed(11, b"\x00\x12\x01x")), "x 11");
    assert_eq!(label(&camera, &prefixed(11, b"\x02\x00\x12\x01x")), "x 11");
    // Frame is the third, and Part the first inside it.
    let name = config("protobuf", "name");
    assert_eq!(label(&name, &prefixed(11, b"\x04\x04\x00\x0a\x01y")), "y 11");
    let unknown = reason(&name, &prefixed(11, b"\x02\x12\x0a\x01y"));
    assert_eq!(unknown, "the payload's prefix names the message [9], which the schema hasn't");
    std::fs::remove_dir_all(&by_id).unwrap();
    // An instance keeps the schemas that it has read; here each call configures a new instance.
    assert!(reason(&a, &prefixed(7, &[84])).starts_with("schema 7: cannot read "));
}

#[test]
fn a_schema_that_cannot_be_asked_for_is_asked_for_again() {
    let config = r#"{"format": "avro", "schema": "http://registry:8081/schemas/ids/{id}", "unreadable": "keep",
        "labels": {"l": "payload:a"}}"#;
    // In a unit test there is no HTTP, so the schema's place counts as unreachable.
    assert!(matches!(transform(config, &[0, 0, 0, 0, 7, 84]), Err(Failure::Retry(_))));
}

/// Random bytes are refused with a reason, or give some values, but never cause a panic.
#[test]
fn other_payloads_never_panic() {
    let frame = r#""message": "acme.Frame", "labels": {"a": "payload:camera", "b": "payload:points[2]",
        "c": "payload:parts[1].at.sec", "d": "payload:counts.x", "e": "payload:by_number.5.name", "f": "payload:kind"},
        "timestamp": {"field": "payload:header.stamp", "unit": "ros"}"#;
    let record = r#""prefix": "never", "labels": {"a": "payload:camera", "b": "payload:points[1]",
        "c": "payload:parts[0].next.name", "d": "payload:counts.x", "e": "payload:debt", "f": "payload:id"},
        "timestamp": {"field": "payload:stamp", "unit": "ros"}"#;
    for (config, whole) in [(protobuf(frame), PROTOBUF), (avro(record), AVRO)] {
        let mut plugin: Fields = configure(&config).unwrap();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..20_000 {
            let mut payload = whole.to_vec();
            for _ in 0..random() % 4 {
                let at = random() as usize % payload.len();
                payload[at] = random() as u8;
            }
            if round % 3 == 0 {
                payload.truncate(random() as usize % (payload.len() + 1));
            }
            let _ = Sample::new().payload(payload).transform(&mut plugin);
        }
    }
}

/// Payloads that would cost much more time or memory than their size suggests.
#[test]
fn bombs_are_cheap() {
    let nulls = r#"{"format": "avro", "prefix": "never", "schema": "{\"type\": \"array\", \"items\": \"null\"}",
        "labels": {"l": "payload:[3]"}}"#;
    // This is a list of 2^62 nulls.
    let payload = [&[0xfe][..], &[0xff; 7], &[0x7f, 0]].concat();
    assert_eq!(label(nulls, &payload), "");
    let deep = r#"{"format": "avro", "prefix": "never", "schema":
        "{\"type\": \"record\", \"name\": \"N\", \"fields\": [{\"name\": \"n\", \"type\": [\"null\", \"N\"]}]}"}"#;
    let deep = deep.replace("\"prefix\"", "\"labels\": {\"l\": \"payload:n.n\"}, \"prefix\"");
    let reason = reason(&deep, &[2; 100_000]);
    assert!(reason.contains("nested in more than 64 levels"), "{reason}");
    let itself = r#"{"format": "avro", "prefix": "never", "labels": {"l": "payload:n"}, "schema":
        "{\"type\": \"record\", \"name\": \"N\", \"fields\": [{\"name\": \"n\", \"type\": \"N\"}]}"}"#;
    assert!(self::reason(itself, &[0]).contains("nested in more than 64 levels"));
}

#[test]
fn mistakes_are_found_when_the_plugin_is_configured() {
    let here = fixture("frame.set");
    for (config, message) in [
        (r#"{"format": "avro"}"#.into(), "schema: missing"),
        (r#"{"format": "json", "schema": "x"}"#.into(), "schema: json and csv have none"),
        (r#"{"format": "avro", "prefix": "never", "schema": "/none"}"#.into(), "schema: cannot read /none"),
        (avro(r#""labels": {}"#), "prefix: Avro payloads can begin with a zero"),
        (avro(r#""prefix": "never", "message": "x""#), "message: only protobuf has one"),
        (
            r#"{"format": "avro", "prefix": "never", "schema": "/{id}"}"#.into(),
            "prefix: \"never\", but schema needs the {id}",
        ),
        (protobuf(r#""labels": {}"#), "message: missing"),
        (protobuf(r#""message": "acme.Fram""#), "message: the descriptor set has no message \"acme.Fram\"; it has acme.Header"),
        (
            protobuf(r#""message": "acme.Frame", "labels": {"l": "payload:header.frame"}"#),
            "payload: the message acme.Header has no field \"frame\"; it has stamp, frame_id",
        ),
        (
            format!(r#"{{"format": "protobuf", "schema": "{}", "message": "x"}}"#, fixture("frame.avsc")),
            "schema: the schema is of the type AVRO, not PROTOBUF",
        ),
        (format!(r#"{{"format": "avro", "prefix": "never", "schema": "{here}"}}"#), "schema: the schema isn't JSON"),
        (
            r#"{"format": "avro", "prefix": "never", "schema": "{\"type\": \"record\", \"name\": \"R\", \"fields\": [{\"name\": \"a\", \"type\": \"Other\"}]}"}"#.into(),
            "schema: field \"a\": the schema names the type \"Other\" and doesn't define it before",
        ),
    ] {
        let error = configure::<Fields>(&config).err().unwrap_or_default();
        assert!(error.starts_with(message), "{config}: {error}");
    }
}
