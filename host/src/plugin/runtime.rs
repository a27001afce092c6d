//! The engines that compile and run plugins, and the way from a configured plugin to a loaded one.
//!
//! Guarantees: loading does all that may take long or go wrong (read, compile, check, start, configure), so that a
//! [`LoadedPlugin`] is ready for its first record; each problem is a [`LoadError`] that names the remedy. Compiling takes
//! what the records leave of the processor.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rayon::{ThreadPool, ThreadPoolBuilder};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, EngineWeak};

use super::bindings::TransformPre;
use super::breaker::Breaker;
use super::builtin::passthrough;
use super::cache::Cache;
use super::counters::CounterSet;
use super::digest::Digest;
use super::error::{LoadError, Problem};
use super::host::{self, State};
use super::instance::Instance;
use super::loaded::{Code, LoadedPlugin};
use super::log::PluginLog;
use super::sandbox;
use crate::config::{self, CacheFolder, Plugin, PluginSource};

/// The contract that this host offers, and by semver every 0.1.x.
pub(super) const CONTRACT: &str = "reduct-sink:transform@0.1.0";
/// Starting and configuring an instance may take this long.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How nice the threads that compile are: the scheduler gives them about a tenth of what it gives a thread of the records,
/// and runs that one first. Without it a swap on a busy machine holds up the partitions.
const COMPILER_NICE: libc::c_int = 10;
/// Time limits are counted in ticks.
const TICK: Duration = Duration::from_millis(10);

/// Compiles and runs plugins. One serves the whole process.
pub struct Runtime {
    /// The faster one: three times on an empty call. It refuses components that use the component model's async.
    plain: Platform,
    /// Takes those too.
    concurrent: Platform,
    cache: Option<Cache>,
    compiler: ThreadPool,
}

/// An engine with everything that plugins may import.
struct Platform {
    engine: Engine,
    linker: Linker<State>,
    /// By what its compiled components are told apart from those of other engines, hosts and processors.
    id: String,
}

impl Runtime {
    /// Without a cache: each load compiles.
    pub fn new() -> anyhow::Result<Arc<Self>> {
        Self::with_cache(None)
    }

    /// With the cache that the configuration names. Where it can't be used the log says why, and each load compiles.
    pub fn for_config(config: &config::Cache) -> anyhow::Result<Arc<Self>> {
        let folder = match &config.folder {
            CacheFolder::Nowhere => None,
            CacheFolder::At(folder) => Some(folder.clone()),
            CacheFolder::Default => Cache::default_folder(),
        };
        let cache = folder.and_then(|folder| match Cache::open(&folder, config.bytes) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(%error, "compiled plugins aren't cached");
                None
            }
        });
        Self::with_cache(cache)
    }

    pub fn with_cache(cache: Option<Cache>) -> anyhow::Result<Arc<Self>> {
        // Two are compiled in, by different dependencies, and then rustls takes none by itself. Refused where the process
        // has chosen already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let platform = |concurrency| {
            Platform::new(concurrency).map_err(|error| anyhow!("the WebAssembly engine doesn't start: {error:#}"))
        };
        let compiler = compiler().context("couldn't start the threads that compile plugins")?;
        let runtime = Self { plain: platform(false)?, concurrent: platform(true)?, cache, compiler };
        let engines = [runtime.plain.engine.weak(), runtime.concurrent.engine.weak()];
        let ticker = thread::Builder::new().name("plugin-ticker".into());
        ticker.spawn(move || tick(&engines)).context("couldn't start the thread that counts plugins' time")?;
        Ok(Arc::new(runtime))
    }

    /// Reads, compiles and checks the plugin, then starts and configures a first instance of it. May take seconds.
    ///
    /// It may be called from any thread: the instance is started on one of its own, because WASI's functions block,
    /// which tokio's threads must not.
    pub fn load(&self, plugin: &Plugin) -> Result<LoadedPlugin, LoadError> {
        thread::scope(|scope| {
            let loading =
                thread::Builder::new().name("plugin-load".into()).spawn_scoped(scope, || self.prepare(plugin));
            match loading.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(loaded)) => loaded,
                Ok(Err(_)) => Err(Problem::Host("the thread that loaded it panicked".into())),
                Err(error) => Err(Problem::Host(format!("no thread to load it: {error}"))),
            }
        })
        .map_err(|problem| LoadError { plugin: plugin.name.clone(), file: file_name(plugin), problem })
    }

    /// Compiles a component and puts it into the cache, unless it is there. Tells whether it was.
    pub fn compile_ahead(&self, component: &[u8]) -> Result<bool, Problem> {
        self.compile(component, Digest::of(component)).map(|(_, from_cache)| from_cache)
    }

    fn prepare(&self, plugin: &Plugin) -> Result<LoadedPlugin, Problem> {
        let bytes = read(plugin)?;
        let digest = Digest::of(&bytes);
        if let Some(pinned) = plugin.sha256.as_ref().filter(|pinned| **pinned != digest.to_string()) {
            return Err(Problem::OtherDigest { found: digest, pinned: pinned.clone() });
        }
        let name: Arc<str> = plugin.name.as_str().into();
        let started = Instant::now();
        let (pre, from_cache) = self.compile(&bytes, digest)?;
        let compiled_in = started.elapsed();
        let code = Code {
            pre,
            config: plugin.config.clone(),
            timeout: plugin.timeout,
            memory_bytes: plugin.memory_bytes,
            limits: plugin.limits,
            recycle: plugin.recycle,
            grants: Arc::new(plugin.grants.clone()),
            log: Arc::new(PluginLog::new(name.clone(), digest, plugin.limits.log_rate)),
            breaker: Breaker::new(plugin.breaker, format!("{name}@{}", digest.short())),
            counters: Arc::new(CounterSet::default()),
        };
        let (bytes, code) = (bytes.len(), Arc::new(code));
        let started_in = Duration::ZERO;
        let mut loaded = LoadedPlugin { name, digest, bytes, from_cache, compiled_in, started_in, code };
        let started = Instant::now();
        Instance::start(&loaded)?;
        loaded.started_in = started.elapsed();
        Ok(loaded)
    }

    fn compile(&self, bytes: &[u8], digest: Digest) -> Result<(TransformPre<State>, bool), Problem> {
        check_kind(bytes)?;
        let cached = [&self.plain, &self.concurrent].into_iter().find_map(|platform| {
            let component = self.cached(platform, digest)?;
            Some((platform, component))
        });
        let from_cache = cached.is_some();
        let (platform, component) = match cached {
            Some(cached) => cached,
            None => self.compile_anew(bytes)?,
        };
        platform.check_exports(&component)?;
        platform.check_imports(&component)?;
        let wrong_shape = |error: wasmtime::Error| Problem::WrongShape(format!("{error:#}"));
        let pre = platform.linker.instantiate_pre(&component).map_err(wrong_shape)?;
        let pre = TransformPre::new(pre).map_err(wrong_shape)?;
        if !from_cache {
            self.keep(platform, digest, &component);
        }
        Ok((pre, from_cache))
    }

    fn compile_anew(&self, bytes: &[u8]) -> Result<(&Platform, Component), Problem> {
        // wasmtime compiles a component's functions side by side in the pool that it is called in.
        let compile = |platform: &Platform| self.compiler.install(|| Component::from_binary(&platform.engine, bytes));
        match compile(&self.plain) {
            Ok(component) => Ok((&self.plain, component)),
            Err(_) => match compile(&self.concurrent) {
                Ok(component) => Ok((&self.concurrent, component)),
                Err(error) => Err(compile_problem(&error)),
            },
        }
    }

    /// What the cache has for this engine. An entry that is damaged is told, and will be replaced.
    fn cached(&self, platform: &Platform, digest: Digest) -> Option<Component> {
        let cache = self.cache.as_ref()?;
        let name = platform.entry(digest);
        let code = match cache.get(&name) {
            Ok(code) => code?,
            Err(damage) => {
                let path = cache.path(&name);
                tracing::warn!(path = %path.display(), %damage, "a cached component is damaged: it is compiled anew");
                return None;
            }
        };
        // SAFETY: the bytes are those that `Component::serialize` gave to this version of the host for this engine: their
        // seal says so, which nobody can make who hasn't the cache's key.
        match unsafe { Component::deserialize(&platform.engine, &code) } {
            Ok(component) => Some(component),
            Err(error) => {
                let (path, error) = (cache.path(&name), format!("{error:#}"));
                tracing::warn!(path = %path.display(), error, "a cached component doesn't fit: it is compiled anew");
                None
            }
        }
    }

    fn keep(&self, platform: &Platform, digest: Digest, component: &Component) {
        let Some(cache) = &self.cache else { return };
        let name = platform.entry(digest);
        let code = component.serialize().map_err(|error| io::Error::other(format!("{error:#}")));
        if let Err(error) = code.and_then(|code| cache.put(&name, &code)) {
            tracing::warn!(path = %cache.path(&name).display(), %error, "the compiled component isn't cached");
        }
    }
}

/// As many threads as there are cores.
fn compiler() -> Result<ThreadPool, rayon::ThreadPoolBuildError> {
    let nice = |_| {
        // SAFETY: it takes no pointers. Of Linux's threads 0 is the calling one alone; what it answers doesn't matter,
        // because compiling works at any priority.
        let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, COMPILER_NICE) };
    };
    ThreadPoolBuilder::new().thread_name(|number| format!("compiler-{number}")).start_handler(nice).build()
}

/// How many ticks make sure that at least `time` passes: the present tick has begun already.
pub(super) fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX / 2).saturating_add(1)
}

impl Platform {
    fn new(concurrency: bool) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        config.concurrency_support(concurrency);
        // A stack would cost ten times as much as the trap itself, and has names only for the plugin's author.
        config.wasm_backtrace_max_frames(None);
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        host::link(&mut linker)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let kind = if concurrency { "concurrent" } else { "plain" };
        let id = format!("{}-{kind}-{:016x}", env!("CARGO_PKG_VERSION"), hasher.finish());
        Ok(Self { engine, linker, id })
    }

    /// The name of a compiled component in the cache.
    fn entry(&self, digest: Digest) -> String {
        format!("{digest}-{}", self.id)
    }

    fn check_exports(&self, component: &Component) -> Result<(), Problem> {
        let ty = component.component_type();
        let exports: Vec<String> = ty.exports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        match exports.iter().find_map(|name| name.strip_prefix("reduct-sink:transform/transformer")) {
            Some(version) if version.starts_with("@0.1.") => Ok(()),
            Some(version) => Err(Problem::OtherVersion { asks: format!("reduct-sink:transform{version}") }),
            None => Err(Problem::WrongWorld { exports }),
        }
    }

    fn check_imports(&self, component: &Component) -> Result<(), Problem> {
        let ty = component.component_type();
        let mut unknown = Vec::new();
        for (name, import) in ty.imports(&self.engine) {
            match (name.strip_prefix("reduct-sink:transform/"), import.ty) {
                (Some(own), _) if !own.contains("@0.1.") => {
                    let version = own.split_once('@').map_or(String::new(), |(_, version)| format!("@{version}"));
                    return Err(Problem::OtherVersion { asks: format!("reduct-sink:transform{version}") });
                }
                (Some(own), _) if own.starts_with("types@") => {}
                (Some(own), ComponentItem::ComponentInstance(instance)) if own.starts_with("host@") => {
                    let functions = instance.exports(&self.engine);
                    let wanted = functions.filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)));
                    let missing = wanted.filter(|(function, _)| !host::FUNCTIONS.contains(function));
                    unknown.extend(missing.map(|(function, _)| format!("{name}#{function}")));
                }
                (None, _) if sandbox::is_linked(name) => {}
                _ => unknown.push(name.to_owned()),
            }
        }
        if unknown.is_empty() { Ok(()) } else { Err(Problem::UnknownImports(unknown)) }
    }
}

fn file_name(plugin: &Plugin) -> String {
    match &plugin.source {
        PluginSource::Builtin => "builtin".into(),
        PluginSource::File(path) => path.display().to_string(),
    }
}

/// The component's bytes, no more than the plugin's file may have.
pub(crate) fn read(plugin: &Plugin) -> Result<Vec<u8>, Problem> {
    let path = match &plugin.source {
        PluginSource::Builtin => return Ok(passthrough().to_vec()),
        PluginSource::File(path) => path,
    };
    let problem = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Problem::NotFound,
        _ => Problem::Unreadable(error),
    };
    // Reading a pipe or a device might never end.
    if !fs::metadata(path).map_err(problem)?.is_file() {
        return Err(Problem::Unreadable(io::Error::other("not a regular file")));
    }
    let file = fs::File::open(path).map_err(problem)?;
    let (found, most) = (file.metadata().map_err(problem)?.len(), plugin.limits.file_bytes);
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(problem)?;
    if bytes.len() as u64 > most { Err(Problem::TooLarge { found, most }) } else { Ok(bytes) }
}

/// What the first bytes say: a better message than the compiler has.
fn check_kind(bytes: &[u8]) -> Result<(), Problem> {
    match bytes {
        [] => Err(Problem::Empty),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(Problem::CoreModule),
        [0, b'a', b's', b'm', _, _, _, _, ..] => Ok(()),
        short if b"\0asm".starts_with(short) || short.starts_with(b"\0asm") => {
            Err(Problem::Truncated(format!("{} bytes", short.len())))
        }
        other => {
            let start = other.get(..other.len().min(64)).unwrap_or_default();
            let text = std::str::from_utf8(start).map_or_else(|error| error.error_len().is_none(), |_| true);
            if text && !start.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
                return Err(Problem::Text);
            }
            let shown: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            Err(Problem::NotWasm(shown.join(" ")))
        }
    }
}

fn compile_problem(error: &wasmtime::Error) -> Problem {
    // The parser's words may have line breaks.
    let text = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    if text.contains("unexpected end") { Problem::Truncated(text) } else { Problem::Compile(text) }
}

/// Counts time for the engines, for as long as there is one.
fn tick(engines: &[EngineWeak]) {
    loop {
        thread::sleep(TICK);
        let alive: Vec<Engine> = engines.iter().filter_map(EngineWeak::upgrade).collect();
        if alive.is_empty() {
            return;
        }
        alive.iter().for_each(Engine::increment_epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_is_never_cut_short() {
        assert_eq!(ticks(Duration::ZERO), 1);
        assert_eq!(ticks(Duration::from_millis(1)), 2);
        assert_eq!(ticks(Duration::from_millis(10)), 2);
        assert_eq!(ticks(Duration::from_millis(11)), 3);
        assert_eq!(ticks(Duration::MAX), u64::MAX / 2 + 1);
    }

    #[test]
    fn compiling_gives_way_to_the_records() -> anyhow::Result<()> {
        // SAFETY: as where it is set.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let compilers = Runtime::new()?.compiler.broadcast(|_| nice());
        assert!(!compilers.is_empty() && compilers.iter().all(|nice| *nice == COMPILER_NICE), "{compilers:?}");
        assert_eq!(nice(), before, "the thread that asks keeps its own");
        Ok(())
    }
}
