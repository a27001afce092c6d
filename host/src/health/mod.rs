//! What the host tells about itself: how far its partitions are, what is wrong, and all of it over HTTP.

pub mod access;
pub mod build;
mod causes;
pub mod history;
pub mod lag;
pub mod look;
mod merged_metrics;
pub mod metrics;
pub mod page;
mod pipelined;
pub mod problems;
pub mod progress;
pub mod rates;
pub mod report;
pub mod server;
pub mod service;
pub mod stop_signals;
pub mod tap;
pub mod traces;
pub mod watchdog;
