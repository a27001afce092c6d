//! Ordinary conditions that are easily overlooked: a full disk, late records, proxies with default settings, thousands of
//! entries, records that the store can never hold.

mod disk;
mod proxies;
mod refusals;
mod replaced;
mod routes;
mod scale;
mod stuck;
mod surroundings;
mod times;

use std::time::Duration;

/// How long the sink may take to reach the end of what was produced; a bound, not an expectation.
const CATCH_UP: Duration = Duration::from_secs(1_800);
/// The resident memory that a host may have at any time.
const MEMORY: u64 = 300 << 20;
