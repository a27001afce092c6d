//! Tests a store whose disk fills up and later has room again.

use std::time::Duration;

use anyhow::Result;
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, SinkConfig, Store, bed, figures, long, payload, unique};

use super::CATCH_UP;

/// How long the host may take until the disk is full; a bound, not an expectation.
const FILLED: Duration = Duration::from_secs(120);

/// ReductStore acknowledges records whose bytes don't reach the disk.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_disk_is_full() -> Result<()> {
    let kafka = bed()?.kafka.client();
    let mut dice = Dice::new("disk")?;
    for (size, records) in [(1_000, 20_000), (50_000, 1_000), (500_000, 200)] {
        for _ in 0..if long() { 10 } else { 1 } {
            let topic = unique("disk");
            kafka.create_topic(&topic, 2)?;
            let messages = (0..records).map(|n| Message::new(payload(n, size)).partition(n as i32 % 2));
            let produced = kafka.produce(&topic, messages)?;
            // The disk is full after between a third and two thirds of the records.
            let bytes = size as u64 * records;
            let store = Store::start_on_disk_of(bytes / 3 + dice.below(bytes / 3))?;
            let config = SinkConfig::new(kafka.brokers(), &store.url(), "disk").topics(&[&topic]);
            let mut sink = Sink::start(&config)?;
            sink.wait_log("can't write to ReductStore", FILLED)?;
            tokio::time::sleep(dice.millis(1_000..10_000)).await;
            store.resize_disk(bytes * 4)?;
            sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
            sink.stop_cleanly()?;
            let diff = Ledger::of(&produced).audit(&store.client()?, config.bucket()).await?;
            eprintln!("{records} records of {size} bytes: {diff}");
            figures::add("disk_full_missing", diff.missing.len() as f64)?;
            diff.exact()?;
        }
    }
    Ok(())
}
