//! Tests that reading records again writes none twice, also if a plugin fails on some of them.

use anyhow::Result;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, Store, payload, process, unique};

use super::{CATCH_UP, Trial, guests, kafka, size, sized};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_records_of_one_timestamp_are_replayed_three_times() -> Result<()> {
    let store = Store::start()?;
    let mut trial = Trial::new(kafka()?.client(), &store, "one-instant", 2)?;
    let one_instant = |n: u64| Message::new(payload(n, 200)).timestamp_ms(1_700_000_000_000);
    let produced = trial.kafka.produce(&trial.topic, (0..10_000).map(one_instant))?;
    for _ in 0..4 {
        trial.config = trial.config.clone().set("kafka.group", unique("group"));
        let mut sink = Sink::start(&trial.config)?;
        sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
        trial.weigh(&mut sink);
        sink.stop_cleanly()?;
        trial.audit(&store, Ledger::of(&produced)).await?;
    }
    Ok(())
}

/// The server pairs headers and bodies by time: a batch out of order would swap payloads.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_sets_time_backwards_swaps_no_payloads() -> Result<()> {
    let store = Store::start()?;
    let folder = process::data_folder("backwards")?;
    let file = folder.path().join("backwards.wasm");
    std::fs::write(&file, guests::backwards())?;
    let mut trial = Trial::new(kafka()?.client(), &store, "backwards", 1)?;
    trial.config = trial.config.plugin("backwards", &file, "")?;
    let count = sized(1_500, 3_000, 30_000);
    let produced =
        trial.kafka.produce(&trial.topic, (0..count).map(|n| Message::new(payload(n, 300 + n as usize % 7))))?;
    for _ in 0..2 {
        trial.config = trial.config.clone().set("kafka.group", unique("group"));
        let mut sink = Sink::start(&trial.config)?;
        sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
        sink.stop_cleanly()?;
        trial.audit(&store, Ledger::of(&produced)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_record_in_a_hundred_is_poison() -> Result<()> {
    let store = Store::start()?;
    let folder = process::data_folder("poison")?;
    let file = folder.path().join("poison.wasm");
    std::fs::write(&file, guests::poisoned())?;
    let mut trial = Trial::new(kafka()?.client(), &store, "poison", 4)?;
    trial.config = trial.config.plugin("poison", &file, "")?;
    let load = trial.load(1000)?;
    let mut sink = Sink::start(&trial.config)?;
    for _ in 0..size(2, 10) {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        trial.weigh(&mut sink);
        sink.kill9()?;
        sink.start_again()?;
    }
    let produced = trial.finish(load, sized(5_000, 8_000, 100_000))?;
    let mut ledger = Ledger::default();
    for record in &produced {
        match guests::is_poison(record.offset) {
            true => ledger.expect_dead(record),
            false => ledger.expect(record),
        }
    }
    trial.settle(&mut [&mut sink], &store, ledger).await
}
