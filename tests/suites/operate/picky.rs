//! A running host whose plugin rejects some records, with a token for those who may act: what several tests of its operation begin with.

use std::path::PathBuf;

use anyhow::{Context, Result};
use reduct_sink_testbed::{KafkaClient, Sink, SinkConfig, bed, process, unique};
use tempfile::TempDir;

use super::{address, wait_healthy};
use crate::guest;

/// Rejects what has a header, and keeps the rest.
pub const PICKY: &str = r#"
    (if (i32.eq (local.get $header-count) (i32.const 1)) (then (return (call $reject $"no such camera"))))
    (call $keep)"#;
/// Rejects nothing, and sets a label.
pub const MENDED: &str = r#"(call $label $"mended" $"yes") (call $change)"#;
/// Of callers who may act.
pub const TOKEN: &str = "a-secret";

/// See the module.
pub struct PickyHost {
    pub kafka: KafkaClient,
    pub topic: String,
    /// Holds the plugin and whatever the test puts beside it.
    pub folder: TempDir,
    pub plugin: PathBuf,
    pub address: String,
    pub config: SinkConfig,
    pub sink: Sink,
}

impl PickyHost {
    /// Starts it on a topic of two partitions, and waits until it is well. `keys`: further ones of the plugin, in TOML.
    pub fn start(name: &str, keys: &str) -> Result<Self> {
        let bed = bed()?;
        let kafka = bed.kafka.client();
        let topic = unique(name);
        kafka.create_topic(&topic, 2)?;
        let folder = process::data_folder(name)?;
        let (plugin, token) = (folder.path().join("picky.wasm"), folder.path().join("token"));
        std::fs::write(&plugin, guest::guest(PICKY))?;
        std::fs::write(&token, format!("{TOKEN}\n"))?;
        let address = address()?;
        let config = bed
            .sink_config(&topic)
            .set("status.listen", address.as_str())
            .set("status.token_file", token.to_str().context("UTF-8")?)
            .plugin_with("picky", &plugin, keys)?;
        let mut sink = Sink::start(&config)?;
        wait_healthy(&mut sink, &address)?;
        Ok(Self { kafka, topic, folder, plugin, address, config, sink })
    }
}
