//! What the host tells about itself: whether its partitions move, and the status over HTTP.

pub mod progress;
pub mod status_http;
pub mod watchdog;
