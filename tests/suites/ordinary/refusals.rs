//! Tests records that the store can never hold.

use std::time::Duration;

use anyhow::{Result, ensure};
use reduct_rs::{BucketSettings, QuotaType};
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, bed, payload, read_back, unique};

use super::CATCH_UP;

/// A FIFO bucket removes all that it holds before it refuses a record larger than its quota.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_larger_than_the_quota_empties_no_bucket() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("quota");
    kafka.create_topic(&topic, 2)?;
    let config = bed.sink_config(&topic);
    let quota = |bytes| BucketSettings {
        quota_type: Some(QuotaType::FIFO),
        quota_size: Some(bytes),
        max_block_size: Some(1_000_000),
        ..BucketSettings::default()
    };
    let bucket = bed.store.client()?.create_bucket(config.bucket()).settings(quota(5_000_000)).send().await?;
    let message = |n: u64| Message::new(payload(n, if n == 150 { 6_000_000 } else { 1_000 })).partition(n as i32 % 2);
    let produced = kafka.produce(&topic, (0..300).map(message))?;
    let mut sink = Sink::start(&config)?;
    // The host reaches the other partition's end, and waits with this one and reports why.
    let group = kafka.group(config.group())?;
    wait_for("the other partition", CATCH_UP, || {
        sink.process().expect_running()?;
        Ok(group.committed(&topic).unwrap_or_default().contains(&(1, 150)).then_some(()))
    })?;
    sink.wait_log("doesn't fit into the bucket's quota", CATCH_UP)?;
    let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    ensure!(stored.len() >= 150, "{} are left", stored.len());

    bucket.set_settings(quota(50_000_000)).await?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let mut ledger = Ledger::default();
    for record in &produced {
        match record.size {
            6_000_000 => ledger.expect_dead(record),
            _ => ledger.expect(record),
        }
    }
    ledger.audit(&bed.store.client()?, config.bucket()).await?.exact()
}

/// A producer sends nanoseconds where Kafka expects milliseconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_in_nanoseconds_ends_no_host() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("nanoseconds");
    kafka.create_topic_with(&topic, 1, &[("message.timestamp.after.max.ms", "9223372036854775807")])?;
    let times = [1_700_000_000_000, 1_700_000_000_000_000_000, 1_700_000_000_001];
    let produced = kafka.produce(&topic, times.map(|time| Message::new("x").timestamp_ms(time)))?;
    let config = bed.sink_config(&topic);
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], Duration::from_secs(60))?;
    sink.stop_cleanly()?;
    let mut ledger = Ledger::default();
    ledger.expect(&produced[0]);
    ledger.expect_dead(&produced[1]);
    ledger.expect(&produced[2]);
    ledger.audit(&bed.store.client()?, config.bucket()).await?.exact()
}
