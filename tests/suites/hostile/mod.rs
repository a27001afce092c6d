//! Tests hostile plugins on the real servers: the host survives, every record on which no plugin misbehaves is stored
//! exactly, and the dead letter or the log names each misdeed with its reason.

mod alone;
mod at_work;
mod by_answers;
mod by_tables;
mod by_wasi;
mod callers;
mod entries;
mod hung;
mod loading;
mod misdeeds;
mod producers;
mod secrets;
mod stops;

use std::time::Duration;

use anyhow::Result;
use reduct_sink_testbed::verify::Diff;
use reduct_sink_testbed::{Sink, figures};

/// How long the sink may take to reach the end of the topic; a bound, not an expectation.
const CATCH_UP: Duration = Duration::from_secs(240);

/// Records a test's figures: how many hostile components there were, whether the host died, and how many other records
/// differ.
fn note(components: usize, died: bool, neighbours: &Diff) -> Result<()> {
    figures::add("components", components as f64)?;
    figures::add("host_deaths", f64::from(u8::from(died)))?;
    figures::add("neighbour_errors", neighbours.count() as f64)
}

/// Whether the host has ended although the test didn't end it.
fn has_died(sink: &mut Sink) -> bool {
    sink.process().expect_running().is_err()
}
