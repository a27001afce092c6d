//! From a record's outputs to the sink.
//!
//! Guarantees: a record is acknowledged with the last of its outputs, and at once if it has none; an output whose entry
//! can't be named becomes a dead letter.

use std::sync::Arc;

use super::{DeadLetterClass, Item, Sink};
use crate::flow::{AckHandle, PartitionState};
use crate::record::entry_name::{EntryName, NameError};
use crate::record::{OutputRecord, Rejection};

/// Hands a record's outputs to the sink; its offset is acknowledged with the last of them.
pub fn hand_over(sink: &Sink, state: &Arc<PartitionState>, outputs: Vec<OutputRecord>, ack: AckHandle) {
    let own = OutputRecord::changed_bytes(&outputs);
    let more = outputs.len().saturating_sub(1);
    if more > 0 || own > 0 {
        ack.grow(more, own);
    }
    let mut outputs = outputs.into_iter().peekable();
    let mut ack = Some(ack);
    while let Some(record) = outputs.next() {
        let Some(own) = (if outputs.peek().is_some() { ack.as_ref().map(AckHandle::share) } else { ack.take() }) else {
            return;
        };
        match entry_of(state, &record) {
            Ok(entry) => sink.submit(Item { record, entry, ack: own }),
            Err(error) => {
                let item = Item { record, entry: state.dead_letter_entry.clone(), ack: own };
                let why = Rejection { reason: error.to_string(), plugin: None };
                sink.dead_letter(item, why, DeadLetterClass::Entry);
            }
        }
    }
    // No outputs at all: nothing is left to be written.
    if let Some(ack) = ack {
        ack.acknowledge();
    }
}

/// The entry that a plugin chose for the record, or else the partition's own.
pub fn entry_of(state: &PartitionState, record: &OutputRecord) -> Result<EntryName, NameError> {
    match &record.entry {
        None => Ok(state.entry.clone()),
        Some(name) => state.template.render(name, &state.source),
    }
}
