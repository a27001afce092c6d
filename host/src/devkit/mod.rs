//! The tools of plugin authors: fixtures and the runner of their tests, benchmarks, a description of a file, new projects and
//! their builds, and a look at a live topic that changes nothing.
//!
//! Guarantees: a plugin is run by the very engine and chain of the host; nothing here writes to Kafka or ReductStore.

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

/// What the cache of compiled plugins may grow to, unless a configuration says otherwise.
const CACHE_BYTES: u64 = 2_000_000_000;

/// An engine with the user's cache of compiled plugins, or with none where that can't be used.
fn cached_runtime() -> anyhow::Result<Arc<Runtime>> {
    Runtime::with_cache(Cache::default_folder().and_then(|folder| Cache::open(&folder, CACHE_BYTES).ok()))
}

/// The cache in that folder.
pub fn cache(folder: &Path) -> Result<Cache, CacheError> {
    Cache::open(folder, CACHE_BYTES)
}
