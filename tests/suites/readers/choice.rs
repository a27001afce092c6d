//! Tests the keys of `[labels]` with a running host: which headers become labels, their letter case, and how many there
//! may be.

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Message, Sink, bed, read_back, unique};
use toml::Value;

use super::BOUND;

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_chooses_headers_and_bounds_labels() -> Result<()> {
    let bed = bed()?;
    let topic = unique("chosen");
    bed.kafka.client().create_topic(&topic, 1)?;
    let many = (0..20).fold(Message::new("many"), |message, n| message.header(format!("h{n:02}"), "x"));
    let sent = [
        Message::new("chosen").header("deviceId", "a").header("x-trace-1", "b").header("type", "image"),
        Message::new("long").header("long", "x".repeat(4_500)),
        many,
    ];
    bed.kafka.client().produce(&topic, sent)?;
    let config = bed
        .sink_config(&topic)
        .set("labels.lowercase", false)
        .set("labels.exclude", vec![Value::from("x-trace-*")])
        .set("labels.max_bytes", "4KB")
        .set("labels.max_count", 16);
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&bed.kafka.client(), config.group(), &[&topic], BOUND)?;
    sink.stop_cleanly()?;
    let client = bed.store.client()?;
    let stored = read_back(&client, config.bucket(), &topic).await?;
    ensure!(stored.len() == 1, "{stored:?}");
    ensure!(stored[0].label("deviceId") == Some("a") && stored[0].label("type") == Some("image"), "{stored:?}");
    ensure!(!stored[0].labels.keys().any(|name| name.contains("trace")), "{stored:?}");
    // The headers that are left out aren't stored elsewhere either.
    ensure!(stored[0].label("kafka.headers").is_none_or(|text| !text.contains("trace")), "{stored:?}");
    let letters = read_back(&client, config.bucket(), "dead-letters/*").await?;
    let reasons = letters.iter().map(|letter| letter.label("sink.reason").context("a reason"));
    let reasons = reasons.collect::<Result<Vec<_>>>()?;
    ensure!(reasons.len() == 2, "{reasons:?}");
    ensure!(reasons[0].contains("labels.max_bytes allows 4000"), "{reasons:?}");
    ensure!(reasons[1].contains("labels.max_count allows 16"), "{reasons:?}");
    // The first dead letter is complete all the same: its headers follow the payload.
    ensure!(letters[0].label("sink.headers-at") == Some("4"), "{:?}", letters[0].labels.keys());
    Ok(())
}
