//! What an instance finds outside itself: the contract's host functions, WASI with nothing granted, and its memory
//! limit.
//!
//! Guarantees: no files, no environment, no arguments, no network; what a plugin prints goes to the log; no host
//! function blocks much longer than the call's time limit; a payload is lowered straight from its `Bytes`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime::{ResourceLimiter, StoreContextMut};
use wasmtime_wasi::clocks::{WasiClocksCtxView, WasiClocksView};
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bindings::reduct_sink::transform::types::Label;
use super::log::{Level, LogStream, PluginLog};
use crate::labels::stored_labels;
use crate::names::topic_segment;
use crate::record::OutputRecord;

/// The interface by which plugins import the host functions, and the functions themselves.
pub(super) const INTERFACE: &str = "reduct-sink:transform/host@0.1.0";
pub(super) const FUNCTIONS: [&str; 6] = ["log", "payload", "read", "entry", "labels", "content-type"];
/// It has types only; an import of it asks for nothing.
const TYPES: &str = "reduct-sink:transform/types@0.1.0";

/// One instance's side of the host.
pub(super) struct State {
    /// The records that `transform` is called with, one after the other, as they stand; empty outside of it.
    pub outputs: Vec<OutputRecord>,
    /// The one of `outputs` that the present call is about.
    pub at: usize,
    /// The longest that a sleep may take: the present call's time limit.
    pub patience: Duration,
    pub memory: Memory,
    /// How many lines the present call may still log.
    pub log_lines: u64,
    log: Arc<PluginLog>,
    wasi: WasiCtx,
    resources: ResourceTable,
}

impl State {
    pub fn new(log: Arc<PluginLog>, memory_bytes: u64) -> Self {
        let wasi = WasiCtx::builder()
            .stdout(LogStream::new(log.clone(), Level::Info))
            .stderr(LogStream::new(log.clone(), Level::Warn))
            .allow_tcp(false)
            .allow_udp(false)
            .build();
        Self {
            outputs: Vec::new(),
            at: 0,
            patience: Duration::ZERO,
            memory: Memory { limit: usize::try_from(memory_bytes).unwrap_or(usize::MAX), used: 0, refused: false },
            log_lines: 0,
            log,
            wasi,
            resources: ResourceTable::new(),
        }
    }

    fn output(&self, function: &str) -> wasmtime::Result<&OutputRecord> {
        let present = self.outputs.get(self.at);
        present.ok_or_else(|| wasmtime::Error::msg(format!("`{function}` may only be called during `transform`")))
    }

    fn log(&mut self, level: Level, text: &str) -> wasmtime::Result<()> {
        let left = self.log_lines.checked_sub(1);
        self.log_lines = left.ok_or_else(|| wasmtime::Error::msg("it logged more lines in one call than it may"))?;
        let present = self.outputs.get(self.at);
        self.log.line(level, text, present.map(|output| &*output.input));
        Ok(())
    }
}

/// Everything that a plugin may import.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<State, PatientClock>(linker, |state| PatientClock {
        patience: state.patience,
        clock: state.clocks(),
    })?;
    linker.allow_shadowing(false);
    linker.instance(TYPES)?;
    let mut host = linker.instance(INTERFACE)?;
    type Call<'a> = StoreContextMut<'a, State>;
    host.func_wrap("log", |mut call: Call, (level, text): (Level, String)| call.data_mut().log(level, &text))?;
    host.func_wrap("payload", |call: Call, ()| Ok((call.data().output("payload")?.payload(),)))?;
    host.func_wrap("read", |call: Call, (offset, length): (u64, u32)| {
        Ok((part(&call.data().output("read")?.payload(), offset, length),))
    })?;
    host.func_wrap("entry", |call: Call, ()| {
        let output = call.data().output("entry")?;
        Ok((output.entry.clone().unwrap_or_else(|| topic_segment(&output.input.source.topic)),))
    })?;
    host.func_wrap("labels", |call: Call, ()| {
        let labels = stored_labels(call.data().output("labels")?).into_iter();
        Ok((labels.map(|(name, value)| Label { name, value }).collect::<Vec<_>>(),))
    })?;
    host.func_wrap("content-type", |call: Call, ()| {
        Ok((call.data().output("content-type")?.content_type.clone().unwrap_or_default(),))
    })?;
    Ok(())
}

/// What there is of `length` bytes from `offset` on; shares the payload's memory.
fn part(payload: &Bytes, offset: u64, length: u32) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(payload.len());
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(payload.len());
    payload.slice(start..end)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

/// WASI's clock, save that nobody sleeps longer than the call may take: epochs stop a plugin that computes, but not one
/// that the host puts to sleep. After such a sleep the deadline has passed, and the call ends.
struct PatientClock<'a> {
    patience: Duration,
    clock: WasiClocksCtxView<'a>,
}

impl HasData for PatientClock<'static> {
    type Data<'a> = PatientClock<'a>;
}

impl PatientClock<'_> {
    fn patience(&self) -> u64 {
        u64::try_from(self.patience.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl monotonic_clock::Host for PatientClock<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        monotonic_clock::Host::now(&mut self.clock)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        monotonic_clock::Host::resolution(&mut self.clock)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let latest = self.now()?.saturating_add(self.patience());
        self.clock.subscribe_instant(when.min(latest))
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let longest = self.patience();
        self.clock.subscribe_duration(duration.min(longest))
    }
}

/// The memory of one instance, over all the core modules it is made of.
pub(super) struct Memory {
    limit: usize,
    pub used: usize,
    /// Whether the limit has been met: what follows is often a trap that says nothing of memory.
    pub refused: bool,
}

/// A table's element takes a pointer's size: together with the number of tables this bounds what they may take.
const MAX_TABLE_ELEMENTS: usize = 1 << 20;

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used.saturating_sub(current).saturating_add(desired);
        let granted = used <= self.limit;
        if granted {
            self.used = used;
        } else {
            self.refused = true;
        }
        Ok(granted)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        256
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_gives_what_is_there() {
        let payload = Bytes::from_static(b"0123456789");
        for (offset, length, expected) in [
            (0, 10, "0123456789"),
            (0, u32::MAX, "0123456789"),
            (3, 2, "34"),
            (9, 2, "9"),
            (10, 1, ""),
            (u64::MAX, u32::MAX, ""),
            (5, 0, ""),
        ] {
            assert_eq!(part(&payload, offset, length), expected.as_bytes(), "read({offset}, {length})");
        }
    }

    #[test]
    fn the_memory_limit_counts_all_memories() {
        let mut memory = Memory { limit: 100, used: 0, refused: false };
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(0, 30, None).unwrap());
        assert!(!memory.memory_growing(60, 80, None).unwrap());
        assert!(memory.refused && memory.used == 90);
        assert!(memory.memory_growing(60, 70, None).unwrap(), "a smaller growth still fits");
    }
}
