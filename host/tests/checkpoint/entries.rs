//! To which entry a record of the model goes, and what of each entry is open or remembered.

use reduct_sink::flow::PartitionState;

use super::{Key, OPEN};

/// The entry that a record goes to.
pub(super) fn entry_of(state: &PartitionState, offset: u64, has_seldom_entry: bool) -> String {
    if has_seldom_entry && offset.is_multiple_of(7) { "seldom".into() } else { state.entry.to_string() }
}

/// Adds the key, and leaves as many of its entry as its open blocks hold. Answers with the one that it pushed out.
pub(super) fn keep_last(keys: &mut Vec<Key>, key: Key) -> Option<Key> {
    let is_of_entry = |known: &Key| known.0 == key.0;
    let is_full = keys.iter().filter(|known| is_of_entry(known)).count() >= OPEN;
    let first = keys.iter().position(is_of_entry).filter(|_| is_full);
    let pushed_out = first.map(|first| keys.remove(first));
    keys.push(key);
    pushed_out
}
