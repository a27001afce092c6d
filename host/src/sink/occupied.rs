//! Which microseconds of an entry are occupied, as far as its writer knows. Plain values without I/O.
//!
//! A record is written to the first free microsecond from its own time on. Where the times of a partition's records
//! don't decrease, each record therefore gets a later microsecond than the one before it: ReductStore shows them in
//! Kafka's order, and the blocks that it puts them into don't overlap in time.
//!
//! Nobody else writes an entry while its partitions belong to this host (a generation). So everything at and above
//! `floor` is known: it is what this writer has sent. Below the floor lies what was there before, and what this writer
//! has forgotten again to bound its memory: a microsecond there has to be read ([`TimestampChoice::Unknown`]) before it is used.
//!
//! Guarantees: [`OccupiedTimestamps::choose`] never answers with a microsecond that is known to be occupied, nor with one
//! about which nothing is known; it answers [`TimestampChoice::Present`] only for an identity that was read from the store; a
//! record that was written before is recognised wherever it stands within [`SEARCHED_US`] behind its own time or in the
//! run of occupied microseconds that its time lies in, also where records between have been removed since; at most
//! [`MAX_RANGES`] ranges and [`MAX_FOUND`] identities are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::store::{Content, QueriedRecord, checksum};
use crate::flow::RangeSet;
use crate::record::{Identity, IdentityMap};

/// A record that may have been written before is searched for at least this far behind its own time.
pub const SEARCHED_US: u64 = 10_000;
/// Ranges that are kept of each kind, about 50 B each.
pub const MAX_RANGES: usize = 1_000;
/// Records that are kept of those that were read, about 150 B each. A run of more records than this with one timestamp
/// is read again for each batch.
const MAX_FOUND: usize = 10_000;
/// After this many batches that needed no reading, what was read is forgotten.
const QUIET_BATCHES: u32 = 100;

/// Which microsecond a record gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampChoice {
    /// This microsecond is free.
    Free(u64),
    /// The record is in the entry, at this microsecond.
    Present(u64),
    /// What the entry holds from this microsecond on has to be read first.
    Unknown(u64),
}

/// See the module.
#[derive(Debug, Default)]
pub struct OccupiedTimestamps {
    occupied: RangeSet,
    /// From here on everything occupied is in `occupied`, except at `doubted`.
    floor: u64,
    /// Below the floor: ranges of which everything is known, because they were read.
    scanned: RangeSet,
    /// From the floor on: microseconds of requests whose outcome isn't known.
    doubted: BTreeSet<u64>,
    /// Below this, requests of others may have left records that no query shows.
    others_below: u64,
    /// Where requests of this writer may have done so.
    tried: BTreeSet<u64>,
    /// Records that were read.
    found: BTreeMap<u64, (Identity, Content)>,
    /// Where each of them is. What `found` doesn't hold any more doesn't count.
    found_at: IdentityMap<u64>,
    quiet_batches: u32,
}

impl OccupiedTimestamps {
    /// Somebody else may have written up to `newest`, and nobody else will from now on.
    pub fn begin_generation(&mut self, newest: Option<u64>) {
        let floor = newest.map_or(0, |newest| newest.saturating_add(1));
        *self = Self { floor, others_below: floor, ..Self::default() };
    }

    /// Below `end`, what the store said of its newest record isn't believed: a store that was killed can name an older one, or none.
    pub fn read_below(&mut self, end: u64) {
        self.floor = self.floor.max(end);
        self.others_below = self.others_below.max(end);
    }

    /// Which microsecond a record gets whose own time is `base`.
    pub fn choose(&self, identity: &Identity, base: u64) -> TimestampChoice {
        if let Some(time) = self.found_at.get(identity).filter(|time| **time >= base && self.found.contains_key(time)) {
            return TimestampChoice::Present(*time);
        }
        let searched = base.saturating_add(SEARCHED_US).min(self.floor);
        if let Some(unknown) = self.unknown_within(base..searched) {
            return TimestampChoice::Unknown(unknown);
        }
        let mut at = base;
        loop {
            if !self.is_known(at) {
                return TimestampChoice::Unknown(at);
            }
            match self.occupied.end_of_range_at(at) {
                None => return TimestampChoice::Free(at),
                // A range may reach into what isn't known: the record itself may stand there.
                Some(end) => at = self.unknown_within(at..end.min(self.floor)).unwrap_or(end),
            }
        }
    }

    /// From here on the entry holds nothing but what this writer sent since the generation began.
    pub fn own_from(&self) -> u64 {
        self.others_below
    }

    /// Whether an unfinished record may stand here, which hides another one from queries.
    pub fn may_be_hidden(&self, time: u64) -> bool {
        time < self.others_below || self.tried.contains(&time)
    }

    /// Whether what stands here has to be read.
    pub fn is_unknown(&self, at: u64) -> bool {
        !self.is_known(at)
    }

    fn is_known(&self, at: u64) -> bool {
        if at < self.floor { self.scanned.contains(at) } else { !self.doubted.contains(&at) }
    }

    /// The first microsecond of a range below the floor that wasn't read.
    fn unknown_within(&self, range: Range<u64>) -> Option<u64> {
        if range.is_empty() {
            return None;
        }
        let known_to = self.scanned.end_of_range_at(range.start).unwrap_or(range.start);
        (known_to < range.end).then_some(known_to)
    }

    /// A record is given this microsecond.
    pub fn occupy(&mut self, time: u64) {
        self.occupied.insert(time..time.saturating_add(1));
    }

    /// The record that was given this microsecond was never sent.
    pub fn release(&mut self, time: u64) {
        self.occupied.remove(time);
    }

    /// Something was sent there, or the store contradicts what is known: it has to be read again.
    pub fn doubt(&mut self, time: u64) {
        self.tried.insert(time);
        if self.tried.len() > MAX_RANGES {
            let last = self.tried.pop_last().unwrap_or_default();
            self.others_below = self.others_below.max(last.saturating_add(1));
            self.tried.clear();
        }
        self.occupied.remove(time);
        self.found.remove(&time);
        if time < self.floor {
            self.scanned.remove(time);
        } else {
            self.doubted.insert(time);
        }
    }

    /// All finished records of this range were read, and these are they.
    pub fn learn(&mut self, range: Range<u64>, seen: Vec<QueriedRecord>) {
        self.quiet_batches = 0;
        for QueriedRecord { timestamp_us, identity, content, .. } in seen {
            self.occupy(timestamp_us);
            if let Some(identity) = identity {
                self.found_at.insert(identity.clone(), timestamp_us);
                self.found.insert(timestamp_us, (identity, content));
            }
        }
        self.doubted.retain(|time| !range.contains(time));
        self.scanned.insert(range.start..range.end.min(self.floor));
    }

    /// Whether a query showed this record at another microsecond.
    pub fn is_found_beside(&self, identity: &Identity, time: u64) -> bool {
        self.found_at.get(identity).is_some_and(|at| *at != time && self.found.contains_key(at))
    }

    /// Whether a record is known to stand here whose bytes weren't read.
    pub fn is_unread(&self, time: u64) -> bool {
        matches!(self.found.get(&time), Some((_, Content::Unread)))
    }

    /// Whether the bytes that were read here are known not to be these.
    pub fn is_damaged(&self, time: u64, payload: &[u8]) -> bool {
        match self.found.get(&time) {
            None | Some((_, Content::Unread)) => false,
            Some((_, Content::Read { checksum: sum, .. })) => *sum != checksum(payload),
            Some((_, Content::Unreadable)) => true,
        }
    }

    /// How many ranges are kept.
    pub fn ranges(&self) -> usize {
        self.occupied.len() + self.scanned.len()
    }

    /// Whether nothing is kept but what this writer sent.
    pub fn is_small(&self) -> bool {
        self.found.is_empty() && self.scanned.is_empty() && self.tried.is_empty() && self.doubted.is_empty()
    }

    /// Forgets the oldest times where more than `most` ranges are known, or [`MAX_RANGES`]. Only between two batches: a
    /// microsecond that a record of this batch was given isn't occupied in the store yet. One of a record that is still to be read back can be
    /// forgotten: a later record that wants it has it read first, and the store refuses a second one there.
    pub fn make_room(&mut self, most: usize) {
        let most = most.min(MAX_RANGES);
        self.quiet_batches = self.quiet_batches.saturating_add(1);
        if self.quiet_batches > QUIET_BATCHES && !self.found.is_empty() {
            // A record that was forgotten must not be taken for somebody else's.
            if let Some((last, _)) = std::mem::take(&mut self.found).pop_last() {
                self.floor = self.floor.max(last.saturating_add(1));
                self.doubted = self.doubted.split_off(&self.floor);
            }
            self.found_at = IdentityMap::default();
            self.scanned = RangeSet::default();
        }
        let half = |len: usize, most: usize| if len > most { Some(len - most / 2) } else { None };
        let start_of = |ranges: &RangeSet| Some(ranges.ranges().nth(half(ranges.len(), most)?)?.start);
        let oldest_found = half(self.found.len(), MAX_FOUND).and_then(|at| self.found.keys().nth(at).copied());
        let cuts = [start_of(&self.occupied), start_of(&self.scanned), oldest_found];
        if let Some(cut) = cuts.into_iter().flatten().max() {
            self.forget_below(cut);
        }
    }

    fn forget_below(&mut self, cut: u64) {
        self.floor = self.floor.max(cut);
        self.occupied.remove_below(cut);
        self.scanned.remove_below(cut);
        self.doubted = self.doubted.split_off(&cut);
        self.found = self.found.split_off(&cut);
        self.found_at = IdentityMap::default();
        for (time, (identity, _)) in &self.found {
            self.found_at.insert(identity.clone(), *time);
        }
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
    fn a_store_that_forgot_its_newest_record_is_read_all_the_same() {
        let mut entry = OccupiedTimestamps::default();
        entry.begin_generation(None);
        assert_eq!(entry.choose(&id(3), 1_000), TimestampChoice::Free(1_000));
        entry.read_below(1_000 + SEARCHED_US);
        assert_eq!(entry.choose(&id(3), 1_000), TimestampChoice::Unknown(1_000));
        entry.learn(1_000..1_000 + SEARCHED_US, vec![seen(1_007, 3)]);
        assert_eq!(entry.choose(&id(3), 1_000), TimestampChoice::Present(1_007));
        assert!(entry.may_be_hidden(1_000));
    }

    /// A late request of another host wrote behind what was the newest record when the generation began.
    #[test]
    fn a_record_of_a_late_request_is_recognised_after_it_was_forgotten() {
        let mut entry = entry(100);
        entry.doubt(1_000);
        entry.learn(1_000..2_000, vec![seen(1_000, 1), seen(1_001, 2), seen(1_500, 3)]);
        (0..=QUIET_BATCHES).for_each(|_| entry.make_room(MAX_RANGES));
        assert_eq!(entry.choose(&id(3), 1_500), TimestampChoice::Unknown(1_500), "not Free(1501)");
        entry.learn(1_500..1_600, vec![seen(1_500, 3)]);
        assert_eq!(entry.choose(&id(3), 1_500), TimestampChoice::Present(1_500));
    }

    fn seen(time: u64, offset: u64) -> QueriedRecord {
        QueriedRecord { timestamp_us: time, identity: Some(id(offset)), size: 0, content: Content::Unread }
    }

    /// An entry that held records up to `newest` when the generation began.
    fn entry(newest: u64) -> OccupiedTimestamps {
        let mut entry = OccupiedTimestamps::default();
        entry.begin_generation(Some(newest));
        entry
    }

    #[test]
    fn records_that_share_a_time_follow_each_other() {
        let mut entry = OccupiedTimestamps::default();
        entry.begin_generation(None);
        let mut last = None;
        for offset in 0..5_000 {
            // Three milliseconds, the first of which has more records than microseconds.
            let base = [1_000, 2_000, 9_000][usize::from(offset >= 3_000) + usize::from(offset >= 4_000)];
            let TimestampChoice::Free(time) = entry.choose(&id(offset), base) else { panic!("nothing is unknown") };
            assert!(last < Some(time) && time >= base);
            entry.occupy(time);
            last = Some(time);
            entry.make_room(MAX_RANGES);
        }
        assert_eq!(last, Some(9_999));
    }

    #[test]
    fn a_second_copy_is_known_by_the_one_that_is_shown() {
        let mut entry = entry(20_000);
        entry.learn(10..12, vec![seen(11, 1)]);
        assert!(entry.is_found_beside(&id(1), 10));
        assert!(!entry.is_found_beside(&id(1), 11) && !entry.is_found_beside(&id(2), 10));
        entry.doubt(11);
        assert!(!entry.is_found_beside(&id(1), 10), "it may be gone");
    }

    #[test]
    fn what_was_there_before_is_read_before_it_is_written_to() {
        let mut entry = entry(20_000);
        assert_eq!(entry.choose(&id(2), 10), TimestampChoice::Unknown(10));
        entry.learn(10..12, vec![seen(10, 0), seen(11, 1)]);
        assert_eq!(entry.choose(&id(1), 10), TimestampChoice::Present(11));
        assert_eq!(entry.choose(&id(2), 10), TimestampChoice::Unknown(12), "it may stand behind what was read");
        entry.learn(12..10_010, vec![]);
        assert_eq!(entry.choose(&id(2), 10), TimestampChoice::Free(12));
        assert!(entry.may_be_hidden(12) && !entry.may_be_hidden(20_001));
        assert_eq!(entry.choose(&id(2), 20_001), TimestampChoice::Free(20_001), "nobody else writes there");
    }

    /// The record before it was removed since: its own microsecond is free, and it stands behind.
    #[test]
    fn a_record_is_recognised_behind_a_gap() {
        let mut entry = entry(50_000);
        entry.learn(10..10_010, vec![seen(15, 5)]);
        assert_eq!(entry.choose(&id(5), 10), TimestampChoice::Present(15));
        assert_eq!(entry.choose(&id(6), 10), TimestampChoice::Free(10));
        assert_eq!(entry.choose(&id(5), 16), TimestampChoice::Unknown(10_010), "what stands before its time isn't it");
    }

    #[test]
    fn a_run_is_followed_as_far_as_it_goes() {
        let mut entry = entry(50_000);
        entry.learn(0..20_000, (0..20_000).map(|time| seen(time, time)).collect());
        assert_eq!(entry.choose(&id(99_999), 0), TimestampChoice::Unknown(20_000));
        entry.learn(20_000..20_010, vec![]);
        assert_eq!(entry.choose(&id(99_999), 0), TimestampChoice::Free(20_000));
    }

    #[test]
    fn what_is_doubted_is_read_again() {
        let mut entry = entry(20_000);
        entry.learn(0..20_001, vec![]);
        for time in [5, 30_000] {
            assert_eq!(entry.choose(&id(1), time), TimestampChoice::Free(time));
            entry.occupy(time);
            entry.doubt(time);
            assert_eq!(entry.choose(&id(1), time), TimestampChoice::Unknown(time));
            entry.learn(time..time + SEARCHED_US, vec![seen(time, 1)]);
            assert_eq!(entry.choose(&id(1), time), TimestampChoice::Present(time));
        }
        entry.occupy(40_000);
        entry.release(40_000);
        assert_eq!(entry.choose(&id(2), 40_000), TimestampChoice::Free(40_000), "it was never sent");
    }

    /// A request that was cut off left an unfinished record there, and its own record became a dead letter: the next one that gets this
    /// microsecond may be hidden by it.
    #[test]
    fn what_was_tried_in_vain_may_hide_another_record() {
        let mut entry = entry(100);
        entry.occupy(500);
        entry.doubt(500);
        entry.learn(500..501, vec![]);
        assert_eq!(entry.choose(&id(2), 500), TimestampChoice::Free(500), "no query shows it");
        assert!(entry.may_be_hidden(500) && !entry.may_be_hidden(501));
        let most = u64::try_from(MAX_RANGES).unwrap();
        (501..=500 + most).for_each(|time| entry.doubt(time));
        assert!(entry.tried.is_empty() && entry.may_be_hidden(500) && entry.may_be_hidden(500 + most));
        assert!(!entry.may_be_hidden(501 + most));
    }

    /// What was forgotten isn't known: the store accepts a second record at a microsecond of an older block (trap 8).
    #[test]
    fn what_was_forgotten_is_read_again() {
        let mut entry = OccupiedTimestamps::default();
        entry.begin_generation(None);
        for n in 0..40_000 {
            assert_eq!(entry.choose(&id(n), 10 * n), TimestampChoice::Free(10 * n));
            entry.occupy(10 * n);
            entry.make_room(MAX_RANGES);
            assert!(entry.occupied.len() <= MAX_RANGES);
        }
        assert_eq!(entry.choose(&id(40_000), 0), TimestampChoice::Unknown(0));
        assert_eq!(entry.choose(&id(40_000), 399_990), TimestampChoice::Free(399_991), "the latest are known");
        entry.learn(0..20_000, (0..2_000).map(|n| seen(10 * n, n)).collect());
        assert_eq!(entry.choose(&id(40_000), 0), TimestampChoice::Free(1));
    }

    #[test]
    fn what_was_read_is_forgotten_when_nothing_more_is_read() {
        let mut entry = entry(100_000);
        entry.learn(0..50_000, vec![seen(7, 7)]);
        (0..=QUIET_BATCHES).for_each(|_| entry.make_room(MAX_RANGES));
        assert_eq!(entry.choose(&id(7), 7), TimestampChoice::Unknown(7));
        assert!(entry.found.is_empty());
    }

    #[test]
    fn each_of_many_entries_keeps_few_ranges() {
        let mut entry = OccupiedTimestamps::default();
        entry.begin_generation(None);
        for offset in 0..1_000 {
            let TimestampChoice::Free(time) = entry.choose(&id(offset), offset * 10) else {
                panic!("nothing is unknown")
            };
            entry.occupy(time);
            entry.make_room(20);
            assert!(entry.occupied.len() <= 20);
        }
        assert_eq!(entry.choose(&id(5), 50), TimestampChoice::Unknown(50), "it has to be read");
        assert_eq!(entry.choose(&id(2_000), 9_990), TimestampChoice::Free(9_991));
    }

    #[test]
    fn memory_is_bounded_while_much_is_read() {
        let mut entry = entry(u64::MAX / 2);
        for page in 0..100u64 {
            let times = (0..1_000).map(|n| page * 1_000_000 + n * 1_000);
            entry.learn(page * 1_000_000..(page + 1) * 1_000_000, times.map(|time| seen(time, time)).collect());
            entry.make_room(MAX_RANGES);
            assert!(entry.found.len() <= MAX_FOUND && entry.occupied.len() <= MAX_RANGES);
        }
        assert!(entry.found.len() >= 500, "the latest page is known");
    }

    /// In a shared entry a partition that compares nothing may have looked first, and only at the heads.
    #[test]
    fn a_head_that_was_read_does_not_stand_for_the_bytes() {
        let mut entry = entry(100);
        entry.learn(0..101, vec![seen(50, 5)]);
        assert_eq!(entry.choose(&id(5), 50), TimestampChoice::Present(50));
        assert!(entry.is_unread(50) && !entry.is_damaged(50, b"other bytes"));
        entry.doubt(50);
        assert_eq!(entry.choose(&id(5), 50), TimestampChoice::Unknown(50), "the writer reads it again, with its bytes");
        let damaged = QueriedRecord { content: Content::Unreadable, ..seen(50, 5) };
        entry.learn(50..51, vec![damaged]);
        assert_eq!(entry.choose(&id(5), 50), TimestampChoice::Present(50));
        assert!(!entry.is_unread(50) && entry.is_damaged(50, b"other bytes"));
    }

    #[test]
    fn damage_shows_where_the_bytes_were_read() {
        let mut entry = entry(100);
        let content = Content::Read { checksum: checksum(b"whole"), sketch: 0 };
        let read = |time, content| QueriedRecord { content, ..seen(time, time) };
        entry.learn(0..101, vec![read(1, content), read(2, Content::Unreadable), read(3, Content::Unread)]);
        assert!(!entry.is_damaged(1, b"whole") && entry.is_damaged(1, b"other") && entry.is_damaged(2, b"whole"));
        assert!(!entry.is_damaged(3, b"other"), "nobody looked");
    }
}
