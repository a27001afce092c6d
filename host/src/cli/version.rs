//! What `--version` prints: for a bug report it matters which libraries were compiled in.

use std::sync::LazyLock;

use reduct_sink::{kafka, plugin};

/// The commit that this was built from; the build of a package sets the variable.
const COMMIT: Option<&str> = option_env!("REDUCT_SINK_COMMIT");

static LONG: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}\ncommit: {}\nlibrdkafka: {}\nwasmtime: {}\nplugin contract: {}",
        env!("CARGO_PKG_VERSION"),
        COMMIT.unwrap_or("unknown (set REDUCT_SINK_COMMIT when building)"),
        kafka::client::library_version(),
        option_env!("WASMTIME_VERSION").unwrap_or("unknown"),
        plugin::CONTRACT,
    )
});

pub fn long() -> &'static str {
    &LONG
}
