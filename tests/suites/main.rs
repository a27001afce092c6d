//! The suites, one module each: `tests/run NAME` runs the tests of module NAME.

mod brokers;
mod check;
mod dead_letters;
mod devkit;
mod documents;
mod faults;
mod hostile;
mod install;
mod languages;
mod limits;
mod main_job;
mod newcomer;
mod operate;
mod ordinary;
mod pipelines;
mod readers;
mod swaps;
mod testbed;
mod tutorial;

/// Plugins made from text, as in the host's own tests.
#[path = "../../host/tests/plugins/guest.rs"]
#[allow(dead_code, reason = "the host's own tests use the rest")]
mod guest;
