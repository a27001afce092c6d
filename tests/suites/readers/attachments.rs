//! Tests `[[attachments]]` on the real store: before the first record, by pattern, after a removal, from a file that
//! changes or disappears.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_rs::Bucket;
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{Bed, Message, Sink, SinkConfig, bed, process, unique};
use serde_json::{Value, json};
use toml::Table;

const BOUND: Duration = Duration::from_secs(60);
/// How long a change may take to arrive; the host reads the files and looks at the entries every five seconds.
const SOON: Duration = Duration::from_secs(20);

fn with_attachments(config: SinkConfig, rules: &[(&str, &str, &Path)]) -> SinkConfig {
    let rule = |(entry, key, file): &(&str, &str, &Path)| {
        let file = file.display().to_string();
        let keys = [("entry", entry.to_string()), ("key", key.to_string()), ("file", file)];
        toml::Value::from(Table::from_iter(keys.map(|(key, value)| (key.to_owned(), value.into()))))
    };
    config.set("attachments", rules.iter().map(rule).collect::<Vec<_>>())
}

fn produce(bed: &Bed, topic: &str, partition: i32) -> Result<()> {
    bed.kafka.client().produce(topic, [Message::new("{\"temp\": 7}").partition(partition)]).map(drop)
}

/// Waits until the entry has exactly these attachments. Returns how long that took.
async fn wait_for(bucket: &Bucket, entry: &str, expected: &Value) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        let held = json!(bucket.read_attachments(entry).await.unwrap_or_default());
        if held == *expected {
            return Ok(begin.elapsed());
        }
        ensure!(begin.elapsed() < SOON, "{entry} has {held}, wanted {expected}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for the entry's first record. Returns the attachments that a reader sees at this moment.
async fn first_record(bucket: &Bucket, entry: &str) -> Result<Value> {
    let begin = Instant::now();
    while bucket.read_record(entry).head_only(true).send().await.is_err() {
        ensure!(begin.elapsed() < BOUND, "no record in {entry}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(json!(bucket.read_attachments(entry).await.unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn attachments_come_before_the_first_record_and_again_after_a_removal() -> Result<()> {
    let bed = bed()?;
    let (topic, other) = (unique("attached"), unique("plain"));
    bed.kafka.client().create_topic(&topic, 2)?;
    bed.kafka.client().create_topic(&other, 1)?;
    let folder = process::data_folder("attachments")?;
    let (schema, ros) = (folder.path().join("frame.json"), folder.path().join("ros.json"));
    std::fs::write(&schema, r#"{"encoding": "protobuf", "schema_name": "Frame", "schema": "Cg=="}"#)?;
    std::fs::write(&ros, r#"{"encoding": "cdr", "topic": "/camera"}"#)?;
    let config = bed.sink_config(&topic).topics(&[&topic, &other]).set("dead_letters.entry", "letters-of-{topic}");
    let pattern = format!("{topic}*");
    let config = with_attachments(
        config,
        &[(&pattern, "$schema", &schema), (&pattern, "$ros", &ros), (&format!("{topic}/1"), "note", &ros)],
    );
    let both = json!({
        "$schema": { "encoding": "protobuf", "schema_name": "Frame", "schema": "Cg==" },
        "$ros": { "encoding": "cdr", "topic": "/camera" },
    });
    let mut with_note = both.clone();
    with_note["note"] = both["$ros"].clone();
    let client = bed.store.client()?;
    let mut sink = Sink::start(&config)?;
    produce(bed, &topic, 0)?;
    produce(bed, &topic, 1)?;
    produce(bed, &other, 0)?;
    sink.wait_log("ReductStore is ready", BOUND)?;
    let bucket = client.get_bucket(config.bucket()).await?;
    let (zero, one) = (format!("{topic}/0"), format!("{topic}/1"));
    ensure!(first_record(&bucket, &zero).await? == both, "before the first record");
    ensure!(first_record(&bucket, &one).await? == with_note, "by a pattern and by the name");
    ensure!(first_record(&bucket, &other).await? == json!({}), "an entry that nothing fits");

    // The entry is removed with its attachments, and a record is written to it at once.
    bucket.remove_entry(&zero).await?;
    let begin = Instant::now();
    while bucket.entries().await?.iter().any(|entry| entry.name == zero) && begin.elapsed() < BOUND {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    produce(bed, &topic, 0)?;
    first_record(&bucket, &zero).await?;
    wait_for(&bucket, &zero, &both).await?;

    // The change of a file takes effect with the next record.
    std::fs::write(&ros, r#"{"encoding": "cdr", "topic": "/left"}"#)?;
    let mut changed = both.clone();
    changed["$ros"]["topic"] = "/left".into();
    sink.wait_log("the attachment changed", SOON)?;
    produce(bed, &topic, 0)?;
    wait_for(&bucket, &zero, &changed).await?;

    // The host reports a missing file, and its earlier content stays in force.
    std::fs::remove_file(&ros)?;
    sink.wait_log("attachments.file: cannot read", SOON)?;
    produce(bed, &topic, 1)?;
    sink.wait_caught_up(&bed.kafka.client(), config.group(), &[&topic, &other], BOUND)?;
    ensure!(sink.log()?.contains("entries get what it held before"), "{}", sink.log()?);
    std::fs::write(&ros, r#"{"encoding": "cdr", "topic": "/left"}"#)?;
    sink.wait_log("solved: attachments, after", SOON)?;
    let written = sink.log()?.matches("attachments written").count();
    sink.stop_cleanly()?;

    // After a restart the host finds the attachments and doesn't write them again.
    let mut sink = Sink::start(&config)?;
    produce(bed, &topic, 0)?;
    sink.wait_caught_up(&bed.kafka.client(), config.group(), &[&topic, &other], BOUND)?;
    sink.stop_cleanly()?;
    ensure!(written >= 3 && !sink.log()?.contains("attachments written"), "{written}: {}", sink.log()?);
    Ok(())
}

/// The host says at its start, as `check` does, which file can't be an attachment.
#[test]
fn a_file_that_is_missing_or_no_json_ends_the_start() -> Result<()> {
    let bed = bed()?;
    let folder = process::data_folder("attachments")?;
    let (missing, broken) = (folder.path().join("missing.json"), folder.path().join("broken.json"));
    std::fs::write(&broken, "{")?;
    for (path, reason) in [(&missing, "cannot read"), (&broken, "isn't JSON")] {
        let config = with_attachments(bed.sink_config("camera"), &[("camera*", "$schema", path)]);
        let file = folder.path().join("sink.toml");
        std::fs::write(&file, config.text())?;
        let file = file.to_str().context("a path that is UTF-8")?;
        for args in [&["run", "--config", file][..], &["check", "--offline", "--config", file]] {
            let output = run_to_end(args, &[], BOUND)?;
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            ensure!(output.status.code() == Some(2), "{args:?}: {} {text}", output.status);
            let name = path.display().to_string();
            ensure!(text.contains("attachments.file") && text.contains(reason) && text.contains(&name), "{text}");
        }
    }
    Ok(())
}
