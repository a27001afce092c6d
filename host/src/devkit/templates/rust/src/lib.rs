//! Drops records of one type, and labels the others by their size.

use reduct_sink_plugin::{Change, Failure, Record, Transform, Verdict, log, plugin};
use serde::Deserialize;

/// The settings in `[plugins.config]`. The host refuses to load the plugin with any other key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Records whose header `type` is this are dropped.
    drop: String,
    /// Payloads of at least this number of bytes are large.
    large_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { drop: "heartbeat".into(), large_bytes: 1000 }
    }
}

struct Plugin(Config);

impl Transform for Plugin {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        log::debug!("dropping records of type {:?}", config.drop);
        Ok(Self(config))
    }

    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
        let Self(config) = self;
        if record.header_text("type") == Some(&config.drop) {
            return Ok(Verdict::Drop);
        }
        let size_class = if record.payload_size >= config.large_bytes { "large" } else { "small" };
        Ok(Change::new().set_label("size_class", size_class).into())
    }
}

plugin!(Plugin);

#[cfg(test)]
mod tests {
    use super::*;
    use reduct_sink_plugin::testing::{Sample, configure};

    #[test]
    fn heartbeats_are_dropped_and_sizes_told() {
        let mut plugin: Plugin = configure(r#"{"large_bytes": 5}"#).unwrap();
        let heartbeat = Sample::new().header("type", "heartbeat");
        assert_eq!(heartbeat.transform(&mut plugin), Ok(Verdict::Drop));
        let frame = Sample::new().header("type", "frame").payload("12345");
        assert_eq!(frame.transform(&mut plugin), Ok(Change::new().set_label("size_class", "large").into()));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let refused = configure::<Plugin>(r#"{"large": 5}"#).err().unwrap();
        assert!(refused.contains("large_bytes"), "{refused}");
    }
}
