//! What this binary was built from and with, for bug reports and for the metrics.

use std::sync::LazyLock;

use crate::kafka::client::library_version;
use crate::plugin::CONTRACT;

/// The commit that this was built from: the value of `REDUCT_SINK_COMMIT`, or else that of the checkout.
pub const COMMIT: Option<&str> = option_env!("BUILT_FROM_COMMIT");

static LIBRDKAFKA: LazyLock<String> = LazyLock::new(library_version);

/// Names and values.
pub fn facts() -> [(&'static str, &'static str); 5] {
    [
        ("version", env!("CARGO_PKG_VERSION")),
        ("commit", COMMIT.unwrap_or("unknown")),
        ("librdkafka", LIBRDKAFKA.as_str()),
        ("wasmtime", option_env!("WASMTIME_VERSION").unwrap_or("unknown")),
        ("contract", CONTRACT),
    ]
}
