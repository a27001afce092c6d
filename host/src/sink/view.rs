//! What a writer knows of its entry: which microseconds are taken, and whose record is where. Plain values, no I/O.
//!
//! A record goes to the first free microsecond from its own timestamp on. Because that was so when it was first written
//! too, a replay finds it by walking the run of taken microseconds from there: the walk ends at the record itself, or at
//! a free one, which proves that the record isn't in the entry.
//!
//! Guarantees: [`EntryView::place`] never answers with a microsecond known to be taken; it answers [`Place::Written`] only
//! for an identity that was read from the store or acknowledged by it; forgetting costs reading again, never
//! correctness, because the store refuses a taken microsecond (409) and the record is then looked up.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::store::{Content, checksum};
use crate::record::{Identity, IdentityMap};

/// Above this many ranges or identities the view starts anew; each takes up to 200 B, in every entry's view.
const MEMORY: usize = 30_000;

/// Where a record belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Free as far as is known.
    Free(u64),
    /// The record is in the entry, at this microsecond.
    Written(u64),
    /// What stands from this microsecond on has to be read first.
    Unknown(u64),
}

#[derive(Debug, Default)]
pub struct EntryView {
    taken: Ranges,
    /// Where everything finished is known, because it was read.
    scanned: Ranges,
    found: IdentityMap<u64>,
    /// What is known of the bytes at a microsecond.
    contents: HashMap<u64, Content>,
}

impl EntryView {
    /// Where the record that wants `base` belongs; with `look_up` only on the ground of what was read. Without it, what
    /// was read for others counts all the same: it may show this record.
    pub fn place(&self, identity: &Identity, base: u64, look_up: bool) -> Place {
        let mut at = base;
        loop {
            if look_up && !self.scanned.contains(at) {
                return Place::Unknown(at);
            }
            let Some(end) = self.taken.end_of_range_at(at) else { return Place::Free(at) };
            if let Some(time) = self.found.get(identity).filter(|time| (base..end).contains(time)) {
                return Place::Written(*time);
            }
            // Only up to the end of what was read: beyond it someone else's record may be missing from `taken`.
            at = if look_up { self.scanned.end_of_range_at(at).map_or(end, |scanned| scanned.min(end)) } else { end };
        }
    }

    /// Takes note of a record that stands in the entry, or was just assigned its place.
    pub fn take(&mut self, time: u64) {
        self.taken.insert(time..time.saturating_add(1));
    }

    pub fn took(&mut self, identity: Identity, time: u64) {
        self.take(time);
        self.found.insert(identity, time);
    }

    /// Takes note of the bytes that stand here.
    pub fn read(&mut self, time: u64, content: Content) {
        self.contents.insert(time, content);
    }

    /// Whether what stands here is known not to be these bytes.
    pub fn is_damaged(&self, time: u64, payload: &[u8]) -> bool {
        match self.contents.get(&time) {
            None | Some(Content::Unread) => false,
            Some(Content::Read { checksum: sum, .. }) => *sum != checksum(payload),
            Some(Content::Unreadable) => true,
        }
    }

    /// Whether everything finished at this microsecond is known.
    pub fn is_scanned(&self, time: u64) -> bool {
        self.scanned.contains(time)
    }

    /// Everything finished within `range` was read and told by [`Self::took`] or [`Self::take`].
    pub fn scanned(&mut self, range: Range<u64>) {
        self.scanned.insert(range);
    }

    /// The store contradicts what is known about this microsecond: read it again.
    pub fn doubt(&mut self, time: u64) {
        self.taken.remove(time);
        self.scanned.remove(time);
        self.contents.remove(&time);
    }

    /// Somebody else may have written: know nothing.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Forgets what is known if that is much. Only between two batches: a microsecond that a record of this one was given
    /// isn't taken in the store yet, and must not be given to another.
    pub fn make_room(&mut self) {
        if self.taken.len() > MEMORY || self.found.len() > MEMORY || self.scanned.len() > MEMORY {
            self.forget();
        }
    }
}

/// Disjoint half-open ranges of microseconds, adjoining ones merged: start → end.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn end_of_range_at(&self, at: u64) -> Option<u64> {
        self.0.range(..=at).next_back().map(|(_, end)| *end).filter(|end| at < *end)
    }

    fn contains(&self, at: u64) -> bool {
        self.end_of_range_at(at).is_some()
    }

    fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        // Whatever overlaps or adjoins is swallowed.
        while let Some((s, e)) = self.0.range(..=end).next_back().map(|(s, e)| (*s, *e)).filter(|(_, e)| *e >= start) {
            self.0.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.0.insert(start, end);
    }

    fn remove(&mut self, at: u64) {
        let Some(end) = self.end_of_range_at(at) else { return };
        let Some((start, _)) = self.0.range(..=at).next_back().map(|(s, e)| (*s, *e)) else { return };
        self.0.remove(&start);
        self.insert(start..at);
        self.insert(at.saturating_add(1)..end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicPartition;

    fn id(offset: u64) -> Identity {
        Identity { source: TopicPartition { topic: "t".into(), partition: 0 }, topic_id: None, offset, index: None }
    }

    #[test]
    fn ranges_merge_and_split() {
        let mut ranges = Ranges::default();
        for range in [5..6, 7..8, 6..7, 20..30, 8..8] {
            ranges.insert(range);
        }
        assert_eq!(ranges.0, BTreeMap::from([(5, 8), (20, 30)]));
        ranges.insert(0..40);
        ranges.remove(10);
        assert_eq!(ranges.0, BTreeMap::from([(0, 10), (11, 40)]));
        assert!(!ranges.contains(10) && ranges.contains(11) && !ranges.contains(40));
    }

    #[test]
    fn a_new_record_takes_the_next_free_microsecond() {
        let mut view = EntryView::default();
        assert_eq!(view.place(&id(0), 10, false), Place::Free(10));
        view.take(10);
        view.take(11);
        assert_eq!(view.place(&id(1), 10, false), Place::Free(12));
    }

    #[test]
    fn a_replay_walks_the_run_to_its_own_record() {
        let mut view = EntryView::default();
        assert_eq!(view.place(&id(2), 10, true), Place::Unknown(10));
        view.took(id(0), 10);
        view.took(id(1), 11);
        view.scanned(10..12);
        assert_eq!(view.place(&id(1), 10, true), Place::Written(11));
        assert_eq!(view.place(&id(2), 10, true), Place::Unknown(12), "the run may go on behind what was read");
        view.scanned(12..20);
        assert_eq!(view.place(&id(2), 10, true), Place::Free(12));
    }

    #[test]
    fn another_record_of_the_same_identity_before_its_time_is_not_it() {
        let mut view = EntryView::default();
        view.took(id(1), 5);
        view.scanned(5..20);
        assert_eq!(view.place(&id(1), 10, true), Place::Free(10));
    }

    /// The look-up of another record may show one that a request of a killed host finished only now.
    #[test]
    fn a_record_that_was_seen_is_found_without_being_looked_up() {
        let mut view = EntryView::default();
        view.took(id(1), 10);
        view.took(id(2), 11);
        view.scanned(5..20);
        assert_eq!(view.place(&id(1), 10, false), Place::Written(10));
        assert_eq!(view.place(&id(2), 10, false), Place::Written(11));
        assert_eq!(view.place(&id(3), 10, false), Place::Free(12));
    }

    #[test]
    fn no_microsecond_is_given_twice_in_a_batch() {
        let mut view = EntryView::default();
        for n in 0..=MEMORY as u64 + 1 {
            assert_eq!(view.place(&id(n), 10 * n, false), Place::Free(10 * n));
            view.take(10 * n);
        }
        assert_eq!(view.place(&id(0), 10 * MEMORY as u64, false), Place::Free(10 * MEMORY as u64 + 1));
        view.make_room();
        assert_eq!(view.place(&id(0), 10 * MEMORY as u64, false), Place::Free(10 * MEMORY as u64));
    }

    #[test]
    fn doubt_makes_it_read_again() {
        let mut view = EntryView::default();
        view.scanned(0..100);
        assert_eq!(view.place(&id(1), 10, true), Place::Free(10));
        view.doubt(10);
        assert_eq!(view.place(&id(1), 10, true), Place::Unknown(10));
    }
}
