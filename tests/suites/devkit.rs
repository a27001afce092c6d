//! Tests the commands that plugin authors run on a live topic: capturing records as fixtures, and dry runs. Both leave
//! the topic and its groups as they were.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{Bed, KafkaClient, Message, Sink, bed, unique};
use toml::{Table, Value};

use super::guest::guest;

const BOUND: Duration = Duration::from_secs(60);

fn records() -> Vec<Message> {
    vec![
        Message::new("plain").key("k").header("type", "frame").timestamp_ms(1_700_000_000_001).partition(0),
        Message::new(vec![0xff, 0x00, 0x0d]).header("type", "frame").null_header("none").partition(0),
        Message { headers: vec![(Bytes::from_static(b"\xfe"), Some(Bytes::from_static(b"\xff")))], ..Message::new("") }
            .partition(1),
        Message::tombstone("gone").partition(1),
        Message::new(vec![b'x'; 5000]).header("type", "heartbeat").partition(1),
    ]
}

fn filled_topic(bed: &Bed) -> Result<(KafkaClient, String)> {
    let (kafka, topic) = (bed.kafka.client(), unique("devkit"));
    kafka.create_topic(&topic, 2)?;
    kafka.produce(&topic, records())?;
    Ok((kafka, topic))
}

/// Expects that the group has no members and no committed offsets.
fn group_is_untouched(kafka: &KafkaClient, group: &str, topic: &str) -> Result<()> {
    assert_eq!(kafka.group(group)?.committed(topic)?, [], "something was committed");
    Ok(())
}

#[test]
fn captured_records_are_fixtures_to_the_byte() -> Result<()> {
    let bed = bed()?;
    let (kafka, topic) = filled_topic(bed)?;
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("fixtures").display().to_string();
    let capture = |count: &str| {
        let brokers = bed.kafka.brokers();
        let args =
            ["plugin", "capture", "--brokers", &brokers, "--topic", &topic, "--count", count, "--output", &output];
        run_to_end(&args, &[], BOUND)
    };
    let ended = capture("100")?;
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(String::from_utf8_lossy(&ended.stdout).lines().count(), records().len());
    for (partition, offset, message) in kafka.read_all(&topic)? {
        let case = folder.path().join(format!("fixtures/{topic}-{partition}-{offset}"));
        let record: Table = fs::read_to_string(case.join("record.toml"))?.parse()?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok().map(Value::String);
        match &message.payload {
            None => assert_eq!(record["tombstone"], Value::Boolean(true)),
            Some(payload) if payload.is_empty() => assert!(!record.contains_key("payload"), "{record}"),
            Some(payload) if record.contains_key("payload") => {
                assert_eq!(Some(&record["payload"]), text(payload).as_ref())
            }
            Some(payload) => assert_eq!(fs::read(case.join("payload.bin"))?, payload.as_ref()),
        }
        assert_eq!(record.get("key"), message.key.as_deref().and_then(text).as_ref());
        assert_eq!(record["offset"].as_integer(), Some(offset.cast_signed()));
        let headers = record.get("headers").and_then(Value::as_array).cloned().unwrap_or_default();
        assert_eq!(headers.len(), message.headers.len());
        for (written, (key, value)) in headers.iter().zip(&message.headers) {
            // The key isn't UTF-8, so the fixture holds it in base64.
            let base64 = |text: &str| Value::Table(Table::from_iter([("base64".to_owned(), text.into())]));
            let expected = |bytes: &[u8]| match bytes {
                b"\xfe" => Some(base64("/g==")),
                b"\xff" => Some(base64("/w==")),
                bytes => text(bytes),
            };
            assert_eq!(written.get("key"), expected(key).as_ref());
            assert_eq!(written.get("value"), value.as_deref().and_then(expected).as_ref());
        }
    }
    group_is_untouched(&kafka, "reduct-sink-none", &topic)?;
    let again = capture("1")?;
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && told.contains("exists already"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_dry_run_tells_what_a_run_then_does_and_leaves_no_trace() -> Result<()> {
    let bed = bed()?;
    let (kafka, topic) = filled_topic(bed)?;
    let plugin = guest(
        r#"(if (i64.eq (local.get $payload-size) (i64.const 5000)) (then (return (call $drop))))
           (if (i64.eq (local.get $payload-size) (i64.const 3)) (then (return (call $reject $"three bytes"))))
           (call $entry $"dry") (call $label $"seen" $"yes") (call $change)"#,
    );
    let folder = tempfile::tempdir()?;
    let (component, file) = (folder.path().join("dry.wasm"), folder.path().join("sink.toml"));
    fs::write(&component, plugin)?;
    let config = bed.sink_config(&topic).plugin_with("dry", &component, "limits.entries = ['dry']")?;
    fs::write(&file, config.text())?;
    let file = file.display().to_string();
    let dry_run = |more: &[&str]| {
        let ended = run_to_end(&[&["run", "--config", &file, "--dry-run"], more].concat(), &[], BOUND)?;
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        anyhow::ensure!(ended.status.success(), "{told}");
        Ok(String::from_utf8(ended.stdout)?)
    };
    let told = dry_run(&[])?;
    assert!(told.contains("5 records: 3 would be written as 3, 1 dropped, 1 failed"), "{told}");
    assert!(told.contains(&format!("fail   {topic}/0@1 by plugin `dry`: three bytes")), "{told}");
    let store = bed.store.client()?;
    assert!(store.get_bucket(config.bucket()).await.is_err(), "a dry run made the bucket");
    group_is_untouched(&kafka, config.group(), &topic)?;

    let lines = dry_run(&["--json"])?;
    let told: Vec<serde_json::Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(dry_run(&["--json", "--count", "2"])?.lines().count(), 2);

    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    sink.stop_cleanly()?;
    let stored = reduct_sink_testbed::read_back(&store, config.bucket(), "*").await?;
    let written = told.iter().filter(|record| record["verdict"] == "write");
    for record in written {
        let (partition, offset) = (record["partition"].to_string(), record["offset"].to_string());
        let of = |stored: &&reduct_sink_testbed::Stored| {
            stored.source() == Some(&format!("{topic}/{partition}")) && stored.label("kafka.offset") == Some(&offset)
        };
        let stored = stored.iter().find(of).with_context(|| format!("{record} isn't in the store"))?;
        let output = &record["output"][0];
        assert_eq!(output["entry"], stored.entry.as_str());
        // The dry run shows the timestamp that the record asks for. Records that share it are stored one microsecond
        // apart.
        let wanted = output["timestamp"].as_u64().context("a timestamp")?;
        assert!((wanted..wanted + 1000).contains(&stored.timestamp_us), "{} for {wanted}", stored.timestamp_us);
        let labels = output["labels"].as_object().context("labels")?;
        for (name, value) in labels {
            assert_eq!(stored.label(name), value.as_str(), "{name}");
        }
    }
    // After the real run the group has committed everything, so a dry run finds no records.
    assert!(dry_run(&[])?.starts_with("0 records"));
    Ok(())
}
