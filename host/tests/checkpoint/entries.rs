//! To which entry a record of the model goes, and what of each entry is open or remembered.

use reduct_sink::flow::PartitionState;

use super::{Key, OPEN};

/// What a plugin does.
pub(super) struct Routes {
    /// Whether one record in seven goes to an entry of its own.
    pub has_seldom_entry: bool,
    /// From this offset on all others go to another entry than the default one.
    pub other_from: u64,
}

impl Routes {
    /// The entry that a record goes to.
    pub fn entry(&self, state: &PartitionState, offset: u64) -> String {
        if self.has_seldom_entry && offset.is_multiple_of(7) {
            "seldom".into()
        } else if offset >= self.other_from {
            "other".into()
        } else {
            state.entry.to_string()
        }
    }

    /// Whether any record goes to another entry than the default one.
    pub fn go_elsewhere(&self) -> bool {
        self.has_seldom_entry || self.other_from < u64::MAX
    }
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
