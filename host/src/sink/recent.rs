//! What was written last into each entry. A store that is killed, or that removes a record, can lose or damage any record
//! of the blocks that were open. An entry that gets few records keeps its block open for long, so such records can be old.
//!
//! Guarantees: of each entry that was written to within [`TOUCHED`], the records written last are remembered, as many as
//! two blocks hold, and the same number of those that were found there last, each with the moment it was written or found.
//! If there are more than [`MEMORY`] in all, the entries written to longest ago are forgotten. Plain values without I/O.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::flow::crash_risk::BLOCK_AT_WORK;
use crate::record::entry_name::EntryName;
use crate::record::{Identity, TopicPartition};

/// For how long after the last write the server may still be at work on an entry's blocks.
const TOUCHED: Duration = BLOCK_AT_WORK;
/// How many records are remembered over all entries; each takes about 100 B.
const MEMORY: usize = 300_000;
/// How many places of a payload its sketch looks at, and how many bytes at each.
const PLACES: usize = 16;
const PLACE: usize = 32;

/// A record that the store acknowledged, or showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The record's time, in microseconds since 1970.
    pub time_us: u64,
    /// Which Kafka record it was made of.
    pub identity: Identity,
    /// See [`sketch`].
    pub sketch: u64,
    /// It was in the entry already, written by this host or by an earlier owner of the partition.
    pub found: bool,
}

/// The records that were written a short while ago, by entry.
#[derive(Debug, Default)]
pub struct Recent {
    /// How many records of an entry are remembered.
    depth: usize,
    /// When that number last grew.
    deepened: Option<Instant>,
    entries: HashMap<EntryName, Entry>,
    total: usize,
    /// Records that others pushed out of their entry since the store was last looked at, and when: it may have crashed before those others
    /// were written.
    displaced: VecDeque<(Instant, EntryName, Written)>,
}

#[derive(Debug)]
struct Entry {
    written: VecDeque<(Instant, Written)>,
    /// Kept apart from the written records. After a crash a host writes the missing records into an old block, and then finds
    /// thousands of newer ones already present. In one list those would push out the rewritten ones, which are at risk: the
    /// old block isn't saved yet, and finding records doesn't make the server save it.
    found: VecDeque<(Instant, Written)>,
    /// A record that stands in a closed block: two blocks of others were written behind it before a look showed that the store ran.
    settled: Option<Written>,
    touched: Instant,
    /// `None`: it has to be found out.
    lowest: Option<Lowest>,
}

/// The lowest offset of each partition that was written to an entry or found there within [`TOUCHED`].
#[derive(Debug, Default)]
struct Lowest {
    offsets: Vec<(TopicPartition, u64)>,
    /// When the first of those records was written or found; `None`: there is none.
    first: Option<Instant>,
}

impl Lowest {
    fn add(&mut self, identity: &Identity, at: Instant) {
        match self.offsets.iter_mut().rev().find(|(source, _)| *source == identity.source) {
            Some((_, offset)) => *offset = identity.offset.min(*offset),
            None => self.offsets.push((identity.source.clone(), identity.offset)),
        }
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
    }
}

impl Entry {
    fn len(&self) -> usize {
        self.written.len() + self.found.len()
    }

    /// This is asked every second of thousands of entries, and most of them have not changed.
    fn lowest(&mut self, now: Instant) -> &[(TopicPartition, u64)] {
        let is_present = |known: &Lowest| known.first.is_none_or(|first| now.duration_since(first) <= TOUCHED);
        if !self.lowest.as_ref().is_some_and(is_present) {
            self.lowest = None;
        }
        let (written, found) = (&self.written, &self.found);
        let known = self.lowest.get_or_insert_with(|| {
            let mut lowest = Lowest::default();
            let records = written.iter().chain(found).filter(|(at, _)| now.duration_since(*at) <= TOUCHED);
            records.for_each(|(at, record)| lowest.add(&record.identity, *at));
            lowest
        });
        &known.offsets
    }
}

impl Recent {
    /// `depth`: what two blocks hold.
    #[cfg(test)]
    pub fn new(depth: usize) -> Self {
        Self { depth, ..Self::default() }
    }

    /// Two blocks hold this many records from now on, or as many as before if that is more.
    pub fn deepen(&mut self, depth: usize, now: Instant) {
        if depth > self.depth {
            (self.depth, self.deepened) = (depth, Some(now));
            // They may stand in a block that is open and has become larger.
            self.entries.values_mut().for_each(|entry| entry.settled = None);
        }
    }

    /// Adds records that were written and acknowledged.
    pub fn wrote(&mut self, entry: &EntryName, records: impl IntoIterator<Item = Written>, now: Instant) {
        if !self.entries.contains_key(entry) {
            let (written, found) = (VecDeque::new(), VecDeque::new());
            self.entries.insert(entry.clone(), Entry { written, found, settled: None, touched: now, lowest: None });
        }
        let Some(known) = self.entries.get_mut(entry) else { return };
        known.touched = now;
        let before = known.len();
        let (found, written): (Vec<Written>, Vec<Written>) = records.into_iter().partition(|record| record.found);
        for (remembered, records) in [(&mut known.written, written), (&mut known.found, found)] {
            if let Some(lowest) = &mut known.lowest {
                records.iter().for_each(|record| lowest.add(&record.identity, now));
            }
            remembered.extend(records.into_iter().map(|record| (now, record)));
            for (_, record) in remembered.drain(..remembered.len().saturating_sub(self.depth)) {
                self.displaced.push_back((now, entry.clone(), record));
                // It may have been the one with the lowest offset.
                known.lowest = None;
            }
        }
        self.displaced.drain(..self.displaced.len().saturating_sub(MEMORY));
        self.total = (self.total + known.len()).saturating_sub(before);
        if self.total > MEMORY {
            self.forget_oldest();
        }
    }

    /// The store was asked at this moment, and what followed from its answer was done: what had been pushed out by then is settled, unless
    /// the store `has_crashed`, as it may have lost some of that.
    pub fn looked(&mut self, asked: Instant, has_crashed: bool) {
        let until = self.displaced.partition_point(|(at, ..)| *at < asked);
        for (pushed_out, name, record) in self.displaced.drain(..until) {
            // Records that were found may stand near one that was written again into an old block.
            let is_settled = !has_crashed && !record.found && self.deepened.is_none_or(|at| at < pushed_out);
            if let Some(entry) = self.entries.get_mut(&name).filter(|_| is_settled) {
                entry.settled = Some(record);
            }
        }
        // After a burst most of the room isn't needed; a little of it is kept, because the store is asked every few seconds.
        self.displaced.shrink_to(MEMORY / 100);
    }

    /// The remembered records of each entry that `wanted` picks, of the entries whose blocks may be at work; those that were
    /// found apart, for they may be far from the others.
    pub fn at_risk(&self, now: Instant, wanted: impl Fn(&Identity) -> bool) -> Vec<(EntryName, Vec<Written>)> {
        let touched = self.entries.iter().filter(|(_, entry)| now.duration_since(entry.touched) <= TOUCHED);
        let groups = touched.flat_map(|(name, entry)| [(name, &entry.written), (name, &entry.found)]);
        let picked = groups.map(|(name, records)| {
            let records = records.iter().map(|(_, record)| record).filter(|record| wanted(&record.identity));
            (name.clone(), records.cloned().collect())
        });
        let mut displaced: HashMap<EntryName, Vec<Written>> = HashMap::new();
        for (_, name, record) in self.displaced.iter().filter(|(_, _, record)| wanted(&record.identity)) {
            displaced.entry(name.clone()).or_default().push(record.clone());
        }
        picked.filter(|(_, records): &(EntryName, Vec<Written>)| !records.is_empty()).chain(displaced).collect()
    }

    /// Records that were removed from the entry on purpose: that they are missing proves nothing from now on.
    pub fn forget(&mut self, entry: &EntryName, times: &[u64]) {
        let stays = |record: &Written| !times.contains(&record.time_us);
        self.displaced.retain(|(_, name, record)| name != entry || stays(record));
        let Some(known) = self.entries.get_mut(entry) else { return };
        let before = known.len();
        known.written.retain(|(_, record)| stays(record));
        known.found.retain(|(_, record)| stays(record));
        known.settled = known.settled.take().filter(stays);
        known.lowest = None;
        self.total = (self.total + known.len()).saturating_sub(before);
    }

    /// One record of each entry that no crash takes, of at most `most` entries: those that were written to last.
    pub fn settled(&self, most: usize) -> Vec<(EntryName, Written)> {
        let mut entries: Vec<(&EntryName, &Entry)> = self.entries.iter().collect();
        entries.sort_unstable_by_key(|(_, entry)| std::cmp::Reverse(entry.touched));
        let settled = entries.into_iter().filter_map(|(name, entry)| Some((name.clone(), entry.settled.clone()?)));
        settled.take(most).collect()
    }

    /// The partitions whose records are remembered of this entry.
    pub fn sources(&self, entry: &EntryName) -> HashSet<TopicPartition> {
        let records = self.entries.get(entry).into_iter().flat_map(|entry| entry.written.iter().chain(&entry.found));
        records.map(|(_, record)| record.identity.source.clone()).collect()
    }

    /// The lowest offset of each partition that was written or found within [`TOUCHED`] and is remembered.
    pub fn lowest(&mut self, now: Instant) -> HashMap<TopicPartition, u64> {
        let mut lowest: HashMap<TopicPartition, u64> = HashMap::new();
        for (source, first) in self.entries.values_mut().flat_map(|entry| entry.lowest(now)) {
            match lowest.get_mut(source) {
                Some(offset) => *offset = (*first).min(*offset),
                None => drop(lowest.insert(source.clone(), *first)),
            }
        }
        lowest
    }

    fn forget_oldest(&mut self) {
        let mut by_age: Vec<(Instant, EntryName)> =
            self.entries.iter().map(|(name, entry)| (entry.touched, name.clone())).collect();
        by_age.sort_unstable_by_key(|(touched, _)| *touched);
        for (_, name) in by_age {
            if self.total <= MEMORY / 2 {
                break;
            }
            let forgotten = self.entries.remove(&name).map_or(0, |entry| entry.len());
            self.total = self.total.saturating_sub(forgotten);
        }
    }
}

/// A hasher with this process's own seed: a producer can't make two payloads that it takes for one.
pub fn hasher() -> DefaultHasher {
    static SEEDED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    SEEDED.build_hasher()
}

/// A hash of a payload's length and of samples, some 540 bytes: it tells a payload from one that is cut, moved or overwritten from
/// some place on, at a cost that doesn't grow with the payload. It doesn't notice a damage between the samples.
pub fn sketch(payload: &[u8]) -> u64 {
    let mut hasher = hasher();
    hasher.write_usize(payload.len());
    let step = (payload.len() / PLACES).max(PLACE);
    for chunk in payload.chunks(step) {
        hasher.write(chunk.get(..PLACE).unwrap_or(chunk));
    }
    hasher.write(payload.get(payload.len().saturating_sub(PLACE)..).unwrap_or_default());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(partition: u32, offset: u64) -> Written {
        let source = TopicPartition { topic: "t".into(), partition };
        Written {
            time_us: offset,
            identity: Identity { source, topic_id: None, offset, index: None },
            sketch: 0,
            found: false,
        }
    }

    /// A look that follows what was done until now.
    fn look(recent: &mut Recent, now: Instant) {
        recent.looked(now + Duration::from_millis(1), false);
    }

    fn name(text: &str) -> EntryName {
        EntryName::parse(text).unwrap()
    }

    #[test]
    fn the_last_records_of_entries_that_are_at_work_are_at_risk() {
        let (mut recent, start) = (Recent::new(3), Instant::now());
        recent.wrote(&name("rare"), [written(0, 5)], start);
        recent.wrote(&name("busy"), (100..200).map(|offset| written(0, offset)), start);
        look(&mut recent, start);
        let offsets = |recent: &Recent, now, below| -> Vec<(String, Vec<u64>)> {
            let mut risk: Vec<_> = recent
                .at_risk(now, |identity| identity.offset < below)
                .into_iter()
                .map(|(name, records)| (name.to_string(), records.iter().map(|r| r.identity.offset).collect()))
                .collect();
            risk.sort();
            risk
        };
        assert_eq!(offsets(&recent, start, 199), [("busy".into(), vec![197, 198]), ("rare".into(), vec![5])]);
        assert_eq!(offsets(&recent, start, 100), [("rare".into(), vec![5])]);
        let later = start + TOUCHED + Duration::from_secs(1);
        recent.wrote(&name("busy"), [written(1, 7)], later);
        look(&mut recent, later);
        assert_eq!(offsets(&recent, later, 199), [("busy".into(), vec![198, 7])], "the rare one is at rest");
        assert_eq!(recent.total, 4);
        let of = |partition| TopicPartition { topic: "t".into(), partition };
        assert_eq!(recent.lowest(start), HashMap::from([(of(0), 5), (of(1), 7)]));
        assert_eq!(recent.lowest(later), HashMap::from([(of(1), 7)]), "what was written long ago was saved since");
        recent.wrote(&name("rare"), [written(0, 4)], later);
        assert_eq!(recent.lowest(later), HashMap::from([(of(0), 4), (of(1), 7)]));
        recent.forget(&name("rare"), &[4]);
        assert_eq!(recent.lowest(later), HashMap::from([(of(1), 7)]));
    }

    /// The store crashes, starts again, and takes more than two blocks of records before it is looked at.
    #[test]
    fn what_is_pushed_out_is_at_risk_until_the_store_is_looked_at() {
        let (mut recent, now) = (Recent::new(3), Instant::now());
        recent.wrote(&name("e"), (0..9).map(|offset| written(0, offset)), now);
        let offsets = |recent: &Recent| -> Vec<u64> {
            let at_risk = recent.at_risk(now, |identity| identity.offset < 100).into_iter();
            let mut offsets: Vec<u64> =
                at_risk.flat_map(|(_, records)| records).map(|record| record.identity.offset).collect();
            offsets.sort_unstable();
            offsets
        };
        look(&mut recent, now);
        assert_eq!(offsets(&recent), [6, 7, 8]);
        recent.wrote(&name("e"), (100..200).map(|offset| written(0, offset)), now);
        assert_eq!(offsets(&recent), [6, 7, 8]);
        recent.forget(&name("e"), &[written(0, 7).time_us]);
        assert_eq!(offsets(&recent), [6, 8]);
        recent.looked(now, false);
        assert_eq!(offsets(&recent), [6, 8], "they were pushed out while the store was asked");
        look(&mut recent, now);
        assert!(offsets(&recent).is_empty());
    }

    #[test]
    fn what_is_found_pushes_out_nothing_that_was_written() {
        let (mut recent, now) = (Recent::new(3), Instant::now());
        let found = |offset| Written { found: true, ..written(0, offset) };
        recent.wrote(&name("e"), (0..5).map(|offset| written(0, offset)), now);
        recent.wrote(&name("e"), (5..200).map(found), now);
        look(&mut recent, now);
        let groups = recent.at_risk(now, |_| true);
        let offsets = groups.iter().map(|(_, records)| records.iter().map(|record| record.identity.offset).collect());
        assert_eq!(offsets.collect::<Vec<Vec<u64>>>(), [[2, 3, 4], [197, 198, 199]]);
        assert_eq!(recent.total, 6);
    }

    #[test]
    fn what_a_crash_may_have_taken_proves_nothing() {
        let (mut recent, now) = (Recent::new(3), Instant::now());
        let (entry, later) = (name("e"), |ms| now + Duration::from_millis(ms));
        let settled = |recent: &Recent| recent.settled(1).first().map(|(_, record)| record.identity.offset);
        recent.wrote(&entry, (0..5).map(|offset| written(0, offset)), now);
        recent.looked(later(1), false);
        assert_eq!(settled(&recent), Some(1));
        recent.wrote(&entry, (5..9).map(|offset| written(0, offset)), later(2));
        recent.looked(later(3), true);
        assert_eq!(
            settled(&recent),
            Some(1),
            "the others were pushed out by records that came after the crash, perhaps"
        );
        recent.wrote(&entry, (9..11).map(|offset| written(0, offset)), later(4));
        recent.deepen(4, later(5));
        recent.looked(later(6), false);
        assert_eq!(settled(&recent), None, "the blocks have become larger since");
        recent.wrote(&entry, (11..13).map(|offset| written(0, offset)), later(7));
        recent.looked(later(8), false);
        assert_eq!(settled(&recent), Some(8));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut recent, start) = (Recent::new(1000), Instant::now());
        for entry in 0..400 {
            let now = start + Duration::from_millis(entry);
            recent.wrote(&name(&format!("e{entry}")), (0..1000).map(|offset| written(0, offset)), now);
            assert!(recent.total <= MEMORY);
        }
        assert!(recent.entries.contains_key(&name("e399")) && !recent.entries.contains_key(&name("e0")));
    }

    #[test]
    fn a_sketch_notices_what_a_crash_does() {
        let payload: Vec<u8> = (0..100_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let whole = sketch(&payload);
        assert_eq!(sketch(&payload.clone()), whole);
        let mut moved = payload.clone();
        moved.rotate_left(8);
        let mut zeroed = payload.clone();
        zeroed[200_000..].fill(0);
        for damaged in [&moved[..], &zeroed, &payload[..payload.len() - 1], &[]] {
            assert_ne!(sketch(damaged), whole);
        }
        assert_ne!(sketch(b""), sketch(b"\0"));
    }

    #[test]
    fn what_was_removed_on_purpose_is_not_missed() {
        let (mut recent, now) = (Recent::new(2), Instant::now());
        let entry = name("letters");
        recent.wrote(&entry, (0..5).map(|time_us| Written { time_us, ..written(0, time_us) }), now);
        assert!(recent.settled(1).is_empty(), "the store may have crashed before it was pushed out");
        look(&mut recent, now);
        assert_eq!(recent.settled(1).first().map(|(_, record)| record.time_us), Some(2));
        recent.forget(&entry, &[2, 3]);
        assert!(recent.settled(1).is_empty());
        let left: Vec<u64> = recent.at_risk(now, |_| true).iter().flat_map(|(_, all)| all).map(|r| r.time_us).collect();
        assert_eq!((left, recent.total), (vec![4], 1));
    }
}
