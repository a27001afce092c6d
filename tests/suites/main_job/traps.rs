//! Tests the traps of ReductStore that concern writing, against the real server: first what happens to a writer that
//! doesn't know the trap, then the host with the same data. If a first half fails one day, the server or its client was
//! repaired, and the host's remedy can be removed.

use std::time::Duration;

use anyhow::{Context, Result};
use reduct_rs::{BucketSettings, RecordBuilder, ReductClient};
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::{Message, Sink, SinkConfig, Store, bed, payload, read_back, unique};

use super::{CATCH_UP, assert_exact, find, run_through};

/// A request that takes longer than this has stalled.
const STALL: Duration = Duration::from_secs(20);

/// Trap 2: several requests to one entry at a time can stall for 60 s and lose records. The host has one writer for
/// each entry, so that eight partitions that share an entry neither stall nor lose records.
#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_write_one_entry_without_a_stall() -> Result<()> {
    let mut damage = None;
    for round in 0..20 {
        damage = write_at_once(round).await?;
        if damage.is_some() {
            break;
        }
    }
    println!("several requests at once: {damage:?}");
    assert!(damage.is_some(), "the server bears several requests to an entry now");

    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("one-entry");
    kafka.create_topic(&topic, 8)?;
    let produced = kafka.produce(&topic, (0..4000).map(|n| Message::new(payload(n, 2000)).partition(n as i32 % 8)))?;
    let config = bed.sink_config(&topic).set("store.entry", "{name}").set("store.batch_records", 8);
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    assert_exact(&produced, &read_back(&bed.store.client()?, config.bucket(), "*").await?)?;
    assert!(!sink.log()?.contains("has not answered"), "a request stalled");
    Ok(())
}

/// Lets eight writers write to one entry at the same time, each its own range of times. Returns what went wrong, if
/// anything.
async fn write_at_once(round: u64) -> Result<Option<String>> {
    let store = Store::start()?;
    let bucket = store.client()?.create_bucket("at-once").send().await?;
    let settings = BucketSettings { max_block_records: Some(64), ..BucketSettings::default() };
    bucket.set_settings(settings).await?;
    let writers = (0..8u64).map(|writer| {
        let client = store.client();
        tokio::spawn(async move {
            let bucket = client?.get_bucket("at-once").await?;
            let mut acknowledged = Vec::new();
            for batch in 0..40u64 {
                let times: Vec<u64> = (0..8).map(|n| 1 + (batch * 8 + n) * 8 + writer).collect();
                let mut request = bucket.write_batch("e");
                for time in &times {
                    let record = RecordBuilder::new().timestamp_us(*time).data(payload(*time, 2000));
                    request.append_record(record.build());
                }
                let failed = match tokio::time::timeout(STALL, request.send()).await {
                    Ok(answer) => answer?,
                    Err(_) => return Ok::<_, anyhow::Error>((acknowledged, true)),
                };
                acknowledged.extend(times.into_iter().filter(|time| !failed.contains_key(time)));
            }
            Ok((acknowledged, false))
        })
    });
    let writers: Vec<_> = writers.collect();
    let (mut acknowledged, mut stalled) = (Vec::new(), 0);
    let mut failed = Vec::new();
    for writer in writers {
        match writer.await? {
            Ok((times, stall)) => {
                acknowledged.extend(times);
                stalled += usize::from(stall);
            }
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    let stored = read_back(&store.client()?, "at-once", "*").await;
    println!("round {round}: {} acknowledged, {stalled} stalled, failed: {failed:?}", acknowledged.len());
    let stored = match stored {
        Ok(stored) => stored,
        Err(error) => return Ok(Some(format!("it can't be read any more: {error:#}"))),
    };
    let lost = acknowledged.iter().filter(|time| {
        let found = stored.iter().filter(|record| record.timestamp_us == **time);
        found.count() != 1
    });
    let lost = lost.count();
    println!("round {round}: {lost} lost");
    Ok((lost > 0 || stalled > 0 || !failed.is_empty())
        .then(|| format!("{stalled} stalled, {lost} lost, failed: {failed:?}")))
}

/// Trap 3: a batch whose records aren't in the order of time gets its payloads swapped.
#[tokio::test]
async fn records_against_the_order_of_time_keep_their_payloads() -> Result<()> {
    let bed = bed()?;
    let bucket = bed.store.client()?.create_bucket(&unique("unsorted")).send().await?;
    let record = |time: u64, data: &'static str| RecordBuilder::new().timestamp_us(time).data(data).build();
    let batch = bucket.write_batch("e").add_record(record(2, "of 2")).add_record(record(1, "of 1"));
    batch.send().await?;
    let first = bucket.read_record("e").timestamp_us(1).send().await?.bytes().await?;
    assert_eq!(&first[..], b"of 2", "the client sorts now");

    let kafka = bed.kafka.client();
    let topic = unique("backwards");
    kafka.create_topic(&topic, 1)?;
    let backwards = |n: u64| Message::new(payload(n, 100 + n as usize)).timestamp_ms(1_700_000_000_000 - n as i64);
    let produced = kafka.produce(&topic, (0..500).map(backwards))?;
    let stored = run_through(bed, &bed.sink_config(&topic), &[&topic]).await?;
    assert_exact(&produced, &stored)
}

/// Trap 4: a batch over several entries leaks labels from a record to the next of its entry.
#[tokio::test]
async fn labels_stay_with_their_record() -> Result<()> {
    let bed = bed()?;
    let bucket = bed.store.client()?.create_bucket(&unique("leak")).send().await?;
    let record = |time: u64, label: &str| {
        RecordBuilder::new().entry("e").timestamp_us(time).add_label(label, "x").data("data").build()
    };
    bucket.write_record_batch().add_record(record(1, "first")).add_record(record(2, "second")).send().await?;
    let second = bucket.read_record("e").timestamp_us(2).send().await?;
    assert!(second.labels().contains_key("first"), "the client sends deltas now: {:?}", second.labels());

    let kafka = bed.kafka.client();
    let topic = unique("labels");
    kafka.create_topic(&topic, 2)?;
    let produced = kafka.produce(&topic, (0..300).map(|n| Message::new("x").header(format!("only-{n}"), "x")))?;
    let stored = run_through(bed, &bed.sink_config(&topic), &[&topic]).await?;
    assert_exact(&produced, &stored)?;
    for (n, produced) in produced.iter().enumerate() {
        let labels = &find(&stored, produced).labels;
        let only: Vec<&str> = labels.keys().filter_map(|name| name.strip_prefix("only-")).collect();
        assert_eq!(only, [n.to_string()]);
    }
    Ok(())
}

/// Trap 5: a label with both `,` and `"` in its value, or whose name is no HTTP token, ends the server at the next GET.
#[tokio::test]
async fn no_label_ends_the_server() -> Result<()> {
    let mut store = Store::start()?;
    let bucket = store.client()?.create_bucket("deadly").send().await?;
    let deadly = RecordBuilder::new().timestamp_us(1).add_label("no token", "x").data("x").build();
    bucket.write_batch("e").add_record(deadly).send().await?;
    let _ = bucket.read_record("e").timestamp_us(1).send().await;
    let ended = wait_for("the server's end", Duration::from_secs(5), || store.process().exited());
    assert!(ended.is_ok(), "the server survives it now");

    let store = Store::start()?;
    let kafka = bed()?.kafka.client();
    let topic = unique("deadly");
    kafka.create_topic(&topic, 1)?;
    let messages = [
        Message::new("1").header("json", r#"{"a": 1, "b": 2}"#),
        Message::new("2").header("no token", "x").header("a,b", "x").header("a\"b", "x").header("a=b", "x"),
        Message::new("3").key(r#"{"a": 1, "b": 2}"#).header("both", r#"," "#),
    ];
    let produced = kafka.produce(&topic, messages)?;
    let config = SinkConfig::new(kafka.brokers(), &store.url(), "deadly").topics(&[&topic]);
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let stored = read_back(&store.client()?, "deadly", "*").await?;
    assert_exact(&produced, &stored)?;
    let bucket = store.client()?.get_bucket("deadly").await?;
    for record in &stored {
        let alone = bucket.read_record(&record.entry).timestamp_us(record.timestamp_us).send().await?;
        assert_eq!(alone.labels().len(), record.labels.len());
    }
    Ok(())
}

/// Trap 6: a label's value that isn't ASCII makes the server refuse its whole batch; CR, LF, NUL and DEL make the
/// client panic.
#[tokio::test]
async fn no_value_spoils_its_batch_or_panics() -> Result<()> {
    let bed = bed()?;
    let bucket = unique("values");
    bed.store.client()?.create_bucket(&bucket).send().await?;
    let write = async |client: ReductClient, value: &'static str| {
        let bucket = client.get_bucket(&bucket).await?;
        let record = RecordBuilder::new().timestamp_us(1).add_label("l", value).data("x").build();
        bucket.write_batch("e").add_record(record).send().await
    };
    let answer = write(bed.store.client()?, "Zürich").await;
    assert!(answer.is_err_and(|error| error.status as i32 == 422), "the server takes it now");
    let (client, name) = (bed.store.client()?, bucket.clone());
    let panicked = tokio::spawn(async move {
        let bucket = client.get_bucket(&name).await?;
        let record = RecordBuilder::new().timestamp_us(1).add_label("l", "a\nb").data("x").build();
        bucket.write_batch("e").add_record(record).send().await
    });
    assert!(panicked.await.is_err_and(|error| error.is_panic()), "the client looks before it leaps now");

    let kafka = bed.kafka.client();
    let topic = unique("spoilers");
    kafka.create_topic(&topic, 1)?;
    let values = ["plain", "Zürich", "a\nb", "a\rb", "a\0b", "a\u{7f}b", " pad ", "", "\"", ",", "\\"];
    let messages = values.iter().map(|value| Message::new(*value).header("v", *value).key(*value));
    let produced = kafka.produce(&topic, messages)?;
    let stored = run_through(bed, &bed.sink_config(&topic), &[&topic]).await?;
    assert_exact(&produced, &stored)?;
    assert!(stored.iter().all(|record| record.entry == topic), "none became a dead letter");
    Ok(())
}

/// Trap 7: over TLS the client speaks HTTP/2, where the server takes no more than 16 KiB of headers, and so of labels.
#[tokio::test]
async fn over_tls_a_batch_may_have_many_labels() -> Result<()> {
    let store = Store::start_tls(None)?;
    let http2 = ReductClient::builder().url(&store.url()).verify_ssl(false).try_build()?;
    let bucket = store.client()?.create_bucket("tls").send().await?;
    let records =
        || (1..=80).map(|n| RecordBuilder::new().timestamp_us(n).add_label("l", &"x".repeat(400)).data("x").build());
    let refused = http2.get_bucket("tls").await?.write_batch("e").add_records(records().collect()).send().await;
    assert!(refused.is_err(), "HTTP/2 takes as much now");
    bucket.write_batch("e").add_records(records().collect()).send().await?;

    let kafka = bed()?.kafka.client();
    let topic = unique("tls");
    kafka.create_topic(&topic, 1)?;
    let messages = (0..400).map(|n| Message::new(payload(n, 100)).header("l", "x".repeat(400)));
    let produced = kafka.produce(&topic, messages)?;
    let ca = store.ca().context("the authority's certificate")?.display().to_string();
    let config = SinkConfig::new(kafka.brokers(), &store.url(), "through").topics(&[&topic]).set("store.tls.ca", ca);
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    assert_exact(&produced, &read_back(&store.client()?, "through", "*").await?)
}
