//! The engines that compile and run plugins, and the way from a configured plugin to a loaded one.
//!
//! Guarantees: loading does all that may take long or go wrong (read, compile, check, start, configure), so that a
//! [`LoadedPlugin`] is ready for its first record; each problem is a [`LoadError`] that names the remedy.

use std::fs;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, EngineWeak};

use super::bindings::TransformPre;
use super::builtin::passthrough;
use super::counters::CounterSet;
use super::digest::Digest;
use super::error::{LoadError, Problem};
use super::host::{self, State};
use super::instance::Instance;
use super::loaded::{Code, LoadedPlugin};
use super::log::PluginLog;
use crate::config::{Plugin, PluginSource};

/// The contract that this host offers, and by semver every 0.1.x.
pub(super) const CONTRACT: &str = "reduct-sink:transform@0.1.0";
/// Starting and configuring an instance may take this long.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limits are counted in ticks.
const TICK: Duration = Duration::from_millis(10);

/// Compiles and runs plugins. One serves the whole process.
pub struct Runtime {
    /// The faster one: three times on an empty call. It refuses components that use the component model's async.
    plain: Platform,
    /// Takes those too.
    concurrent: Platform,
}

/// An engine with everything that plugins may import.
struct Platform {
    engine: Engine,
    linker: Linker<State>,
}

impl Runtime {
    pub fn new() -> anyhow::Result<Arc<Self>> {
        let platform = |concurrency| {
            Platform::new(concurrency).map_err(|error| anyhow!("the WebAssembly engine doesn't start: {error:#}"))
        };
        let runtime = Self { plain: platform(false)?, concurrent: platform(true)? };
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

    fn prepare(&self, plugin: &Plugin) -> Result<LoadedPlugin, Problem> {
        let bytes = read(plugin)?;
        let digest = Digest::of(&bytes);
        if let Some(pinned) = plugin.sha256.as_ref().filter(|pinned| **pinned != digest.to_string()) {
            return Err(Problem::OtherDigest { found: digest, pinned: pinned.clone() });
        }
        let name: Arc<str> = plugin.name.as_str().into();
        let pre = self.compile(&bytes)?;
        let code = Code {
            pre,
            config: plugin.config.clone(),
            timeout: plugin.timeout,
            memory_bytes: plugin.memory_bytes,
            limits: plugin.limits,
            recycle: plugin.recycle,
            log: Arc::new(PluginLog::new(name.clone(), digest, plugin.limits.log_rate)),
            counters: Arc::new(CounterSet::default()),
        };
        let loaded = LoadedPlugin { name, digest, bytes: bytes.len(), code: Arc::new(code) };
        Instance::start(&loaded)?;
        Ok(loaded)
    }

    fn compile(&self, bytes: &[u8]) -> Result<TransformPre<State>, Problem> {
        check_kind(bytes)?;
        let (platform, component) = match Component::from_binary(&self.plain.engine, bytes) {
            Ok(component) => (&self.plain, component),
            Err(_) => match Component::from_binary(&self.concurrent.engine, bytes) {
                Ok(component) => (&self.concurrent, component),
                Err(error) => return Err(compile_problem(&error)),
            },
        };
        platform.check_exports(&component)?;
        platform.check_imports(&component)?;
        let wrong_shape = |error: wasmtime::Error| Problem::WrongShape(format!("{error:#}"));
        let pre = platform.linker.instantiate_pre(&component).map_err(wrong_shape)?;
        TransformPre::new(pre).map_err(wrong_shape)
    }
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
        Ok(Self { engine, linker })
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
                (None, _) if is_linked_wasi(name) => {}
                _ => unknown.push(name.to_owned()),
            }
        }
        if unknown.is_empty() { Ok(()) } else { Err(Problem::UnknownImports(unknown)) }
    }
}

/// Whether the import is one of WASI 0.2's that are linked (with nothing behind them).
fn is_linked_wasi(import: &str) -> bool {
    ["io", "clocks", "random", "cli", "filesystem", "sockets"].iter().any(|package| {
        let interface = import.strip_prefix("wasi:").and_then(|rest| rest.strip_prefix(package));
        interface.is_some_and(|interface| interface.starts_with('/') && interface.contains("@0.2."))
    })
}

fn file_name(plugin: &Plugin) -> String {
    match &plugin.source {
        PluginSource::Builtin => "builtin".into(),
        PluginSource::File(path) => path.display().to_string(),
    }
}

/// The component's bytes, no more than the plugin's file may have.
pub(super) fn read(plugin: &Plugin) -> Result<Vec<u8>, Problem> {
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
    fn only_wasi_0_2_is_linked() {
        for (import, linked) in [
            ("wasi:cli/stdout@0.2.6", true),
            ("wasi:io/streams@0.2.0", true),
            ("wasi:http/outgoing-handler@0.2.0", false),
            ("wasi:clocks/monotonic-clock@0.3.0", false),
            ("wasi:iot/io@0.2.0", false),
        ] {
            assert_eq!(is_linked_wasi(import), linked, "{import}");
        }
    }
}
