//! The way from a configured plugin to a loaded one.
//!
//! Guarantees: loading does all that may take long or go wrong (read, compile, check, start, configure), so that a
//! [`LoadedPlugin`] is ready for its first record; each problem is a [`LoadError`] that names the remedy.

use std::io::{self, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

use super::breaker::Breaker;
use super::builtin::passthrough;
use super::cache::Cache;
use super::call_slot::{CallSlot, CallWatch};
use super::compiler::{CompileLimits, Compiled, Compiler};
use super::config_version::ConfigVersion;
use super::core_state;
use super::counters::CounterSet;
use super::digest::Digest;
use super::engine::{EngineKind, Platforms, PreparedComponent};
use super::error::{LoadError, LoadProblem};
use super::failure_log::FailureLog;
use super::host_calls::{HostCalls, OWN_THREADS, SHARED_THREADS};
use super::http_client::HttpClient;
use super::instance::Instance;
use super::line_table::LineTable;
use super::loaded::{Code, LoadedPlugin, version_text};
use super::log::PluginLog;
use super::own_files;
use super::remote::{Fallback, FetchedComponent, Fetcher};
use super::signature::{self, SignedBy};
use crate::config::{CacheFolder, Config, PluginConfig, PluginSource, open_regular, threads};
use crate::record::labels::LabelRules;

/// Compiling a component of this size takes long enough to be noticed.
const LARGE: usize = 1_000_000;
/// How often the thread that loads a plugin is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Compiles and runs the plugins of one pipeline.
pub struct Runtime {
    /// For the threads that load.
    own: Weak<Self>,
    platforms: Arc<Platforms>,
    compiler: Compiler,
    cache: Option<Arc<Cache>>,
    host_calls: Arc<HostCalls>,
    /// What plugins seed their hash tables with: the same in each process of this configuration.
    seed: u64,
    /// Which labels plugins see.
    labels: Arc<LabelRules>,
}

/// What all pipelines of a process share: the WebAssembly engines and the cache. Everything that a plugin can hold up (the
/// threads on which its calls wait) is each pipeline's own.
pub struct SharedEngines {
    platforms: Arc<Platforms>,
    cache: Option<Arc<Cache>>,
}

impl SharedEngines {
    /// With the cache that the configuration names. If it can't be used, the log says why and each load compiles.
    pub fn for_config(config: &Config) -> anyhow::Result<Self> {
        let folder = match &config.cache.folder {
            CacheFolder::Nowhere => None,
            CacheFolder::At(folder) => Some(folder.clone()),
            CacheFolder::Default => Cache::default_folder(),
        };
        let cache = folder.and_then(|folder| match Cache::open(&folder, config.cache.bytes) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(%error, "compiled plugins aren't cached");
                None
            }
        });
        Self::new(cache)
    }

    fn new(cache: Option<Cache>) -> anyhow::Result<Self> {
        // Two cryptography providers are compiled in, by different dependencies, and then rustls chooses none by itself.
        // Fails if the process has chosen already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let platforms = Platforms::new().map_err(|error| anyhow!("the WebAssembly engine doesn't start: {error:#}"))?;
        Ok(Self { platforms: Arc::new(platforms), cache: cache.map(Arc::new) })
    }
}

impl Runtime {
    /// Without a cache: each load compiles, in this process.
    pub fn new() -> anyhow::Result<Arc<Self>> {
        Self::with_cache(None)
    }

    /// With this cache. What isn't in it is compiled in this process.
    pub fn with_cache(cache: Option<Cache>) -> anyhow::Result<Arc<Self>> {
        let compiler = Compiler::here().context("couldn't start the threads that compile plugins")?;
        Self::with(&SharedEngines::new(cache)?, compiler, LabelRules::default(), 0)
    }

    /// For a tool that is given a component of unknown origin: it is compiled as a host that runs compiles it by default, in a
    /// process with limits.
    pub fn for_strangers(cache: Option<Cache>) -> anyhow::Result<Arc<Self>> {
        let limits = Compiler::Child(CompileLimits::default());
        Self::with(&SharedEngines::new(cache)?, limits, LabelRules::default(), 0)
    }

    /// For a host that runs: with the cache that the configuration names, and a process of its own for compiling. If the
    /// cache can't be used, the log says why and each load compiles.
    pub fn for_config(config: &Config) -> anyhow::Result<Arc<Self>> {
        Self::on(&SharedEngines::for_config(config)?, config)
    }

    /// The same, on engines that other pipelines use, too.
    pub fn on(engines: &SharedEngines, config: &Config) -> anyhow::Result<Arc<Self>> {
        let limits = CompileLimits { memory_bytes: config.limits.compile_memory, time: config.limits.compile_time };
        Self::with(engines, Compiler::Child(limits), config.labels.clone(), seed(config))
    }

    fn with(engines: &SharedEngines, compiler: Compiler, labels: LabelRules, seed: u64) -> anyhow::Result<Arc<Self>> {
        let SharedEngines { platforms, cache } = engines;
        let (platforms, cache) = (Arc::clone(platforms), cache.clone());
        let host_calls =
            HostCalls::start(SHARED_THREADS).context("couldn't start the threads on which plugins' calls wait")?;
        let (host_calls, labels) = (Arc::new(host_calls), Arc::new(labels));
        let own = |own: &Weak<Self>| Self { own: own.clone(), platforms, compiler, cache, host_calls, seed, labels };
        Ok(Arc::new_cyclic(own))
    }

    /// Reads, compiles and checks the plugin, then starts and configures a first instance of it. May take seconds.
    ///
    /// It may be called from any thread: the instance is started on one of its own, because starting blocks, which the
    /// threads of an asynchronous runtime must not.
    pub fn load(&self, plugin: &PluginConfig) -> Result<LoadedPlugin, LoadError> {
        self.load_aside(plugin).map_err(|problem| LoadError {
            plugin: plugin.name.clone(),
            file: file_name(plugin),
            problem,
        })
    }

    /// On a thread of its own, which is left behind if it doesn't come back from the plugin.
    fn load_aside(&self, plugin: &PluginConfig) -> Result<LoadedPlugin, LoadProblem> {
        let failed = |text: String| LoadProblem::Host(text);
        let runtime = self.own.upgrade().ok_or_else(|| failed("the engine has ended".into()))?;
        let (calls, plugin) = (Arc::new(CallSlot::default()), plugin.clone());
        let (watched, mut watch) = (Arc::clone(&calls), CallWatch::default());
        let (done, loaded) = mpsc::channel();
        let load = move || {
            watched.watch_this_thread();
            // Refused where nobody waits any more.
            let _ = done.send(runtime.prepare(&plugin));
        };
        let thread = threads::spawn("plugin-prepare", load);
        thread.map_err(|error| failed(format!("no thread to load it: {error}")))?;
        loop {
            match loaded.recv_timeout(LOOK_EVERY) {
                Ok(loaded) => return loaded,
                Err(RecvTimeoutError::Disconnected) => return Err(failed("the thread that loaded it panicked".into())),
                Err(RecvTimeoutError::Timeout) if watch.look(&calls, Instant::now()).is_some() => {
                    let text = "it did not come back from starting long after its time limit; the thread was abandoned";
                    return Err(failed(text.into()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Compiles a component and puts it into the cache, unless it is there. Returns whether it was.
    pub fn compile_ahead(&self, component: &[u8]) -> Result<bool, LoadProblem> {
        self.compile(component, Digest::of(component), false).map(|(_, from_cache)| from_cache)
    }

    fn prepare(&self, plugin: &PluginConfig) -> Result<LoadedPlugin, LoadProblem> {
        let fetched = self.fetch(plugin, Fallback::Allowed)?;
        let bytes = match &fetched {
            Some((_, component)) => &component.bytes,
            None => &read(plugin)?,
        };
        let digest = Digest::of(bytes);
        if let Some(pinned) = plugin.sha256.as_ref().filter(|pinned| **pinned != digest.to_string()) {
            return Err(LoadProblem::OtherDigest { found: digest, pinned: pinned.clone() });
        }
        let signed = match (&plugin.source, &fetched) {
            _ if plugin.signed_by.is_empty() => None,
            (_, Some((fetcher, component))) => Some(fetcher.verify(component, &plugin.signed_by)?),
            (PluginSource::File(file), None) => {
                Some(signature::verify(bytes, file, &plugin.signed_by).map_err(LoadProblem::Signature)?)
            }
            (PluginSource::Builtin | PluginSource::Remote(_), None) => None,
        };
        if let Some(signed) = signed {
            tracing::info!(plugin = plugin.name, digest = digest.short(), "{signed}");
        }
        if let Some((fetcher, component)) = &fetched {
            fetcher.remember(component);
        }
        if let Some(problem) = own_files::exposed(&plugin.grants, self.cache.as_deref().map(Cache::folder)) {
            return Err(LoadProblem::Grant(problem));
        }
        let name: Arc<str> = plugin.name.as_str().into();
        let started = Instant::now();
        let (pre, from_cache) = self.compile(bytes, digest, !plugin.grants.http.is_empty())?;
        let compiled_in = started.elapsed();
        let log = Arc::new(PluginLog::new(name.clone(), digest, plugin.limits.log_rate));
        let http = HttpClient::new(&plugin.grants, &plugin.limits, &log).map_err(LoadProblem::Grant)?;
        let config = ConfigVersion::of(&plugin.config);
        let code = Code {
            pre,
            lines: LineTable::of_component(bytes),
            core_state: core_state::largest(bytes),
            config: plugin.config.clone(),
            timeout: plugin.timeout,
            memory_bytes: plugin.memory_bytes,
            limits: plugin.limits,
            entries: plugin.entries.clone(),
            recycle: plugin.recycle,
            grants: Arc::new(plugin.grants.clone()),
            log,
            http,
            files: Arc::default(),
            failures: FailureLog::new(name.clone(), version_text(digest, config)),
            breaker: Breaker::new(plugin.breaker, format!("{name}@{}", digest.short())),
            counters: Arc::new(CounterSet::default()),
            host_calls: self.host_calls_for(plugin)?,
            seed: self.seed,
            labels: self.labels.clone(),
        };
        let (bytes, code) = (bytes.len(), Arc::new(code));
        let started_in = Duration::ZERO;
        let mut loaded = LoadedPlugin { name, digest, config, bytes, from_cache, compiled_in, started_in, code };
        let started = Instant::now();
        Instance::start(&loaded)?;
        loaded.started_in = started.elapsed();
        Ok(loaded)
    }

    /// A plugin with directories has threads of its own for its files: where these hang, they hold up no other plugin.
    fn host_calls_for(&self, plugin: &PluginConfig) -> Result<Arc<HostCalls>, LoadProblem> {
        if plugin.grants.directories.is_empty() {
            return Ok(Arc::clone(&self.host_calls));
        }
        let calls = HostCalls::start(OWN_THREADS);
        calls.map(Arc::new).map_err(|error| LoadProblem::Host(format!("no threads for its files: {error}")))
    }

    /// What a plugin's address means now, fetched into the cache. `None`: it has no address. Not to be called from one of
    /// tokio's threads.
    pub fn latest(&self, plugin: &PluginConfig) -> Result<Option<FetchedComponent>, LoadProblem> {
        Ok(self.fetch(plugin, Fallback::Refused)?.map(|(_, component)| component))
    }

    /// The digest of what a plugin's address means now. It is fetched into the cache, for [`Self::load`] to find it there. Not to
    /// be called from one of tokio's threads.
    pub fn look(&self, plugin: &PluginConfig) -> Result<Digest, LoadProblem> {
        let PluginSource::Remote(remote) = &plugin.source else { return Err(LoadProblem::NotFound) };
        let fetcher = Fetcher::new(plugin, remote, self.cache.as_deref()).map_err(LoadProblem::of_fetching)?;
        fetcher.look().map_err(LoadProblem::of_fetching)
    }

    /// Fetches a plugin that has an address and checks who signed it. Returns the address with its digest, too. Not to be
    /// called from one of tokio's threads.
    pub fn verify(&self, plugin: &PluginConfig) -> Result<(String, SignedBy), LoadProblem> {
        let (fetcher, component) = self.fetch(plugin, Fallback::Refused)?.ok_or(LoadProblem::NotFound)?;
        let signed = fetcher.verify(&component, &plugin.signed_by)?;
        Ok((component.pinned, signed))
    }

    /// The component of a plugin that has an address, and what fetched it.
    fn fetch<'a>(
        &'a self,
        plugin: &'a PluginConfig,
        fallback: Fallback,
    ) -> Result<Option<(Fetcher<'a>, FetchedComponent)>, LoadProblem> {
        let PluginSource::Remote(remote) = &plugin.source else { return Ok(None) };
        let fetcher = Fetcher::new(plugin, remote, self.cache.as_deref()).map_err(LoadProblem::of_fetching)?;
        let component = fetcher.component(fallback).map_err(LoadProblem::of_fetching)?;
        Ok(Some((fetcher, component)))
    }

    fn compile(&self, bytes: &[u8], digest: Digest, http: bool) -> Result<(PreparedComponent, bool), LoadProblem> {
        check_first_bytes(bytes)?;
        let cached = EngineKind::ALL.into_iter().find_map(|kind| Some((kind, self.cached(kind, digest)?)));
        if let Some((kind, component)) = cached {
            return Ok((self.platforms.of(kind).prepare(&component, http)?, true));
        }
        if bytes.len() >= LARGE {
            tracing::info!(
                bytes = bytes.len(),
                digest = digest.short(),
                "compiling a plugin, which may take some seconds"
            );
        }
        let compiled = self.compiler.compile(bytes, &self.platforms)?;
        let pre = self.platforms.of(compiled.kind).prepare(&compiled.component, http)?;
        self.keep(digest, &compiled);
        Ok((pre, false))
    }

    /// What the cache has for this engine. A damaged entry is reported, and will be replaced.
    fn cached(&self, kind: EngineKind, digest: Digest) -> Option<Component> {
        let (cache, platform) = (self.cache.as_ref()?, self.platforms.of(kind));
        let name = platform.entry(digest);
        let code = match cache.get(&name) {
            Ok(code) => code?,
            Err(damage) => {
                let path = cache.path(&name);
                tracing::warn!(path = %path.display(), %damage, "a cached component is damaged: it is compiled again");
                return None;
            }
        };
        // SAFETY: the bytes are those that `Component::serialize` gave to this version of the host for this engine: their
        // seal says so, which nobody can make without the cache's key.
        match unsafe { Component::deserialize(&platform.engine, &code) } {
            Ok(component) => Some(component),
            Err(error) => {
                let (path, error) = (cache.path(&name), format!("{error:#}"));
                tracing::warn!(path = %path.display(), error, "a cached component doesn't fit: it is compiled again");
                None
            }
        }
    }

    fn keep(&self, digest: Digest, compiled: &Compiled) {
        let Some(cache) = &self.cache else { return };
        let name = self.platforms.of(compiled.kind).entry(digest);
        let kept = match &compiled.code {
            Some(code) => cache.put(&name, code),
            None => {
                let code = compiled.component.serialize().map_err(|error| io::Error::other(format!("{error:#}")));
                code.and_then(|code| cache.put(&name, &code))
            }
        };
        if let Err(error) = kept {
            tracing::warn!(path = %cache.path(&name).display(), %error, "the compiled component isn't cached");
        }
    }
}

/// A number that nobody knows who doesn't know the configuration with its secrets, and that all hosts of this configuration
/// have in common, so that a plugin's verdict doesn't depend on which of them asks it.
fn seed(config: &Config) -> u64 {
    let secrets = config.kafka.properties.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let token = config.store.token.as_deref().unwrap_or_default();
    let texts =
        [config.kafka.group.as_str(), &config.store.url, &config.store.bucket, token].into_iter().chain(secrets);
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    }
    hash.finalize().iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

fn file_name(plugin: &PluginConfig) -> String {
    match &plugin.source {
        PluginSource::Builtin => "builtin".into(),
        // In full: a relative path would leave open where it begins.
        PluginSource::File(path) => std::path::absolute(path).as_ref().unwrap_or(path).display().to_string(),
        PluginSource::Remote(remote) => remote.address.to_string(),
    }
}

/// The bytes of a component that is here, no more than the plugin's file may have.
pub(crate) fn read(plugin: &PluginConfig) -> Result<Vec<u8>, LoadProblem> {
    let path = match &plugin.source {
        PluginSource::Builtin => return Ok(passthrough().to_vec()),
        PluginSource::File(path) => path,
        PluginSource::Remote(_) => return Err(LoadProblem::NotFound),
    };
    let problem = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => LoadProblem::NotFound,
        _ => LoadProblem::Unreadable(error),
    };
    let file = open_regular(path).map_err(problem)?;
    let (found, most) = (file.metadata().map_err(problem)?.len(), plugin.limits.file_bytes);
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(problem)?;
    if bytes.len() as u64 > most { Err(LoadProblem::TooLarge { found, most }) } else { Ok(bytes) }
}

/// What the first bytes say: a better message than the compiler has.
fn check_first_bytes(bytes: &[u8]) -> Result<(), LoadProblem> {
    match bytes {
        [] => Err(LoadProblem::Empty),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadProblem::CoreModule),
        [0, b'a', b's', b'm', _, _, _, _, ..] => Ok(()),
        short if b"\0asm".starts_with(short) || short.starts_with(b"\0asm") => {
            Err(LoadProblem::Truncated(format!("{} bytes", short.len())))
        }
        other => {
            let start = other.get(..other.len().min(64)).unwrap_or_default();
            let text = std::str::from_utf8(start).map_or_else(|error| error.error_len().is_none(), |_| true);
            if text && !start.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
                return Err(LoadProblem::Text);
            }
            let shown: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            Err(LoadProblem::NotWasm(shown.join(" ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn config(more: &[(&str, &str)]) -> Config {
        let usual = [("BROKERS", "127.0.0.1:1"), ("TOPICS", "t"), ("URL", "http://127.0.0.1:1"), ("BUCKET", "b")];
        let variables =
            usual.iter().chain(more).map(|(name, value)| (format!("REDUCT_SINK_{name}").into(), value.into()));
        let sources = config::Sources { environment: variables.collect(), ..config::Sources::default() };
        config::load(sources).config.unwrap().only().unwrap().clone()
    }

    /// Who knows the seed of a plugin's hash tables can choose keys that collide.
    #[test]
    fn the_seed_follows_from_the_secrets_and_is_the_same_in_each_process() {
        let with = |more: &[(&str, &str)]| seed(&config(more));
        assert_eq!(with(&[("TOKEN", "one")]), with(&[("TOKEN", "one")]));
        let seeds = [with(&[]), with(&[("TOKEN", "one")]), with(&[("TOKEN", "two")]), with(&[("GROUP", "another")])];
        for (at, seed) in seeds.iter().enumerate() {
            assert!(!seeds[..at].contains(seed), "{seeds:?}");
        }
    }
}
