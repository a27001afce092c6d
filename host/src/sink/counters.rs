//! What the sink did since it started, counted for the status and the metrics.
//!
//! Guarantees: nothing is counted twice, and a dead letter is no written record; the classes of dead letters and of retries are few and fixed; what is remembered of
//! dead letters is bounded ([`REMEMBERED`], [`SHOWN_BYTES`] of each).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::store::StoreError;
use crate::flow::sharded::Sharded;
use crate::record::text::is_invisible;
use crate::record::{OutputRecord, Rejection};

/// How many dead letters are remembered, and how much of each payload.
const REMEMBERED: usize = 50;
const SHOWN_BYTES: usize = 200;
/// What is remembered of a reason, in characters.
const REASON_CHARACTERS: usize = 1000;

/// Why a record became a dead letter, in a few classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterClass {
    /// A plugin rejected it or failed on it.
    Plugin,
    /// A plugin chose an entry that can't be named so.
    Entry,
    /// Its size, time or labels are beyond what ReductStore takes, or it can't be handed to plugins.
    Record,
    /// ReductStore refused it.
    Store,
}

impl DeadLetterClass {
    /// Each class with its name in the metrics.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Plugin, "plugin"), (Self::Entry, "entry"), (Self::Record, "record"), (Self::Store, "store")];
}

/// A dead letter as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetterNote {
    /// Counts up from 1.
    pub number: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Which record it is.
    pub record: String,
    /// Why it became one.
    pub reason: String,
    /// The plugin that failed on it or rejected it.
    pub plugin: Option<String>,
    /// How its payload begins, as text.
    pub payload: String,
    /// The size of its payload.
    pub bytes: usize,
}

/// What the sink did since it started.
#[derive(Debug, Default)]
pub struct SinkCounters {
    written: Sharded,
    written_bytes: Sharded,
    found: Sharded,
    replayed: Sharded,
    repaired: Sharded,
    written_letters: Sharded,
    dead_letters: [AtomicU64; DeadLetterClass::ALL.len()],
    retries: Mutex<BTreeMap<&'static str, u64>>,
    remembered: Mutex<VecDeque<DeadLetterNote>>,
}

impl SinkCounters {
    pub(crate) fn written(&self, records: u64, bytes: u64) {
        self.written.add(records);
        self.written_bytes.add(bytes);
    }

    /// Dead letters that were written to the store. They were counted when they became ones.
    pub(crate) fn written_letters(&self, letters: u64) {
        self.written_letters.add(letters);
    }

    /// How many records and dead letters were written so far.
    pub(crate) fn written_now(&self) -> u64 {
        self.written.sum() + self.written_letters.sum()
    }

    /// Records that were in the store already.
    pub(crate) fn found(&self, records: u64) {
        self.found.add(records);
    }

    /// Records among those that were written or found of which a dead letter was sent again.
    pub(crate) fn replayed(&self, records: u64) {
        self.replayed.add(records);
    }

    /// Unfinished records that were removed and written again.
    pub(crate) fn repaired(&self, records: u64) {
        self.repaired.add(records);
    }

    /// A writer tries again because of this answer.
    pub(super) fn retried(&self, error: &StoreError) {
        *lock(&self.retries).entry(error.class()).or_default() += 1;
    }

    pub(super) fn dead_letter(&self, record: &OutputRecord, rejection: &Rejection, class: DeadLetterClass) {
        if let Some(counter) = self.dead_letters.get(class as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        // As it came: a dead letter is the record without what plugins made of it.
        let payload = record.input.payload.clone().unwrap_or_default();
        let note = DeadLetterNote {
            number: self.dead_letters(),
            at_ms: now_ms(),
            record: record.identity().to_string(),
            reason: rejection.reason.chars().take(REASON_CHARACTERS).collect(),
            plugin: rejection.plugin.as_ref().map(|(plugin, _)| plugin.to_string()),
            payload: beginning(&payload, SHOWN_BYTES),
            bytes: payload.len(),
        };
        let mut remembered = lock(&self.remembered);
        remembered.push_front(note);
        remembered.truncate(REMEMBERED);
    }

    fn dead_letters(&self) -> u64 {
        self.dead_letters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    /// The last dead letters, the newest first.
    pub fn last_dead_letters(&self) -> Vec<DeadLetterNote> {
        lock(&self.remembered).iter().cloned().collect()
    }

    /// The counters at this moment.
    pub fn snapshot(&self) -> CountersNow {
        let of = |class: DeadLetterClass| {
            self.dead_letters.get(class as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
        };
        CountersNow {
            written: self.written.sum(),
            written_bytes: self.written_bytes.sum(),
            found: self.found.sum(),
            replayed: self.replayed.sum(),
            repaired: self.repaired.sum(),
            dead_letters: self.dead_letters(),
            dead_letters_by_class: DeadLetterClass::ALL.map(|(class, name)| (name, of(class))),
            retries: lock(&self.retries).iter().map(|(class, count)| (*class, *count)).collect(),
        }
    }
}

/// [`SinkCounters`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountersNow {
    /// Records that were written; dead letters aren't among them.
    pub written: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Records that were in the store already.
    pub found: u64,
    /// How many of those that were written or found came from dead letters that were sent again.
    pub replayed: u64,
    /// Unfinished records that were removed and written again.
    pub repaired: u64,
    /// Records that became dead letters.
    pub dead_letters: u64,
    /// The same by class.
    pub dead_letters_by_class: [(&'static str, u64); DeadLetterClass::ALL.len()],
    /// How often a writer tried again, by the class of the store's answer. Only classes that there were.
    pub retries: Vec<(&'static str, u64)>,
}

/// The first bytes as text: what is no text is escaped.
pub fn beginning(bytes: &[u8], most: usize) -> String {
    let cut = bytes.get(..most).unwrap_or(bytes);
    let text = String::from_utf8_lossy(cut);
    text.chars()
        .map(|letter| if letter != '\n' && (letter.is_control() || is_invisible(letter)) { '\u{b7}' } else { letter })
        .collect()
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::{InputRecord, TopicPartition};

    #[test]
    fn dead_letters_are_counted_by_class_and_the_last_ones_remembered() {
        let counters = SinkCounters::default();
        for offset in 0..60 {
            let input = InputRecord {
                source: TopicPartition { topic: "t".into(), partition: 0 },
                topic_id: None,
                offset,
                timestamp_ms: None,
                key: None,
                headers: Vec::new(),
                payload: Some(vec![b'x'; 1000].into()),
            };
            let class = if offset < 50 { DeadLetterClass::Plugin } else { DeadLetterClass::Store };
            let rejection = Rejection { reason: "bad".into(), plugin: None };
            counters.dead_letter(&OutputRecord::unchanged(Arc::new(input)), &rejection, class);
        }
        let now = counters.snapshot();
        assert_eq!(now.dead_letters, 60);
        assert_eq!(now.dead_letters_by_class, [("plugin", 50), ("entry", 0), ("record", 0), ("store", 10)]);
        let last = counters.last_dead_letters();
        assert_eq!(
            (last.len(), last[0].number, last[0].bytes, last[0].payload.len()),
            (REMEMBERED, 60, 1000, SHOWN_BYTES)
        );
    }

    #[test]
    fn a_dead_letter_that_was_written_is_no_written_record() {
        let counters = SinkCounters::default();
        counters.written(3, 30);
        counters.written_letters(2);
        let CountersNow { written, written_bytes, .. } = counters.snapshot();
        assert_eq!((written, written_bytes, counters.written_now()), (3, 30, 5));
    }

    #[test]
    fn retries_are_counted_by_class() {
        let counters = SinkCounters::default();
        counters.retried(&StoreError::Full("1".into()));
        counters.retried(&StoreError::Full("2".into()));
        counters.retried(&StoreError::Unavailable("3".into()));
        assert_eq!(counters.snapshot().retries, [("full", 2), ("unavailable", 1)]);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_far_as_they_are() {
        assert_eq!(beginning("a\u{202e}b".as_bytes(), 10), "a\u{b7}b");
        assert_eq!(beginning(b"a\x00\x1bb\n\xff", 10), "a\u{b7}\u{b7}b\n\u{fffd}");
        assert_eq!(beginning(b"abc", 2), "ab");
    }
}
