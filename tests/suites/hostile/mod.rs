//! Hostile plugins on the real servers: the host lives, every record that a plugin doesn't spoil itself is exact, and
//! each misdeed is told with its reason, in the dead letter or in the log.

mod alone;
mod at_work;
mod by_answers;
mod by_wasi;
mod callers;
mod hung;
mod loading;
mod misdeeds;
mod producers;
mod secrets;

use std::time::Duration;

use anyhow::Result;
use reduct_sink_testbed::verify::Diff;
use reduct_sink_testbed::{Sink, figures};

/// A bound, not an expectation.
const CATCH_UP: Duration = Duration::from_secs(240);

/// Notes what the issue wants to know of a test: how many hostile components there were, and what came of the rest.
fn note(components: usize, died: bool, neighbours: &Diff) -> Result<()> {
    figures::add("components", components as f64)?;
    figures::add("host_deaths", f64::from(u8::from(died)))?;
    figures::add("neighbour_errors", neighbours.count() as f64)
}

/// Whether the host is gone though nobody ended it.
fn has_died(sink: &mut Sink) -> bool {
    sink.process().expect_running().is_err()
}
