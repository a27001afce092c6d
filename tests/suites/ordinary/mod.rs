//! Ordinary conditions that are easily overlooked: a full disk, late records, proxies with default settings, thousands of
//! entries, records that the store can never hold.

mod disk;
mod proxies;
mod refusals;
mod scale;
mod surroundings;
mod times;

use std::time::Duration;

/// How long the sink may take to reach the end of what was produced; a bound, not an expectation.
const CATCH_UP: Duration = Duration::from_secs(600);
