//! Tests the main job end to end on the real servers: consume, transform, write, commit.

mod commands;
mod commits;
mod leftovers;
mod operating;
mod plugins;
mod records;
mod stores;
mod topics;
mod traps;

use std::time::Duration;

use anyhow::Result;
use reduct_sink_testbed::verify::{DIFFER, compare};
use reduct_sink_testbed::{Bed, Produced, Sink, SinkConfig, Stored, read_back};

/// How long the sink may take to reach the end of what was produced; a bound, not an expectation.
const CATCH_UP: Duration = Duration::from_secs(240);

/// Runs the sink until it has committed everything that the topics hold, stops it, and returns the records of its
/// bucket.
async fn run_through(bed: &Bed, config: &SinkConfig, topics: &[&str]) -> Result<Vec<Stored>> {
    let mut sink = Sink::start(config)?;
    sink.wait_caught_up(&bed.kafka.client(), config.group(), topics, CATCH_UP)?;
    sink.stop_cleanly()?;
    read_back(&bed.store.client()?, config.bucket(), "*").await
}

/// The stored record that was made of a produced one.
fn find<'a>(stored: &'a [Stored], produced: &Produced) -> &'a Stored {
    let source = format!("{}/{}", produced.topic, produced.partition);
    let offset = produced.offset.to_string();
    let is_it = |s: &&Stored| s.source() == Some(&source) && s.label("kafka.offset") == Some(&offset);
    stored.iter().find(is_it).unwrap_or_else(|| panic!("{DIFFER}: {source}@{offset} isn't stored"))
}

/// Expects that every produced record is stored exactly once, bit for bit, and that nothing else is.
fn assert_exact(produced: &[Produced], stored: &[Stored]) -> Result<()> {
    compare(produced, stored)?.exact()?;
    Ok(())
}
