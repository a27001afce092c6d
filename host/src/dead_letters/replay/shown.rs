//! Looks whether the store shows the records of dead letters, before these are removed.
//!
//! Guarantees: a letter without a reason to stay has all its outputs in the store, with the bytes that the chain made.

use std::collections::HashMap;

use super::LeftReason;
use crate::flow::StoredOutput;
use crate::record::entry_name::EntryName;
use crate::sink::store::StoreError;
use crate::sink::{ShownOutput, Sink};

/// For each letter, given by its outputs, why it has to stay; `None`: it may be removed.
pub fn reasons_to_stay(sink: &Sink, letters: &[Vec<StoredOutput>]) -> Result<Vec<Option<LeftReason>>, StoreError> {
    let mut by_entry: HashMap<EntryName, (Vec<StoredOutput>, Vec<usize>)> = HashMap::new();
    for (at, outputs) in letters.iter().enumerate() {
        for output in outputs {
            let (outputs, letters) = by_entry.entry(output.entry.clone()).or_default();
            outputs.push(output.clone());
            letters.push(at);
        }
    }
    let mut reasons = vec![None; letters.len()];
    for (entry, (outputs, letters)) in by_entry {
        let shown: Vec<ShownOutput> = sink.runtime().block_on(sink.shows(&entry, &outputs))?;
        for (at, shown) in letters.into_iter().zip(shown) {
            let reason = match shown {
                ShownOutput::Whole => continue,
                ShownOutput::Differs => LeftReason::Differs,
                ShownOutput::Missing => LeftReason::Store("the store doesn't show its record any more".into()),
            };
            if let Some(known) = reasons.get_mut(at) {
                *known = Some(reason);
            }
        }
    }
    Ok(reasons)
}
