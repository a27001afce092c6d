//! The tools for plugin authors, behind `reduct-sink plugin` and `run --dry-run`: new projects and their builds,
//! fixtures and their tests, benchmarks, the description of a component, and reading a live topic.
//!
//! Guarantees: the host's own engine and chain run the plugins; nothing here writes to Kafka or ReductStore.

use std::path::Path;
use std::sync::Arc;

use crate::plugin::{Cache, CacheError, Runtime};

pub mod answer;
pub mod bench;
pub mod build;
pub mod capture;
pub mod content;
pub mod dev;
pub mod dry_run;
pub mod fixtures;
mod guard;
pub mod inspect;
pub mod junit;
pub mod project;
pub mod scaffold;
pub mod testing;

/// The most bytes of the cache of compiled plugins, which is also the default of the configuration.
const CACHE_BYTES: u64 = 2_000_000_000;

/// A runtime with the user's cache of compiled plugins, or without one if that can't be used.
fn cached_runtime() -> anyhow::Result<Arc<Runtime>> {
    Runtime::with_cache(Cache::default_folder().and_then(|folder| Cache::open(&folder, CACHE_BYTES).ok()))
}

/// Opens the cache of compiled plugins in that folder.
pub fn cache(folder: &Path) -> Result<Cache, CacheError> {
    Cache::open(folder, CACHE_BYTES)
}
