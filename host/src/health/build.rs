//! What this binary was built from and with, for bug reports and for the metrics.

use std::sync::LazyLock;

use crate::kafka::client::library_version;
use crate::plugin::CONTRACT;

/// The commit that this was built from; the build of a package sets the variable.
pub const COMMIT: Option<&str> = option_env!("REDUCT_SINK_COMMIT");

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
