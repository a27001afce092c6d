//! The plugins that are at work and their versions, shared by all workers and changed while records flow.
//!
//! Guarantees: a change is complete in itself (a worker sees the chain before it or after it); workers learn of it by
//! one atomic load a record; nothing here blocks a worker for longer than a few clones.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::meter::{Latency, Meters};
use super::trial::Trial;
use crate::config::Plugin;
use crate::plugin::{CounterSet, Counts, Digest, Instance, LoadError, LoadedPlugin, Runtime};

/// How many replaced versions are remembered.
const REMEMBERED: usize = 32;

pub struct SharedChain {
    runtime: Arc<Runtime>,
    /// Counts the changes.
    generation: AtomicU64,
    /// How many workers there are, each with a chain of its own.
    workers: AtomicUsize,
    links: Mutex<Links>,
}

struct Links {
    present: Vec<Link>,
    retired: VecDeque<Retired>,
}

/// A plugin at its place in the chain: its configuration and the version that is at work.
#[derive(Clone)]
pub struct Link {
    pub config: Arc<Plugin>,
    pub version: Version,
    pub since: SystemTime,
    /// A candidate that sees some of its records.
    pub(super) trial: Option<Arc<Trial>>,
}

/// A loaded plugin, what was measured of it, and instances that wait for their workers.
#[derive(Clone)]
pub struct Version {
    pub plugin: LoadedPlugin,
    pub(super) meters: Arc<Meters>,
    pub(super) spares: Arc<Mutex<Vec<Instance>>>,
}

/// What is kept of a replaced version: its compiled code isn't.
struct Retired {
    version: PluginVersion,
    counters: Arc<CounterSet>,
    meters: Arc<Meters>,
}

/// A plugin's version and what it did so far.
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
    /// Records that its `when` left out.
    pub passed_over: u64,
    /// Of one record in 64, measured.
    pub latency: Latency,
    /// What its instances have together.
    pub memory_bytes: u64,
    /// The longest that a worker took to put it to work.
    pub taking_over: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("the chain has no plugin `{0}`")]
pub struct NotInChain(pub String);

impl SharedChain {
    /// Loads all plugins, in their order.
    pub fn load(runtime: Arc<Runtime>, plugins: &[Plugin]) -> Result<Arc<Self>, LoadError> {
        let load = |plugin: &Plugin| Ok(Link::new(Arc::new(plugin.clone()), Version::new(runtime.load(plugin)?)));
        let present = plugins.iter().map(load).collect::<Result<Vec<_>, LoadError>>()?;
        let links = Mutex::new(Links { present, retired: VecDeque::new() });
        Ok(Arc::new(Self { runtime, generation: AtomicU64::new(0), workers: AtomicUsize::new(0), links }))
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The chain as it is now.
    pub fn links(&self) -> Vec<Link> {
        self.lock().present.clone()
    }

    pub fn link(&self, name: &str) -> Option<Link> {
        self.lock().present.iter().find(|link| link.config.name == name).cloned()
    }

    /// The present version of each plugin, in the chain's order.
    pub fn versions(&self) -> Vec<PluginVersion> {
        self.lock().present.iter().map(Link::told).collect()
    }

    /// The versions that were replaced, the latest last. A worker that hasn't come to its next record may still add to
    /// their counts.
    pub fn retired(&self) -> Vec<PluginVersion> {
        self.lock().retired.iter().map(Retired::told).collect()
    }

    /// Puts another version, or another configuration, to work in the place of the plugin of that name: each worker
    /// takes it over before its next record. Gives what was there before.
    pub fn replace(&self, mut link: Link) -> Result<Link, NotInChain> {
        self.warm(&link.version);
        link.since = SystemTime::now();
        let mut links = self.lock();
        let place = links.present.iter_mut().find(|present| present.config.name == link.config.name);
        let place = place.ok_or_else(|| NotInChain(link.config.name.clone()))?;
        let before = std::mem::replace(place, link);
        links.retire(&before);
        self.changed();
        Ok(before)
    }

    /// Puts another chain to work, in one step. What was there and goes on is kept as it is.
    pub fn install(&self, chain: Vec<Link>) {
        chain.iter().for_each(|link| self.warm(&link.version));
        let mut links = self.lock();
        let before = std::mem::replace(&mut links.present, chain);
        for link in before {
            if !links.present.iter().any(|present| present.version.plugin.is(&link.version.plugin)) {
                links.retire(&link);
            }
        }
        self.changed();
    }

    /// Lets a candidate see some of this plugin's records, or ends that.
    pub(crate) fn try_beside(&self, name: &str, trial: Option<Arc<Trial>>) -> Result<(), NotInChain> {
        let mut links = self.lock();
        let place = links.present.iter_mut().find(|present| present.config.name == name);
        place.ok_or_else(|| NotInChain(name.into()))?.trial = trial;
        self.changed();
        Ok(())
    }

    /// Starts an instance for each worker ahead, so that taking over costs a worker next to nothing. Where one doesn't
    /// start, the worker finds out.
    fn warm(&self, version: &Version) {
        let present = |link: &Link| link.version.plugin.is(&version.plugin);
        if self.lock().present.iter().any(present) {
            return;
        }
        let workers = self.workers.load(Ordering::Relaxed);
        let start = || (0..workers).map_while(|_| Instance::start(&version.plugin).ok()).collect();
        // On a thread of its own: WASI's functions block, which the caller's thread perhaps must not.
        let spares: Vec<Instance> = std::thread::scope(|scope| scope.spawn(start).join()).unwrap_or_default();
        *version.spares.lock().unwrap_or_else(PoisonError::into_inner) = spares;
    }

    /// To be called under the lock, so that whoever sees the new generation also sees what is new.
    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn present(&self) -> (u64, Vec<Link>) {
        let links = self.lock();
        (self.generation(), links.present.clone())
    }

    pub(super) fn worker_comes(&self) {
        self.workers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn worker_goes(&self) {
        self.workers.fetch_sub(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Links {
    fn retire(&mut self, link: &Link) {
        let counters = link.version.plugin.counter_set();
        self.retired.push_back(Retired { version: link.told(), counters, meters: Arc::clone(&link.version.meters) });
        if self.retired.len() > REMEMBERED {
            self.retired.pop_front();
        }
    }
}

impl Link {
    pub fn new(config: Arc<Plugin>, version: Version) -> Self {
        Self { config, version, since: SystemTime::now(), trial: None }
    }

    /// The same version under another configuration.
    pub fn configured(&self, config: Arc<Plugin>) -> Self {
        Self { config, ..self.clone() }
    }

    /// The same version from a fresh start: what was measured of it before counts no more.
    pub fn restarted(&self) -> Self {
        Self::new(Arc::clone(&self.config), Version::new(self.version.plugin.clone()))
    }

    pub fn told(&self) -> PluginVersion {
        let Version { plugin, meters, .. } = &self.version;
        PluginVersion {
            name: plugin.name.clone(),
            digest: plugin.digest,
            bytes: plugin.bytes,
            since: self.since,
            counts: plugin.counts(),
            breaker_open: plugin.breaker_is_open(),
            passed_over: meters.passed_over(),
            latency: meters.latency(),
            memory_bytes: meters.memory(),
            taking_over: meters.taking_over(),
        }
    }
}

impl Version {
    pub fn new(plugin: LoadedPlugin) -> Self {
        Self { plugin, meters: Arc::default(), spares: Arc::default() }
    }

    /// An instance that was started ahead, if one is left.
    pub(super) fn spare(&self) -> Option<Instance> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Retired {
    fn told(&self) -> PluginVersion {
        PluginVersion {
            counts: self.counters.sum(),
            breaker_open: false,
            passed_over: self.meters.passed_over(),
            latency: self.meters.latency(),
            memory_bytes: self.meters.memory(),
            ..self.version.clone()
        }
    }
}
