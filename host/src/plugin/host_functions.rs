//! The contract's own functions, by which a plugin asks about the record at hand.
//!
//! Guarantees: a function that is called outside of `transform` traps; a payload is lowered straight from its `Bytes`.

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use super::bindings::reduct_sink::transform::types::Label;
use super::log::Level;
use super::state::State;
use crate::record::entry_name::topic_segment;

/// The interface by which plugins import the host functions, and the functions themselves.
pub(super) const INTERFACE: &str = "reduct-sink:transform/host@0.1.0";
pub(super) const FUNCTIONS: [&str; 6] = ["log", "payload", "read", "entry", "labels", "content-type"];
/// It has types only; an import of it asks for nothing.
const TYPES: &str = "reduct-sink:transform/types@0.1.0";

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(TYPES)?;
    link_as(linker, INTERFACE)
}

/// Links the functions under the name of this version of the interface.
pub(super) fn link_as(linker: &mut Linker<State>, interface: &str) -> wasmtime::Result<()> {
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
        let state = call.data();
        let labels = state.labels.record_labels(state.output("labels")?).into_iter();
        Ok((labels.map(|(name, value)| Label { name, value }).collect::<Vec<_>>(),))
    })?;
    host.func_wrap("content-type", |call: Call, ()| {
        Ok((call.data().output("content-type")?.content_type().unwrap_or_default().to_owned(),))
    })?;
    Ok(())
}

/// At most `length` bytes of the payload from `offset` on. Shares the payload's memory.
fn part(payload: &Bytes, offset: u64, length: u32) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(payload.len());
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(payload.len());
    payload.slice(start..end)
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
}
