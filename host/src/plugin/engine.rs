//! The WebAssembly engines, and what a component must look like to run on them.
//!
//! Guarantees: a component is compiled by one engine, chosen by what it needs and not by failing on the other; what has
//! another shape than the contract is refused before it is instantiated.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use wasmparser::{Validator, WasmFeatures};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, EngineWeak};

use super::bindings::{TransformPre, concurrent};
use super::digest::Digest;
use super::error::LoadProblem;
use super::host_functions;
use super::state::State;
use super::wasi;

/// What the names of the contract's own interfaces begin with.
const OWN: &str = "reduct-sink:transform/";
/// Time limits of computing are counted in ticks.
const TICK: Duration = Duration::from_millis(10);
/// Of the stack of a trap, at most as many are looked at.
const FRAMES: usize = 32;

/// Which engine a component needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EngineKind {
    /// The faster one: three times on an empty call. It refuses components that use the component model's async.
    Plain,
    /// Runs every component.
    Concurrent,
}

impl EngineKind {
    pub const ALL: [Self; 2] = [Self::Plain, Self::Concurrent];

    /// The engine that this component needs. A component that no engine takes is refused here, before anything is
    /// compiled.
    pub fn of(component: &[u8]) -> Result<Self, LoadProblem> {
        let validate = |features| Validator::new_with_features(features).validate_all(component);
        let all = WasmFeatures::default();
        if validate(all.difference(WasmFeatures::CM_ASYNC)).is_ok() {
            return Ok(Self::Plain);
        }
        match validate(all) {
            Ok(_) => Ok(Self::Concurrent),
            Err(error) => Err(LoadProblem::of_compiling(&error.to_string())),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Concurrent => "concurrent",
        }
    }
}

/// An engine with everything that plugins may import.
pub(super) struct Platform {
    kind: EngineKind,
    pub engine: Engine,
    /// For plugins without a grant for HTTP.
    linker: Linker<State>,
    linker_with_http: Linker<State>,
    /// Distinguishes its compiled components from those of other engines, hosts and processors.
    id: String,
}

/// A component that was checked against the contract: instances are made of it.
pub(super) enum PreparedComponent {
    Plain {
        pre: TransformPre<State>,
        /// It imports something by which it can make the host wait, and not the contract's own functions only.
        may_wait: bool,
    },
    /// For the engine that runs calls asynchronously.
    Concurrent(concurrent::TransformPre<State>),
}

impl PreparedComponent {
    pub fn engine(&self) -> &Engine {
        match self {
            Self::Plain { pre, .. } => pre.engine(),
            Self::Concurrent(pre) => pre.engine(),
        }
    }
}

/// The engines. Their clock runs until the last of them is dropped.
pub(super) struct Platforms {
    plain: Platform,
    concurrent: Platform,
}

impl Platforms {
    pub fn new() -> wasmtime::Result<Self> {
        let platforms =
            Self { plain: Platform::new(EngineKind::Plain)?, concurrent: Platform::new(EngineKind::Concurrent)? };
        let engines = [platforms.plain.engine.weak(), platforms.concurrent.engine.weak()];
        thread::Builder::new().name("plugin-ticker".into()).spawn(move || tick(&engines))?;
        Ok(platforms)
    }

    pub fn of(&self, kind: EngineKind) -> &Platform {
        match kind {
            EngineKind::Plain => &self.plain,
            EngineKind::Concurrent => &self.concurrent,
        }
    }
}

/// The engine itself, without what plugins import: enough to compile.
pub(super) fn engine(kind: EngineKind) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.concurrency_support(kind == EngineKind::Concurrent);
    // The line where a plugin failed is that of the author's innermost function. Above it on the stack are the panic handler
    // and the language's library. A trap and the next instance take about 50 µs with the stack and 25 µs without; the end of a
    // deep recursion takes 200 µs instead of 30.
    config.wasm_backtrace_max_frames(NonZeroUsize::new(FRAMES));
    Engine::new(&config)
}

impl Platform {
    fn new(kind: EngineKind) -> wasmtime::Result<Self> {
        let engine = engine(kind)?;
        let mut linker = Linker::new(&engine);
        wasi::link(&mut linker)?;
        host_functions::link(&mut linker)?;
        let mut linker_with_http = linker.clone();
        wasi::link_http(&mut linker_with_http, true)?;
        wasi::link_http(&mut linker, false)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let id = format!("{}-{}-{:016x}", env!("CARGO_PKG_VERSION"), kind.name(), hasher.finish());
        Ok(Self { kind, engine, linker, linker_with_http, id })
    }

    /// The name of a compiled component in the cache.
    pub fn entry(&self, digest: Digest) -> String {
        format!("{digest}-{}", self.id)
    }

    /// Checks the component against the contract and prepares its instances. `http`: it has a grant for
    /// HTTP.
    pub fn prepare(&self, component: &Component, http: bool) -> Result<PreparedComponent, LoadProblem> {
        self.check_exports(component)?;
        self.check_imports(component)?;
        let wrong_shape = |error: wasmtime::Error| LoadProblem::WrongShape(format!("{error:#}"));
        let linker = if http { &self.linker_with_http } else { &self.linker };
        let pre = linker.instantiate_pre(component).map_err(wrong_shape)?;
        match self.kind {
            EngineKind::Plain => {
                let ty = component.component_type();
                let may_wait = !ty.imports(&self.engine).all(|(name, _)| name.starts_with(OWN));
                let pre = TransformPre::new(pre).map_err(wrong_shape)?;
                Ok(PreparedComponent::Plain { pre, may_wait })
            }
            EngineKind::Concurrent => {
                concurrent::TransformPre::new(pre).map(PreparedComponent::Concurrent).map_err(wrong_shape)
            }
        }
    }

    fn check_exports(&self, component: &Component) -> Result<(), LoadProblem> {
        let ty = component.component_type();
        let exports: Vec<String> = ty.exports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        match exports.iter().find_map(|name| name.strip_prefix("reduct-sink:transform/transformer")) {
            Some(version) if version.starts_with("@0.1.") => Ok(()),
            Some(version) => Err(LoadProblem::OtherVersion { asks: format!("reduct-sink:transform{version}") }),
            None => Err(LoadProblem::WrongWorld { exports }),
        }
    }

    fn check_imports(&self, component: &Component) -> Result<(), LoadProblem> {
        let ty = component.component_type();
        let mut unknown = Vec::new();
        for (name, import) in ty.imports(&self.engine) {
            match (name.strip_prefix(OWN), import.ty) {
                (Some(own), _) if !own.contains("@0.1.") => {
                    let version = own.split_once('@').map_or(String::new(), |(_, version)| format!("@{version}"));
                    return Err(LoadProblem::OtherVersion { asks: format!("reduct-sink:transform{version}") });
                }
                (Some(own), _) if own.starts_with("types@") => {}
                (Some(own), ComponentItem::ComponentInstance(instance)) if own.starts_with("host@") => {
                    let functions = instance.exports(&self.engine);
                    let wanted = functions.filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)));
                    let missing = wanted.filter(|(function, _)| !host_functions::FUNCTIONS.contains(function));
                    unknown.extend(missing.map(|(function, _)| format!("{name}#{function}")));
                }
                (None, _) if wasi::is_linked(name) => {}
                _ => unknown.push(name.to_owned()),
            }
        }
        if unknown.is_empty() { Ok(()) } else { Err(LoadProblem::UnknownImports(unknown)) }
    }
}

/// The number of ticks after which at least `time` has passed: the present tick began earlier.
pub(super) fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX / 2).saturating_add(1)
}

/// Counts time for the engines, as long as there is one.
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
}
