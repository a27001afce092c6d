//! Tests the commands as people, shells and scripts run them: each test starts the program. They are one binary, so that
//! those that wait for a time-out of the program wait beside each other.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests may")]

mod commands;
mod developer;
mod log;
mod registries;
mod wrong_configs;
