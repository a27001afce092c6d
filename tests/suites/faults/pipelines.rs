//! Tests a process with two pipelines under load: the process is killed, and the store of one pipeline.

use anyhow::Result;
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Sink, SinkConfig, Store, figures};

use super::{CATCH_UP, Trial, guests, kafka, pause, size, sized, wait_progress};
use reduct_sink_testbed::process;

/// One pipeline writes its records unchanged, the other one splits each record into three; each has its own store. The
/// process is killed again and again, and sometimes only the store of the first pipeline: the second one then
/// continues.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_two_pipelines_is_killed() -> Result<()> {
    let mut stores = [Store::start()?, Store::start()?];
    let folder = process::data_folder("split")?;
    let file = folder.path().join("split.wasm");
    std::fs::write(&file, guests::split())?;
    let plain = Trial::new(kafka()?.client(), &stores[0], "pipeline-plain", 4)?;
    let mut split = Trial::new(kafka()?.client(), &stores[1], "pipeline-split", 4)?;
    split.config = split.config.plugin("split", &file, "")?;
    let mut dice = Dice::new(&plain.topic)?;
    let (group_plain, group_split) = (plain.group()?, split.group()?);
    let loads = (plain.load(800)?, split.load(300)?);
    let mut sink = Sink::start(&SinkConfig::several(&[("plain", &plain.config), ("split", &split.config)]))?;
    for round in 0..size(2, 25) {
        wait_progress(&mut sink, &split, &group_split, split.committed(&group_split)?)?;
        if round % 3 == 1 {
            stores[0].kill9()?;
            figures::add("kills_store", 1.0)?;
            wait_progress(&mut sink, &split, &group_split, split.committed(&group_split)?)?;
            stores[0].restart()?;
        }
        wait_progress(&mut sink, &plain, &group_plain, plain.committed(&group_plain)?)?;
        pause(&mut dice, 0..1200).await;
        sink.kill9()?;
        figures::add("kills_host", 1.0)?;
        sink.start_again()?;
    }
    let produced_plain = plain.finish(loads.0, sized(2_000, 4_000, 200_000))?;
    let produced_split = split.finish(loads.1, sized(800, 1_500, 70_000))?;
    let mut ledger = Ledger::default();
    for (n, record) in produced_split.iter().enumerate() {
        ledger.expect_parts(record, guests::thirds(&reduct_sink_testbed::payload(n as u64, 1000)));
    }
    for trial in [&plain, &split] {
        sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    }
    sink.stop_cleanly()?;
    plain.audit(&stores[0], Ledger::of(&produced_plain)).await?;
    split.audit(&stores[1], ledger).await
}
