//! The versions of the plugins that are at work, shared by all workers and replaced while records flow.
//!
//! Guarantees: a replacement is complete in itself (a worker sees the old version or the new one); workers learn of it
//! by one atomic load a record; nothing here blocks a worker for longer than a few clones.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::config::Plugin;
use crate::plugin::{CounterSet, Counts, Digest, LoadError, LoadedPlugin, Runtime};

/// How many replaced versions are remembered.
const REMEMBERED: usize = 32;

pub struct SharedChain {
    runtime: Arc<Runtime>,
    plugins: Vec<Plugin>,
    /// Counts the replacements.
    generation: AtomicU64,
    versions: Mutex<Versions>,
}

struct Versions {
    present: Vec<Present>,
    retired: VecDeque<Retired>,
}

/// The version at work.
struct Present {
    plugin: LoadedPlugin,
    since: SystemTime,
}

/// What is kept of a replaced version: its compiled code isn't.
struct Retired {
    version: PluginVersion,
    counters: Arc<CounterSet>,
}

/// A plugin's present version and what it did so far.
#[derive(Debug, Clone)]
pub struct PluginVersion {
    pub name: Arc<str>,
    pub digest: Digest,
    /// The file's size.
    pub bytes: usize,
    pub since: SystemTime,
    pub counts: Counts,
    /// Whether its circuit breaker is open: then it isn't asked.
    pub breaker_open: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    #[error("the chain has no plugin at place {0}")]
    NoSuchPlace(usize),
    #[error("the plugin at that place is `{present}`, not `{given}`")]
    OtherPlugin { present: Arc<str>, given: Arc<str> },
}

impl SharedChain {
    /// Loads all plugins. The chain has as many places as `plugins`, in their order.
    pub fn load(runtime: Arc<Runtime>, plugins: &[Plugin]) -> Result<Arc<Self>, LoadError> {
        let load = |plugin| Ok(Present { plugin: runtime.load(plugin)?, since: SystemTime::now() });
        let present = plugins.iter().map(load).collect::<Result<Vec<_>, LoadError>>()?;
        let versions = Mutex::new(Versions { present, retired: VecDeque::new() });
        Ok(Arc::new(Self { runtime, plugins: plugins.to_vec(), generation: AtomicU64::new(0), versions }))
    }

    /// The plugins as configured.
    pub fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The present version of each plugin, in the chain's order.
    pub fn versions(&self) -> Vec<PluginVersion> {
        self.lock().present.iter().map(Present::told).collect()
    }

    /// The versions that were replaced, the latest last. A worker that hasn't come to its next record may still add to
    /// their counts.
    pub fn retired(&self) -> Vec<PluginVersion> {
        self.lock().retired.iter().map(Retired::told).collect()
    }

    /// Puts another version to work at that place: each worker takes it over before its next record. Gives the digest
    /// of the one before.
    pub fn replace(&self, index: usize, plugin: LoadedPlugin) -> Result<Digest, ReplaceError> {
        let mut versions = self.lock();
        let place = versions.present.get_mut(index).ok_or(ReplaceError::NoSuchPlace(index))?;
        if place.plugin.name != plugin.name {
            return Err(ReplaceError::OtherPlugin { present: place.plugin.name.clone(), given: plugin.name });
        }
        let before = std::mem::replace(place, Present { plugin, since: SystemTime::now() });
        let digest = before.plugin.digest;
        versions.retired.push_back(Retired { version: before.told(), counters: before.plugin.counter_set() });
        if versions.retired.len() > REMEMBERED {
            versions.retired.pop_front();
        }
        // Under the lock, so that whoever sees the new generation also sees the new version.
        self.generation.fetch_add(1, Ordering::Release);
        Ok(digest)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn present(&self) -> (u64, Vec<LoadedPlugin>) {
        let versions = self.lock();
        (self.generation(), versions.present.iter().map(|present| present.plugin.clone()).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn told(&self) -> PluginVersion {
        let plugin = &self.plugin;
        PluginVersion {
            name: plugin.name.clone(),
            digest: plugin.digest,
            bytes: plugin.bytes,
            since: self.since,
            counts: plugin.counts(),
            breaker_open: plugin.breaker_is_open(),
        }
    }
}

impl Retired {
    fn told(&self) -> PluginVersion {
        PluginVersion { counts: self.counters.sum(), breaker_open: false, ..self.version.clone() }
    }
}
