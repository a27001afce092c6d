//! How far back a look-up has to go: where in the dead-letter topic the letters of records begin that aren't committed.
//!
//! Guarantees: [`LookupStarts::index`] names an offset of the dead-letter topic before which no letter stands of the source
//! partition's records from the marked position on, or nothing; after a rewind behind what was marked nothing is named
//! until the topic was looked through again. Plain values, no I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::flow::DeadLetterIndex;
use crate::record::TopicPartition;

/// What is known of each source partition's letters.
#[derive(Debug, Default)]
pub struct LookupStarts(Mutex<HashMap<TopicPartition, LookupStart>>);

#[derive(Debug, Default)]
struct LookupStart {
    /// What the mark of the committed position named.
    carried: Option<u64>,
    /// What this assignment knows by itself.
    known: Option<KnownLetters>,
    /// The position that was marked last.
    marked: u64,
}

#[derive(Debug, Default)]
struct KnownLetters {
    /// Letters of records before this offset weren't looked for: an assignment that has ended since may have asked, when it
    /// was further than the present one began.
    from: u64,
    /// Where the newest letter of each offset stands that isn't committed.
    letters: BTreeMap<u64, u64>,
    /// Later letters come from here on.
    end: u64,
}

impl LookupStarts {
    /// An assignment begins at a position that was committed with this mark; `None`: further back.
    pub fn partition_begins(
        &self,
        source: &TopicPartition,
        topic: &str,
        committed: u64,
        index: Option<&DeadLetterIndex>,
    ) {
        let carried = index.filter(|index| index.topic == topic).map(|index| index.offset);
        self.all().insert(source.clone(), LookupStart { carried, marked: committed, ..LookupStart::default() });
    }

    /// What to note beside a position that is to be committed.
    pub fn index(&self, source: &TopicPartition, position: u64) -> Option<u64> {
        let mut all = self.all();
        let start = all.get_mut(source)?;
        let from = start.from(position)?;
        start.marked = position;
        if let Some(known) = &mut start.known {
            known.letters = known.letters.split_off(&position);
        }
        Some(from)
    }

    /// Where a look-up of the letters from this position on has to begin; `None`: at the topic's beginning.
    pub fn from(&self, source: &TopicPartition, position: u64) -> Option<u64> {
        self.all().get_mut(source)?.from(position)
    }

    /// The partition of the topic was looked through up to its `end`, and these letters of records from the offset `from` on
    /// were found: by offset, where.
    pub fn looked(&self, source: &TopicPartition, from: u64, letters: impl IntoIterator<Item = (u64, u64)>, end: u64) {
        let mut known = KnownLetters { from, end, ..KnownLetters::default() };
        letters.into_iter().for_each(|(offset, at)| known.keep(offset, at));
        self.all().entry(source.clone()).or_default().known = Some(known);
    }

    /// A letter stands in the topic now.
    pub fn kept(&self, source: &TopicPartition, offset: u64, at: u64) {
        if let Some(known) = self.all().get_mut(source).and_then(|start| start.known.as_mut()) {
            known.keep(offset, at);
            known.end = known.end.max(at.saturating_add(1));
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<TopicPartition, LookupStart>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookupStart {
    fn from(&mut self, position: u64) -> Option<u64> {
        // What stands further back was forgotten.
        if position < self.marked {
            *self = Self { marked: position, ..Self::default() };
        }
        match self.known.as_ref().filter(|known| known.from <= position) {
            Some(known) => {
                let later = known.letters.range(position..).map(|(_, at)| *at);
                Some(later.min().unwrap_or(known.end).min(known.end))
            }
            None => self.carried,
        }
    }
}

impl KnownLetters {
    /// Of several letters of one record, as a split has them, the first one counts.
    fn keep(&mut self, offset: u64, at: u64) {
        self.letters.entry(offset).and_modify(|first| *first = at.min(*first)).or_insert(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: 0 }
    }

    fn index(topic: &str, offset: u64) -> DeadLetterIndex {
        DeadLetterIndex { topic: topic.into(), offset }
    }

    #[test]
    fn an_index_names_the_first_letter_that_is_not_committed() {
        let lookup_starts = LookupStarts::default();
        assert_eq!(lookup_starts.index(&source(), 5), None);
        lookup_starts.partition_begins(&source(), "dead", 4, Some(&index("dead", 30)));
        assert_eq!(lookup_starts.from(&source(), 5), Some(30));
        assert_eq!(lookup_starts.index(&source(), 5), Some(30), "as it was");
        lookup_starts.looked(&source(), 5, [(7, 31), (9, 40)], 50);
        lookup_starts.kept(&source(), 12, 60);
        let indices = [6, 8, 12, 13].map(|position| lookup_starts.index(&source(), position));
        assert_eq!(indices, [Some(31), Some(40), Some(60), Some(61)]);
        assert_eq!(lookup_starts.from(&source(), 13), Some(61));
        assert_eq!(lookup_starts.from(&source(), 8), None, "what stands further back was forgotten");
        assert_eq!(lookup_starts.index(&source(), 8), None);
    }

    #[test]
    fn an_index_of_another_topic_says_nothing() {
        let lookup_starts = LookupStarts::default();
        for index in [None, Some(&index("other", 30))] {
            lookup_starts.partition_begins(&source(), "dead", 5, index);
            assert_eq!(lookup_starts.from(&source(), 5), None, "{index:?}");
        }
    }

    #[test]
    fn what_is_read_again_from_before_the_index_is_looked_for_everywhere() {
        let lookup_starts = LookupStarts::default();
        lookup_starts.partition_begins(&source(), "dead", 100, Some(&index("dead", 30)));
        assert_eq!(lookup_starts.from(&source(), 60), None);
        lookup_starts.looked(&source(), 60, [(60, 3)], 40);
        assert_eq!(lookup_starts.index(&source(), 60), Some(3));
        assert_eq!(lookup_starts.index(&source(), 61), Some(40));
    }

    /// The thread that looks was slow: the partition was lost meanwhile, and came back further behind.
    #[test]
    fn a_look_of_an_assignment_that_has_ended_hides_no_letter_from_the_next_one() {
        let lookup_starts = LookupStarts::default();
        lookup_starts.partition_begins(&source(), "dead", 100, Some(&index("dead", 30)));
        lookup_starts.looked(&source(), 150, [(150, 80)], 90);
        assert_eq!(lookup_starts.from(&source(), 120), Some(30), "the letters of 100 to 149 weren't looked for");
        assert_eq!(lookup_starts.index(&source(), 120), Some(30));
        assert_eq!(lookup_starts.index(&source(), 151), Some(90));
    }

    #[test]
    fn letters_out_of_order_hold_the_index_back() {
        let lookup_starts = LookupStarts::default();
        lookup_starts.looked(&source(), 0, [], 10);
        lookup_starts.kept(&source(), 9, 10);
        lookup_starts.kept(&source(), 3, 11);
        assert_eq!(lookup_starts.index(&source(), 4), Some(10));
        assert_eq!(lookup_starts.index(&source(), 10), Some(12));
    }
}
