//! Which contract this host offers, and how long a plugin may take to start under it.

use std::time::Duration;

/// The contract's name and version. By semantic versioning the host offers every 0.1.x.
pub const CONTRACT: &str = "reduct-sink:transform@0.1.0";
/// The time within which an instance must have started and accepted its configuration.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(5);
