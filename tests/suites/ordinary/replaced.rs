//! Tests a store that was restored from a backup, or replaced by an empty one.

use std::time::Duration;

use anyhow::Result;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, SinkConfig, Store, bed, figures, payload, unique};

use super::CATCH_UP;

/// The host can't know which records a backup lacks. It reports what it notices, and how to get the records back.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_what_it_acknowledged_is_named_and_filled_again() -> Result<()> {
    let kafka = bed()?.kafka.client();
    let mut store = Store::start()?;
    let topic = unique("replaced");
    kafka.create_topic(&topic, 2)?;
    let config = SinkConfig::new(kafka.brokers(), &store.url(), "replaced").topics(&[&topic]);
    let send = |from: u64, to: u64| {
        kafka.produce(&topic, (from..to).map(|n| Message::new(payload(n, 1_000)).partition(n as i32 % 2)))
    };
    let mut produced = send(0, 1_000)?;
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    store.stop()?;
    let backup = store.back_up()?;
    store.restart()?;
    // These are more records than the host re-reads after any restart, which is what two blocks hold.
    produced.extend(send(1_000, 6_000)?);
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    store.stop()?;
    store.restore(&backup)?;
    store.restart()?;
    sink.wait_log("restored from a backup", Duration::from_secs(60))?;
    produced.extend(send(6_000, 6_200)?);
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;

    // The log names this remedy: a new group reads the topic from its begin, and the host finds the records that are
    // there.
    let config = config.set("kafka.group", unique("again"));
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let diff = Ledger::of(&produced).audit(&store.client()?, config.bucket()).await?;
    figures::add("replaced_missing", diff.missing.len() as f64)?;
    diff.exact()
}
