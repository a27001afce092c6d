//! What an instance finds outside itself: the contract's host functions, the sandbox with WASI, and its memory limit.
//!
//! Guarantees: the contract's functions tell of the record at hand and trap where there is none; a payload is lowered
//! straight from its `Bytes`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wasmtime::component::Linker;
use wasmtime::{ResourceLimiter, StoreContextMut};

use super::bindings::reduct_sink::transform::types::Label;
use super::loaded::Code;
use super::log::{Level, PluginLog};
use super::sandbox::{self, Sandbox};
use crate::record::OutputRecord;
use crate::record::entry_name::topic_segment;
use crate::record::labels::stored_labels;

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
    pub memory: Memory,
    /// How many lines the present call may still log.
    pub log_lines: u64,
    pub sandbox: Sandbox,
    log: Arc<PluginLog>,
}

impl State {
    /// Fails where what the plugin is granted isn't there.
    pub fn new(code: &Code, patience: Duration) -> Result<Self, String> {
        let memory_limit = usize::try_from(code.memory_bytes).unwrap_or(usize::MAX);
        Ok(Self {
            outputs: Vec::new(),
            at: 0,
            memory: Memory { limit: memory_limit, used: 0, refused: false },
            log_lines: code.limits.log_lines,
            sandbox: Sandbox::new(&code.grants, &code.log, patience)?,
            log: code.log.clone(),
        })
    }

    /// What the present call is about.
    pub fn present(&self) -> Option<&OutputRecord> {
        self.outputs.get(self.at)
    }

    fn output(&self, function: &str) -> wasmtime::Result<&OutputRecord> {
        self.present()
            .ok_or_else(|| wasmtime::Error::msg(format!("`{function}` may only be called during `transform`")))
    }

    fn log(&mut self, level: Level, text: &str) -> wasmtime::Result<()> {
        let left = self.log_lines.checked_sub(1);
        self.log_lines = left.ok_or_else(|| wasmtime::Error::msg("it logged more lines in one call than it may"))?;
        let present = self.present();
        self.log.line(level, text, present.map(|output| &*output.input));
        Ok(())
    }
}

/// Everything that a plugin may import.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    sandbox::link(linker)?;
    linker.instance(TYPES)?;
    link_host(linker, INTERFACE)
}

/// The contract's own functions, under the name of that version of it.
pub(super) fn link_host(linker: &mut Linker<State>, interface: &str) -> wasmtime::Result<()> {
    let mut host = linker.instance(interface)?;
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
