//! What `--version` prints: for a bug report it matters which libraries were compiled in.

use std::sync::LazyLock;

use reduct_sink::health::build;

static LONG: LazyLock<String> = LazyLock::new(|| {
    let text = |(name, value): (&str, &str)| match (name, value) {
        ("version", version) => version.to_owned(),
        ("commit", "unknown") => {
            "commit: unknown (built outside of a git checkout, without REDUCT_SINK_COMMIT)".to_owned()
        }
        ("contract", contract) => format!("plugin contract: {contract}"),
        (name, value) => format!("{name}: {value}"),
    };
    build::facts().map(text).join("\n")
});

pub fn long() -> &'static str {
    &LONG
}
