//! Tests that `/health` shows what is wrong with a store, with its reason, and no longer shows it when it is repaired.

use std::time::Duration;

use anyhow::{Result, ensure};
use reduct_rs::{BucketSettings, QuotaType};
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::proxy::Proxy;
use reduct_sink_testbed::{Message, Sink, SinkConfig, Store, bed, payload, read_back, unique};

use super::{BOUND, address, wait_healthy, wait_problem};

fn config(url: &str, topic: &str, status: &str) -> Result<SinkConfig> {
    let config = SinkConfig::new(&bed()?.kafka.brokers(), url, &unique("bucket"));
    Ok(config.topics(&[topic]).set("status.listen", status))
}

fn messages(from: u64) -> impl Iterator<Item = Message> {
    (from..from + 10).map(|n| Message::new(payload(n, 100)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_bucket_is_shown() -> Result<()> {
    let (store, kafka) = (Store::start()?, bed()?.kafka.client());
    let topic = unique("full");
    kafka.create_topic(&topic, 1)?;
    let status = address()?;
    let config = config(&store.url(), &topic, &status)?;
    let quota = |bytes| BucketSettings {
        quota_type: Some(QuotaType::HARD),
        quota_size: Some(bytes),
        ..BucketSettings::default()
    };
    let bucket = store.client()?.create_bucket(config.bucket()).settings(quota(100_000)).send().await?;
    let mut sink = Sink::start(&config)?;
    kafka.produce(&topic, (0..40).map(|n| Message::new(payload(n, 10_000))))?;
    let message = wait_problem(&mut sink, &status, "store")?;
    ensure!(message.to_lowercase().contains("quota"), "{message}");
    bucket.set_settings(quota(100_000_000)).await?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    wait_healthy(&mut sink, &status)?;
    sink.stop_cleanly()
}

/// Behind one address there is first the store, then the same store as a replica, which refuses writes, then an empty
/// store.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_replaced_behind_its_address_is_shown_or_written() -> Result<()> {
    let (mut first, kafka) = (Store::start()?, bed()?.kafka.client());
    let topic = unique("replaced");
    kafka.create_topic(&topic, 1)?;
    let at = |store: &Store| Ok::<_, anyhow::Error>(store.url().trim_start_matches("http://").parse()?);
    let proxy = Proxy::start(at(&first)?, Dice::new(&topic)?, Duration::from_secs(1))?;
    let status = address()?;
    let config = config(&proxy.url(), &topic, &status)?;
    let mut sink = Sink::start(&config)?;
    kafka.produce(&topic, messages(0))?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    wait_healthy(&mut sink, &status)?;

    first.set_variable("RS_INSTANCE_ROLE", "REPLICA");
    first.restart()?;
    let second = kafka.produce(&topic, messages(10))?;
    let message = wait_problem(&mut sink, &status, "store")?;
    ensure!(message.contains("read-only"), "{message}");

    let fresh = Store::start()?;
    proxy.redirect(at(&fresh)?);
    first.kill9()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    wait_healthy(&mut sink, &status)?;
    sink.stop_cleanly()?;
    let stored = read_back(&fresh.client()?, config.bucket(), "*").await?;
    ensure!(stored.len() >= second.len(), "{} records are in the new store", stored.len());
    Ok(())
}
