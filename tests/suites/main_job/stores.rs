//! Tests a store that is away at the start, disappears meanwhile, or is slow.

use std::time::Duration;

use anyhow::Result;
use reduct_sink_testbed::{Load, Message, Sink, SinkConfig, Store, bed, payload, read_back, sized, unique};

use super::{CATCH_UP, assert_exact};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_late_is_waited_for() -> Result<()> {
    let kafka = bed()?.kafka.client();
    let mut store = Store::start()?;
    store.stop()?;
    let topic = unique("late");
    kafka.create_topic(&topic, 1)?;
    let produced = kafka.produce(&topic, (0..100).map(|n| Message::new(payload(n, 100))))?;
    let config = SinkConfig::new(kafka.brokers(), &store.url(), "late").topics(&[&topic]);
    let mut sink = Sink::start(&config)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    sink.process().expect_running()?;
    store.restart()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    assert_exact(&produced, &read_back(&store.client()?, "late", "*").await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_killed_or_held_under_load_loses_nothing() -> Result<()> {
    let kafka = bed()?.kafka.client();
    let mut store = Store::start()?;
    let topic = unique("outage");
    kafka.create_topic(&topic, 2)?;
    let config =
        SinkConfig::new(kafka.brokers(), &store.url(), "outage").topics(&[&topic]).set("store.timeout", "1500ms");
    let load = Load::start(&kafka, &topic, sized(90, 300, 300), |n| Message::new(payload(n, 1000)))?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("running", CATCH_UP)?;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        store.kill9()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.restart()?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        // The store stands still for longer than a request may take: requests end without an answer, and the store still carries them
        // out.
        store.suspend()?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        store.resume()?;
        sink.process().expect_running()?;
    }
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    assert_exact(&produced, &read_back(&store.client()?, "outage", "*").await?)
}

#[tokio::test]
async fn a_store_with_a_token_is_written_to() -> Result<()> {
    let kafka = bed()?.kafka.client();
    let store = Store::start_with(Some("secret"), &[])?;
    let topic = unique("token");
    kafka.create_topic(&topic, 1)?;
    let produced = kafka.produce(&topic, [Message::new("payload")])?;
    let config = SinkConfig::new(kafka.brokers(), &store.url(), "token").topics(&[&topic]).set("store.token", "secret");
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    assert_exact(&produced, &read_back(&store.client()?, "token", "*").await?)
}

#[tokio::test]
async fn an_existing_bucket_is_left_as_it_is() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("existing");
    kafka.create_topic(&topic, 1)?;
    kafka.produce(&topic, [Message::new("payload")])?;
    let config = bed.sink_config(&topic).set("store.create.max_block_records", 77);
    let client = bed.store.client()?;
    let bucket = client.create_bucket(config.bucket()).max_block_records(333).send().await?;
    super::run_through(bed, &config, &[&topic]).await?;
    assert_eq!(bucket.settings().await?.max_block_records, Some(333));

    let config = config.set("store.bucket", unique("bucket")).set("kafka.group", unique("group"));
    super::run_through(bed, &config, &[&topic]).await?;
    let created = client.get_bucket(config.bucket()).await?;
    assert_eq!(created.settings().await?.max_block_records, Some(77));
    Ok(())
}
