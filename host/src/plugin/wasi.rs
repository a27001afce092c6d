//! WASI as a plugin finds it: every function that a language's runtime needs is linked, and the plugin's grants decide
//! what is behind it.
//!
//! Guarantees: without a grant the time is the record's own and randomness is a function of the record, so that a verdict
//! made from them is the same at the next attempt. Where a missing grant changes an answer, the log says so, once for
//! each version and kind. Every function that may wait does so until the deadline of the call: see [`super::waits`].

use std::time::Duration;

use wasmtime::component::{HasData, Linker, Resource, Val};
use wasmtime_wasi::cli::WasiCliView;
use wasmtime_wasi::clocks::WasiClocksView;
use wasmtime_wasi::filesystem::WasiFilesystemView;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::cli::environment;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types::Descriptor};
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::random::WasiRandomView;
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::log::Denied;
use super::sandbox::MAX_RANDOM;
use super::state::State;
use super::waits;
use super::wasi_files;
use crate::record::OutputRecord;

/// As `wasmtime-wasi-http` links them: plugins that import an older 0.2 find these.
const HTTP_TYPES: &str = "wasi:http/types@0.2.12";
const HTTP_HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";
/// Everything in them by which a plugin without a handle gets one.
const HTTP_CONSTRUCTORS: [&str; 5] = [
    "[constructor]fields",
    "[static]fields.from-list",
    "[constructor]outgoing-request",
    "[constructor]outgoing-response",
    "[constructor]request-options",
];
/// The functions that make sockets.
const SOCKETS: [(&str, &str); 2] = [
    ("wasi:sockets/tcp-create-socket@0.2.12", "create-tcp-socket"),
    ("wasi:sockets/udp-create-socket@0.2.12", "create-udp-socket"),
];
const NO_HTTP: &str = "it used wasi:http without a grant: add the host that it asks to the plugin's `grants.http`";
/// How far the clock of a plugin without a real one moves with each reading: so that waiting for a time ends.
const READING: Duration = Duration::from_micros(1);
/// The seed where there is no record: the same for all, so that starting is repeatable.
const SEED: u64 = 0x7265_6475_6374;

/// Links WASI 0.2 without its HTTP.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    environment::add_to_linker::<_, Guarded>(linker, |state| state)?;
    preopens::add_to_linker::<_, Guarded>(linker, |state| state)?;
    monotonic_clock::add_to_linker::<_, Guarded>(linker, |state| state)?;
    wall_clock::add_to_linker::<_, Guarded>(linker, |state| state)?;
    random::add_to_linker::<_, Guarded>(linker, |state| state)?;
    insecure::add_to_linker::<_, Guarded>(linker, |state| state)?;
    insecure_seed::add_to_linker::<_, Guarded>(linker, |state| state)?;
    waits::link(linker)?;
    wasi_files::link(linker)?;
    link_no_sockets(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Sockets aren't even created: each is an open file of the host, whatever may be done with it.
fn link_no_sockets(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for (interface, function) in SOCKETS {
        linker.instance(interface)?.func_new(function, |store, _, _, results| {
            store.data().sandbox.denied(Denied::Sockets, "it got none");
            if let Some(result) = results.first_mut() {
                *result = Val::Result(Err(Some(Box::new(Val::Enum("access-denied".into())))));
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Links WASI's outgoing HTTP. Without a grant each function that would give the plugin something to hold traps: requests
/// and bodies live in the host's memory.
pub(super) fn link_http(linker: &mut Linker<State>, granted: bool) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_sync(linker)?;
    if granted {
        return Ok(());
    }
    linker.allow_shadowing(true);
    for (interface, functions) in [(HTTP_TYPES, &HTTP_CONSTRUCTORS[..]), (HTTP_HANDLER, &["handle"])] {
        for function in functions {
            linker.instance(interface)?.func_new(function, |store, _, _, _| {
                store.data().sandbox.denied(Denied::Http("a host"), "the call failed");
                Err(wasmtime::Error::msg(NO_HTTP))
            })?;
        }
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// Whether the import is one of those that [`link`] or [`link_http`] links.
pub(super) fn is_linked(import: &str) -> bool {
    let Some((package, interface)) = import.strip_prefix("wasi:").and_then(|import| import.split_once('/')) else {
        return false;
    };
    let Some((interface, version)) = interface.split_once('@') else { return false };
    version.starts_with("0.2.")
        && match package {
            "io" | "clocks" | "random" | "cli" | "filesystem" | "sockets" => true,
            "http" => matches!(interface, "types" | "outgoing-handler"),
            _ => false,
        }
}

/// The interfaces that look at the grants.
struct Guarded;

impl HasData for Guarded {
    type Data<'a> = &'a mut State;
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.sandbox.wasi()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.sandbox.http()
    }
}

impl environment::Host for State {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        if self.sandbox.grants.environment.is_empty() {
            self.sandbox.denied(Denied::Environment, "it found an empty one");
        }
        environment::Host::get_environment(&mut self.cli())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        environment::Host::get_arguments(&mut self.cli())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        environment::Host::initial_cwd(&mut self.cli())
    }
}

impl preopens::Host for State {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        if self.sandbox.grants.directories.is_empty() {
            self.sandbox.denied(Denied::Directories, "it found none");
        }
        preopens::Host::get_directories(&mut self.filesystem())
    }
}

/// A wait is never longer than the call may take. For a plugin without a real clock the time that it waits for passes at
/// once on its own clock.
impl monotonic_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        if self.sandbox.grants.clocks {
            return monotonic_clock::Host::now(&mut self.clocks());
        }
        self.sandbox.denied(Denied::Clocks, "it found a clock that moves a microsecond with each reading");
        self.sandbox.elapsed += READING;
        Ok(nanoseconds(self.sandbox.elapsed))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        if self.sandbox.grants.clocks {
            return monotonic_clock::Host::resolution(&mut self.clocks());
        }
        Ok(nanoseconds(READING))
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let now = match self.sandbox.grants.clocks {
            true => monotonic_clock::Host::now(&mut self.clocks())?,
            false => nanoseconds(self.sandbox.elapsed),
        };
        self.subscribe_duration(when.saturating_sub(now))
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let duration = duration.min(nanoseconds(self.sandbox.time_limit));
        self.sandbox.elapsed += Duration::from_nanos(duration);
        self.clocks().subscribe_duration(duration)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl wall_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        if self.sandbox.grants.clocks {
            return wall_clock::Host::now(&mut self.clocks());
        }
        self.sandbox.denied(Denied::Clocks, "it found the record's own time, and 1970 outside of `transform`");
        let time = self.present().map_or(0, |output| output.input.default_timestamp_us());
        let nanoseconds = u32::try_from(time % 1_000_000).unwrap_or(0) * 1000;
        Ok(wall_clock::Datetime { seconds: time / 1_000_000, nanoseconds })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        wall_clock::Host::resolution(&mut self.clocks())
    }
}

impl State {
    /// Randomness for a plugin that has no other.
    fn dice(&mut self) -> &mut fastrand::Rng {
        self.sandbox.denied(Denied::Random, "it found numbers that follow from the record");
        let seed = self.present().map_or(SEED, seed) ^ self.seed;
        self.sandbox.random.get_or_insert_with(|| fastrand::Rng::with_seed(seed))
    }

    fn random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        if length > MAX_RANDOM {
            return Err(wasmtime::Error::msg(format!("it asked for {length} random bytes; the most are {MAX_RANDOM}")));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.dice().fill(&mut bytes);
        Ok(bytes)
    }
}

/// A function of the record (FNV-1a of its identity), and nothing else.
fn seed(output: &OutputRecord) -> u64 {
    let source = &output.input.source;
    let number = source.partition.to_le_bytes().into_iter().chain(output.input.offset.to_le_bytes());
    let identity = source.topic.bytes().chain(number);
    identity.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl random::Host for State {
    fn get_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        match self.sandbox.grants.random {
            true => random::Host::get_random_bytes(self.random(), length),
            false => self.random_bytes(length),
        }
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        match self.sandbox.grants.random {
            true => random::Host::get_random_u64(self.random()),
            false => Ok(self.dice().u64(..)),
        }
    }
}

impl insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        random::Host::get_random_bytes(self, length)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        random::Host::get_random_u64(self)
    }
}

/// What runtimes seed their hash tables with. It depends on what the configuration keeps secret, so that a producer can't
/// choose keys that collide. All of them ask for it at their start, so it isn't reported as denied.
impl insecure_seed::Host for State {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        match self.sandbox.grants.random {
            true => insecure_seed::Host::insecure_seed(self.random()),
            false => Ok((SEED ^ self.seed, SEED.rotate_left(32) ^ self.seed.rotate_left(17))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wasi_0_2_is_linked() {
        for (import, linked) in [
            ("wasi:cli/stdout@0.2.6", true),
            ("wasi:io/streams@0.2.0", true),
            ("wasi:http/outgoing-handler@0.2.0", true),
            ("wasi:http/types@0.2.3", true),
            ("wasi:http/incoming-handler@0.2.0", false),
            ("wasi:clocks/monotonic-clock@0.3.0", false),
            ("wasi:iot/io@0.2.0", false),
        ] {
            assert_eq!(is_linked(import), linked, "{import}");
        }
    }
}
