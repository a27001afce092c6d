//! Tests records whose timestamps collide or come late: thousands in one millisecond, and old timestamps after new
//! ones.

use std::time::Instant;

use anyhow::{Result, ensure};
use futures::StreamExt;
use reduct_rs::Bucket;
use reduct_sink_testbed::verify::{DIFFER, Ledger};
use reduct_sink_testbed::{KafkaClient, Message, Sink, SinkConfig, bed, figures, payload, process, sized, unique};

use super::{CATCH_UP, MEMORY};

const BASE_MS: i64 = 1_700_000_000_000;

/// Produces records with these times, and waits until the host has written them. Returns how many it wrote per second.
fn write(
    kafka: &KafkaClient,
    sink: &mut Sink,
    config: &SinkConfig,
    ledger: &mut Ledger,
    topic: &str,
    times: impl ExactSizeIterator<Item = i64>,
) -> Result<f64> {
    let (begin, records) = (Instant::now(), times.len());
    let messages = times.enumerate().map(|(n, time)| Message::new(payload(n as u64, 200)).timestamp_ms(time));
    kafka.produce(topic, messages)?.iter().for_each(|record| ledger.expect(record));
    sink.wait_caught_up(kafka, config.group(), &[topic], CATCH_UP)?;
    Ok(records as f64 / begin.elapsed().as_secs_f64())
}

/// A late record has a timestamp at which the host has written a record long ago, and the store accepts a second record
/// there without an error (trap 8).
#[tokio::test(flavor = "multi_thread")]
async fn late_records_are_not_lost() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("late");
    kafka.create_topic(&topic, 1)?;
    let config = bed.sink_config(&topic);
    let mut sink = Sink::start(&config)?;
    let mut ledger = Ledger::default();
    let mut write = |times: std::ops::Range<i64>| {
        write(
            &kafka,
            &mut sink,
            &config,
            &mut ledger,
            &topic,
            times.map(|n| BASE_MS + 10 * n).collect::<Vec<_>>().into_iter(),
        )
    };
    // Rates are compared for equal numbers of records, because each measurement waits for the last commit.
    let (first, late, each) = sized((6_000, 600, 6_000), (20_000, 2_000, 20_000), (1_000_000, 1_000, 60_000));
    write(0..first)?;
    let before = write(first..first + each)?;
    write(0..late)?;
    let after = write(first + each..first + 2 * each)?;
    let peak = sink.process().peak_memory()?;
    sink.stop_cleanly()?;
    let diff = ledger.audit(&bed.store.client()?, config.bucket()).await?;
    eprintln!("{diff}; {before:.0} records/s before, {after:.0} after; {} MB at most", peak / 1_000_000);
    figures::add("late_missing", diff.missing.len() as f64)?;
    figures::record("late_throughput", after / before)?;
    ensure!(peak < MEMORY, "{} MB were resident", peak / 1_000_000);
    diff.exact()
}

/// Many records have one timestamp, and late ones have timestamps of long ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_rounds_times_to_seconds() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("rounded");
    kafka.create_topic(&topic, 1)?;
    let folder = process::data_folder("rounds")?;
    let file = folder.path().join("rounds.wasm");
    let round = "(call $time (i64.sub (local.get $timestamp) (i64.rem_u (local.get $timestamp) (i64.const 1000000))))";
    std::fs::write(&file, crate::guest::guest(&format!("{round} (call $change)")))?;
    let config = bed.sink_config(&topic).plugin("rounds", &file, "")?;
    let mut sink = Sink::start(&config)?;
    let mut ledger = Ledger::default();
    let (first, late) = sized((3_000, 300), (6_000, 500), (100_000, 5_000));
    for times in [0..first, 0..late, first..first + late] {
        // There are 250 records a second.
        let times: Vec<i64> = times.map(|n| BASE_MS + 4 * n).collect();
        write(&kafka, &mut sink, &config, &mut ledger, &topic, times.into_iter())?;
    }
    sink.stop_cleanly()?;
    let diff = ledger.audit(&bed.store.client()?, config.bucket()).await?;
    figures::add("late_missing", diff.missing.len() as f64)?;
    diff.exact()
}

/// Two sources whose clocks differ by a day, and one that rounds its times to seconds.
#[tokio::test(flavor = "multi_thread")]
async fn sources_a_day_apart_share_an_entry() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("apart");
    kafka.create_topic(&topic, 1)?;
    let config = bed.sink_config(&topic);
    let mut sink = Sink::start(&config)?;
    let mut ledger = Ledger::default();
    let time = |n: i64| match n % 3 {
        0 => BASE_MS + 5 * n,
        1 => BASE_MS + 5 * n - 86_400_000,
        _ => (BASE_MS + 5 * n) / 1000 * 1000,
    };
    write(
        &kafka,
        &mut sink,
        &config,
        &mut ledger,
        &topic,
        (0..sized(5_000, 12_000, 12_000)).map(time).collect::<Vec<_>>().into_iter(),
    )?;
    sink.stop_cleanly()?;
    let diff = ledger.audit(&bed.store.client()?, config.bucket()).await?;
    figures::add("late_missing", diff.missing.len() as f64)?;
    diff.exact()
}

/// Kafka sets the time of each record when it appends it.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_shows_records_in_kafkas_order() -> Result<()> {
    shown_in_order("appended", "LogAppendTime").await
}

/// The producer sets the times: there are 4,000 records in each millisecond.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_shows_records_of_one_millisecond_in_kafkas_order() -> Result<()> {
    shown_in_order("created", "CreateTime").await
}

/// A query costs the same wherever it looks, which shows that no two blocks overlap.
async fn shown_in_order(name: &str, kind: &str) -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let records = sized(9_000, 20_000, 1_000_000);
    let topic = unique(name);
    kafka.create_topic_with(&topic, 1, &[("message.timestamp.type", kind)])?;
    let message = |n: u64| Message::new(payload(n, 100)).timestamp_ms(BASE_MS + n as i64 / 4_000);
    kafka.produce(&topic, (0..records).map(message))?;
    let config = bed.sink_config(&topic);
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let bucket = bed.store.client()?.get_bucket(config.bucket()).await?;
    let mut times = Vec::new();
    let stream = bucket.query(&topic).head_only(true).send().await?;
    futures::pin_mut!(stream);
    while let Some(record) = stream.next().await {
        let record = record?;
        let offset: usize = record.labels()["kafka.offset"].parse()?;
        ensure!(offset == times.len(), "{DIFFER}: offset {offset} of {topic} is the record {}", times.len());
        times.push(record.timestamp_us());
    }
    ensure!(times.len() as u64 == records, "{DIFFER}: {} of {records}", times.len());
    let mut costs = Vec::new();
    for n in 0..102 {
        // The queries look at the begin, in the middle and at the end, in turn.
        let from = (times.len() - 120) / 2 * (n % 3) + n / 3;
        let begin = Instant::now();
        let shown = shown(&bucket, &topic, times[from], times[from + 80]).await?;
        ensure!(shown == 80, "{DIFFER}: {shown} of 80 are shown");
        costs.push(begin.elapsed());
    }
    let median = |part: usize| {
        let mut costs: Vec<_> = costs.iter().skip(part).step_by(3).collect();
        costs.sort();
        costs[costs.len() / 2].as_secs_f64()
    };
    let parts = [median(0), median(1), median(2)];
    let ratio = parts.iter().copied().fold(0.0, f64::max) / parts.iter().copied().fold(f64::MAX, f64::min);
    eprintln!("{kind}: queries at begin, middle and end take {parts:?} s");
    figures::record(&format!("query_ratio_{name}"), ratio)?;
    Ok(())
}

async fn shown(bucket: &Bucket, entry: &str, from: u64, to: u64) -> Result<usize> {
    let stream = bucket.query(entry).start_us(from).stop_us(to).head_only(true).send().await?;
    futures::pin_mut!(stream);
    let mut shown = 0;
    while let Some(record) = stream.next().await {
        record?;
        shown += 1;
    }
    Ok(shown)
}
