//! What the limits and the cache cost and save, in one run on one thread:
//!
//! - `limits_us_per_record`: passthrough in the chain with all limits on, less the bare call of the same component (no
//!   epochs, no memory limit, no bound on what crosses, nothing checked, nothing counted);
//! - `limits_granted_us_per_record`: the same for a plugin that is granted clocks and HTTP, imports what it takes to wait for
//!   an answer, and reads the clock at each record;
//! - `replace_us`: what a record costs more on which the instance breaks and is replaced;
//! - `cached_start_ms`: from a new engine to a plugin of 18 MB that is ready, with its code in the cache, and
//!   `uncached_start_ms` without.
//!
//! `cargo run --release -p reduct-sink --example limits`, with a component's path to start that one.

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use reduct_sink::chain::{Chain, Outcome, SharedChain};
use reduct_sink::config::{Grants, PluginConfig, PluginSource};
use reduct_sink::plugin::{Cache, Runtime, passthrough};
use reduct_sink::record::{Header, InputRecord, TopicPartition};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

#[path = "../tests/plugins/guest.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the tests'"
)]
mod guest;

mod bare {
    wasmtime::component::bindgen!({
        path: "../wit/v0.1.0",
        world: "transform",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

const RECORDS: usize = 20_000;
const ROUNDS: usize = 41;
const HEADERS: [(&str, &str); 4] = [("size", "1024"), ("type", "binary"), ("camera", "front-left"), ("line", "7")];

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let [plain, granted] = calls(folder.path())?;
    println!("{} headers, 1 KB", HEADERS.len());
    println!("passthrough: bare call {:.3} µs, with all limits {:.3} µs", plain.bare, plain.limited);
    println!("with clocks and HTTP: bare call {:.3} µs, with all limits {:.3} µs", granted.bare, granted.limited);
    figure("bare_call_us", plain.bare)?;
    figure("limited_call_us", plain.limited)?;
    figure("limits_us_per_record", plain.limited - plain.bare)?;
    figure("limits_granted_us_per_record", granted.limited - granted.bare)?;
    figure("replace_us", replacement(folder.path())?)?;
    let large = match std::env::args_os().nth(1) {
        Some(path) => std::fs::read(path)?,
        None => large(),
    };
    figure("large_plugin_mb", large.len() as f64 / 1e6)?;
    let [uncached, cached] = starts(folder.path(), &large)?;
    figure("uncached_start_ms", uncached)?;
    figure("cached_start_ms", cached)
}

fn figure(name: &str, value: f64) -> anyhow::Result<()> {
    println!("figure {name} = {value:.3}");
    let Some(path) = std::env::var_os("TESTBED_FIGURES") else { return Ok(()) };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    Ok(writeln!(file, "{name} {value:.3}")?)
}

/// What a call takes, in microseconds.
struct Calls {
    bare: f64,
    limited: f64,
}

/// Of the passthrough, and of a plugin with grants. The best of rounds that take turns, so that all meet the same machine.
fn calls(folder: &Path) -> anyhow::Result<[Calls; 2]> {
    let mut plain = Measured::of(folder, "passthrough", passthrough().to_vec(), |_| {})?;
    let mut granted = Measured::of(folder, "granted", granted(), |grants| {
        grants.clocks = true;
        grants.http = vec!["example.com:443".into()];
    })?;
    let mut best = [(); 2].map(|()| Calls { bare: f64::MAX, limited: f64::MAX });
    for _ in 0..ROUNDS {
        for (best, measured) in best.iter_mut().zip([&mut plain, &mut granted]) {
            best.bare = best.bare.min(measured.bare_call()?);
            best.limited = best.limited.min(measured.limited_call()?);
        }
    }
    Ok(best)
}

/// One component: in a chain, and bare.
struct Measured {
    chain: Chain,
    inputs: Vec<Arc<InputRecord>>,
    store: Store<()>,
    bare: bare::Transform,
}

impl Measured {
    fn of(folder: &Path, name: &str, component: Vec<u8>, grant: impl FnOnce(&mut Grants)) -> anyhow::Result<Self> {
        let file = folder.join(format!("{name}.wasm"));
        std::fs::write(&file, &component)?;
        let mut plugin = PluginConfig::new(name, PluginSource::File(file));
        grant(&mut plugin.grants);
        let chain = Chain::new(SharedChain::load(Runtime::new()?, &[plugin])?)?;
        let inputs = (0..1000).map(|offset| Arc::new(record(offset))).collect();

        let mut config = Config::new();
        config.concurrency_support(false);
        let engine = Engine::new(&config).map_err(told)?;
        let component = Component::from_binary(&engine, &component).map_err(told)?;
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&component).map_err(told)?;
        linker.allow_shadowing(true);
        let mut clock = linker.instance(CLOCK).map_err(told)?;
        let begun = Instant::now();
        clock.func_wrap("now", move |_, ()| Ok((begun.elapsed().as_nanos() as u64,))).map_err(told)?;
        let mut store = Store::new(&engine, ());
        let bare = bare::Transform::instantiate(&mut store, &component, &linker).map_err(told)?;
        let transformer = bare.reduct_sink_transform_transformer();
        transformer.call_configure(&mut store, "{}").map_err(told)?.map_err(|refused| anyhow!(refused))?;
        Ok(Self { chain, inputs, store, bare })
    }

    fn bare_call(&mut self) -> anyhow::Result<f64> {
        let headers = HEADERS
            .map(|(key, value)| bare::reduct_sink::transform::types::Header { key, value: Some(value.as_bytes()) });
        let transformer = self.bare.reduct_sink_transform_transformer();
        micros(RECORDS, |at| {
            let message = bare::exports::reduct_sink::transform::transformer::Message {
                topic: "frames",
                partition: 3,
                offset: at as u64,
                timestamp: 1_700_000_000_000_000,
                key: None,
                headers: &headers,
                payload_size: 1024,
            };
            let answer = black_box(transformer.call_transform(&mut self.store, message)).map_err(told)?;
            ensure!(answer.is_ok(), "the plugin fails");
            Ok(())
        })
    }

    fn limited_call(&mut self) -> anyhow::Result<f64> {
        let mut inputs = self.inputs.iter().cycle();
        micros(RECORDS, |_| {
            self.chain.refresh();
            let kept = inputs.next().is_some_and(|input| matches!(self.chain.transform(input), Outcome::Outputs(_)));
            ensure!(black_box(kept), "the plugin doesn't keep a record");
            Ok(())
        })
    }
}

const CLOCK: &str = "wasi:clocks/monotonic-clock@0.2.0";

/// Reads the clock at each record, and imports what a plugin needs that asks a server and waits for its answer.
fn granted() -> Vec<u8> {
    let imports = r#"(import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
      (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
      (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))"#;
    let wit = "package example:limits;
      package wasi:io@0.2.0 { interface poll { resource pollable { block: func(); } } }
      package wasi:clocks@0.2.0 { interface monotonic-clock { now: func() -> u64; } }
      package wasi:http@0.2.0 { interface types { resource fields { constructor(); } } }
      world granted {
        include reduct-sink:transform/transform@0.1.0;
        import wasi:io/poll@0.2.0; import wasi:clocks/monotonic-clock@0.2.0; import wasi:http/types@0.2.0;
      }";
    guest::Guest::new("(drop (call $now)) (call $keep)").importing(imports, wit, "granted").build()
}

fn replacement(folder: &Path) -> anyhow::Result<f64> {
    let file = folder.join("breaking.wasm");
    let body = "(if (i64.eqz (i64.and (local.get $offset) (i64.const 1))) (then unreachable)) (call $keep)";
    std::fs::write(&file, guest::guest(body))?;
    let plugin = PluginConfig::new("breaking", PluginSource::File(file));
    let mut chain = Chain::new(SharedChain::load(Runtime::new()?, &[plugin])?)?;
    let (even, odd) = (Arc::new(record(2)), Arc::new(record(3)));
    let (mut best_broken, mut best_whole) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        // A broken instance is replaced with the next record: so both of a pair count.
        let broken = micros(2_000, |_| {
            black_box((chain.transform(&even), chain.transform(&odd)));
            Ok(())
        })?;
        let whole = micros(2_000, |_| {
            black_box((chain.transform(&odd), chain.transform(&odd)));
            Ok(())
        })?;
        (best_broken, best_whole) = (best_broken.min(broken), best_whole.min(whole));
    }
    Ok(best_broken - best_whole)
}

/// Milliseconds from nothing to ready: without an entry in the cache, and with one.
fn starts(folder: &Path, component: &[u8]) -> anyhow::Result<[f64; 2]> {
    let (file, cache) = (folder.join("large.wasm"), folder.join("cache"));
    std::fs::write(&file, component)?;
    let mut plugin = PluginConfig::new("large", PluginSource::File(file));
    plugin.limits.file_bytes = 1 << 30;
    let mut took = [0.0; 2];
    for (at, took) in took.iter_mut().enumerate() {
        let start = Instant::now();
        let runtime = Runtime::with_cache(Some(Cache::open(&cache, 1 << 34)?))?;
        let loaded = runtime.load(&plugin)?;
        *took = milliseconds(start.elapsed());
        ensure!(loaded.from_cache == (at == 1), "the cache didn't do what it is for");
    }
    Ok(took)
}

/// About 18 MB, half of it code, half data, as what languages with a runtime make.
fn large() -> Vec<u8> {
    let mut fields = String::new();
    for function in 0..1100_u64 {
        fields += &format!("(func (export \"f{function}\") (param i32) (result i32) local.get 0\n");
        for step in 0..1000_u64 {
            let number = function.wrapping_mul(7919).wrapping_add(step * 104_729) % 2_000_000_000;
            // Three operations of which none can be merged with the one before.
            let operation = match step % 3 {
                0 => "i32.add",
                1 => "i32.xor",
                _ => "i32.rotl",
            };
            fields += &format!("i32.const {number} {operation}\n");
        }
        fields += ")\n";
    }
    fields += &format!("(data \"{}\")", "0123456789abcdef".repeat(700_000));
    guest::Guest::new("(call $keep)").importing(&fields, "", "transform").build()
}

/// Microseconds a call, by this thread's own time: others on the machine don't count.
fn micros(times: usize, call: impl FnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = thread_time()?;
    (0..times).try_for_each(call)?;
    Ok(milliseconds(thread_time()?.saturating_sub(start)) * 1000.0 / times as f64)
}

fn thread_time() -> anyhow::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes into the place that it is given, and nothing else.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    ensure!(answer == 0, "the thread's time can't be asked for: {}", std::io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
}

fn told(error: wasmtime::Error) -> anyhow::Error {
    anyhow!("{error:#}")
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn record(offset: u64) -> InputRecord {
    let header = |(key, value): &(&'static str, &'static str)| Header {
        key: Bytes::from_static(key.as_bytes()),
        value: Some(Bytes::from_static(value.as_bytes())),
    };
    InputRecord {
        source: TopicPartition { topic: "frames".into(), partition: 3 },
        topic_id: None,
        offset,
        timestamp_ms: Some(1_700_000_000_000 + offset),
        key: None,
        headers: HEADERS.iter().map(header).collect(),
        payload: Some(Bytes::from(vec![7; 1024])),
    }
}
