//! The guests of all languages, as `tests/conformance/build` made them, and chains of them in the host's own engine.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use reduct_sink::chain::{Chain, SharedChain};
use reduct_sink::config::{PluginConfig, PluginSource};
use reduct_sink::plugin::{Cache, Runtime};
use reduct_sink::record::{Header, InputRecord, TopicPartition};

/// A generous timeout, because the machine may be busy and these tests are about answers, not about time.
const TIMEOUT: Duration = Duration::from_secs(3);
const MEMORY_BYTES: u64 = 256 << 20;

/// A language's example or conformance guest.
pub fn component(kind: &str, language: &str) -> PathBuf {
    folder().join(format!("{kind}-{language}.wasm"))
}

/// The languages that have a conformance guest: a folder each. Rust is there twice, once for each way of building it.
pub fn languages() -> Result<Vec<String>> {
    let mut languages = Vec::new();
    for file in std::fs::read_dir(folder()).context("no guests are built: run tests/conformance/build")? {
        let name = file?.file_name().into_string().unwrap_or_default();
        languages.extend(name.strip_prefix("conformance-").and_then(|name| name.strip_suffix(".wasm")).map(Into::into));
    }
    languages.sort();
    for folder in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance"))? {
        let folder = folder?;
        let name = folder.file_name().into_string().unwrap_or_default();
        ensure!(!folder.file_type()?.is_dir() || languages.contains(&name), "the guests in {name} aren't built");
    }
    Ok(languages)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/languages/dist")
}

/// The runtime, one for all tests, as in the host.
pub fn runtime() -> Arc<Runtime> {
    static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
    RUNTIME.get_or_init(|| runtime_with_cache().expect("the engine starts")).clone()
}

/// A runtime as a restarted host has it: with a cache that earlier processes filled.
pub fn runtime_with_cache() -> Result<Arc<Runtime>> {
    let cache = Cache::open(&folder().with_file_name("compiled"), 4 << 30)?;
    Runtime::with_cache(Some(cache))
}

/// The configuration of a plugin `name` from this component, with JSON text for `configure`.
pub fn plugin(name: &str, component: &Path, config: &str) -> PluginConfig {
    PluginConfig {
        config: config.into(),
        timeout: TIMEOUT,
        memory_bytes: MEMORY_BYTES,
        ..PluginConfig::new(name, PluginSource::File(component.to_owned()))
    }
}

/// A chain of the same component, once for each configuration.
pub fn chain(component: &Path, configs: &[String]) -> Result<Chain> {
    let plugins: Vec<PluginConfig> =
        ('a'..).zip(configs).map(|(name, config)| plugin(&name.to_string(), component, config)).collect();
    Chain::new(SharedChain::load(runtime(), &plugins)?)
}

/// A record with these headers and this payload; all other fields are the same in all tests.
pub fn record(headers: Vec<Header>, payload: impl Into<Bytes>) -> InputRecord {
    InputRecord {
        source: TopicPartition { topic: "line.7".into(), partition: 2 },
        topic_id: None,
        offset: 7,
        timestamp_ms: Some(1_700_000_000_000),
        key: Some(Bytes::from_static(b"key")),
        headers,
        payload: Some(payload.into()),
    }
}

pub fn header(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Header {
    Header { key: key.into(), value: Some(value.into()) }
}
