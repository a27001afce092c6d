//! Reads back what was written: a record counts as written only then.
//!
//! ReductStore answers 200 before it knows whether a record's bytes reached the disk, and marks the record as broken where
//! they didn't (a full disk). The cheapest proof is a count: for a range of a partition's offsets the store is asked
//! for every `n`-th record, and it shows one only if all `n` are there. Where it shows none, the heads of the records are read, and
//! records that aren't among them are written again. Where the entry's blocks overlap in time, as late records make them do, each
//! query costs as much as all blocks before it: then each record is asked for by itself, a few at a time, if that was faster
//! so far.
//!
//! Guarantees: no record is acknowledged that a query doesn't show, whole; one that may be hidden by an unfinished record
//! is proved by a query only; memory for the proof doesn't grow with the entry.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use tracing::warn;

use super::batch::note_state;
use super::pending::PendingWrite;
use super::place::{HEADS, NEAR_US};
use super::{RequestSharing, Writer};
use crate::flow::RangeSet;
use crate::record::{Identity, TopicId, TopicPartition};
use crate::sink::joint;
use crate::sink::parts::{SMALL, ShownPart};
use crate::sink::store::{Claim, Occupant, QueriedRecord, StoreError};

/// When the store has acknowledged this many records that aren't read back yet, they are read back; where a query is costly, only at up to
/// [`MOST_TIMES`] as many.
const MOST_UNVERIFIED: usize = 640;
const MOST_TIMES: u128 = 16;
/// A query that takes longer than this is costly.
const CHEAP: Duration = Duration::from_millis(20);
/// How long that keeps an entry from being read back together with others.
const COSTLY_FOR: Duration = Duration::from_secs(60);
/// How long a record that isn't shown is given to be finished: the server may answer before it is.
const FINISHING: Duration = Duration::from_millis(100);
/// How many single records are asked for at the same time: most of the time of such a question is waiting.
const SINGLES_AT_ONCE: usize = 8;
/// After this many proofs by single records a query is tried again.
const TRY_QUERY_AFTER: u32 = 50;
/// If a partition has more ranges of strangers' offsets than this, all offsets between them count as strangers', too.
const MOST_STRANGERS: usize = 1_000;

/// What a writer remembers to read records back at the least cost.
#[derive(Debug, Default)]
pub(super) struct Verifier {
    /// The highest offset of each partition that is known to be in the entry. A count of offsets above it counts no other
    /// record.
    known_to: HashMap<TopicPartition, u64>,
    /// Offsets above it of which a record was seen in the entry that this writer hasn't acknowledged: a late request of another host, for
    /// example, may have written it.
    strangers: HashMap<TopicPartition, HashMap<Option<TopicId>, RangeSet>>,
    /// How long the last query took.
    query: Option<Duration>,
    /// When that query was asked.
    queried: Option<Instant>,
    /// How long each record took on average the last time that many were asked for by themselves.
    single: Option<Duration>,
    /// How often in a row records were asked for by themselves.
    singles_in_a_row: u32,
}

impl Verifier {
    /// Takes note that this record is in the entry.
    pub fn note(&mut self, identity: &Identity) {
        match self.known_to.get_mut(&identity.source) {
            Some(known) => *known = identity.offset.max(*known),
            None => drop(self.known_to.insert(identity.source.clone(), identity.offset)),
        }
        // Offsets at or below that one aren't counted any more.
        let Some(strangers) = self.strangers.get_mut(&identity.source) else { return };
        let end = self.known_to.get(&identity.source).map_or(0, |known| known.saturating_add(1));
        strangers.retain(|_, offsets| {
            offsets.remove_below(end);
            !offsets.is_empty()
        });
        if strangers.is_empty() {
            self.strangers.remove(&identity.source);
        }
    }

    /// Takes note of a record in the entry that this writer doesn't wait for.
    pub fn note_stranger(&mut self, identity: &Identity) {
        let Identity { source, topic_id, offset, .. } = identity;
        if self.known_to.get(source).is_some_and(|known| offset <= known) {
            return;
        }
        let strangers = self.strangers.entry(source.clone()).or_default().entry(*topic_id).or_default();
        strangers.insert(*offset..offset.saturating_add(1));
        if strangers.len() > MOST_STRANGERS {
            let first = strangers.ranges().next().map_or(0, |range| range.start);
            let end = strangers.ranges().next_back().map_or(0, |range| range.end);
            strangers.insert(first..end);
        }
    }

    /// What to count for these records, in their order of time; `None`: a count would prove nothing. `beside_earlier`: what was written
    /// before this host began may stand between them.
    fn claim<'a>(
        &self,
        records: impl Iterator<Item = (&'a Identity, u64)> + Clone,
        beside_earlier: bool,
    ) -> Option<Claim> {
        let (Identity { source, topic_id, .. }, earliest) = records.clone().next()?;
        let latest = records.clone().last()?.1;
        if !records.clone().all(|(identity, _)| identity.source == *source && identity.topic_id == *topic_id) {
            return None;
        }
        let offsets = records.clone().map(|(identity, _)| identity.offset);
        let (first, last) = (offsets.clone().min()?, offsets.max()?);
        // Another record among those that are counted could stand for a missing one.
        if self.known_to.get(source).is_some_and(|known| first <= *known) {
            return None;
        }
        let strangers = self.strangers.get(source).and_then(|of_topics| of_topics.get(topic_id));
        if strangers.is_some_and(|strangers| strangers.ranges().any(|range| range.start <= last && first < range.end)) {
            return None;
        }
        let is_whole = records.clone().all(|(identity, _)| identity.index.is_none());
        let (times, records) = (around(earliest, latest), records.count());
        // A record that isn't written here this time, dropped by a plugin or compacted away, may be here from before.
        let has_gaps = !is_whole || u64::try_from(records).ok()? <= last - first;
        if beside_earlier && has_gaps {
            return None;
        }
        Some(Claim { source: source.clone(), topic_id: *topic_id, offsets: first..=last, times, records })
    }

    /// Whether a query that includes this entry would make others wait.
    fn is_costly(&self, now: Instant) -> bool {
        // A machine that was busy for a moment makes a query slow too, and an entry that is never asked learns nothing else.
        self.query > Some(CHEAP) && self.queried.is_some_and(|at| now.duration_since(at) < COSTLY_FOR)
    }

    /// At how many records that aren't read back yet they are read back at the latest.
    fn most_unverified(&self) -> usize {
        let times = self.query.map_or(1, |query| (query.as_millis() / CHEAP.as_millis()).clamp(1, MOST_TIMES));
        MOST_UNVERIFIED.saturating_mul(usize::try_from(times).unwrap_or(1))
    }

    /// Whether asking for each record is faster than a query.
    fn prefers_singles(&mut self, records: usize) -> bool {
        let records = u32::try_from(records).unwrap_or(u32::MAX);
        let is_faster = records == 1
            || self.query.zip(self.single).is_some_and(|(query, single)| single.saturating_mul(records) < query);
        self.singles_in_a_row = if is_faster && records > 1 { self.singles_in_a_row + 1 } else { 0 };
        if self.singles_in_a_row > TRY_QUERY_AFTER {
            self.singles_in_a_row = 0;
            return false;
        }
        is_faster
    }
}

impl Writer {
    /// Whether what is unverified is to be read back now.
    pub(super) fn is_time_to_verify(&self) -> bool {
        let nothing_else = self.pending.is_empty() && self.inbox.is_empty();
        let bytes = || self.unverified.iter().map(PendingWrite::bytes).sum::<u64>();
        !self.unverified.is_empty()
            && (nothing_else
                || self.unverified.len() >= self.verifier.most_unverified()
                || bytes() >= self.shared.limits().bytes)
    }

    /// Reads back what the store has acknowledged: acknowledges the records that it shows, and queues the others again.
    pub(super) async fn verify(&mut self) -> Result<(), StoreError> {
        // Records of partitions that were taken away are the next owner's business.
        let mut records = std::mem::take(&mut self.unverified);
        records.retain(|record| record.state().may_write());
        records.sort_by_key(|record| record.time_us);
        let missing = match self.missing(&records).await {
            Ok(missing) => missing,
            Err(error) => {
                self.unverified = records;
                return Err(error);
            }
        };
        let mut again = Vec::new();
        for (mut record, is_missing) in records.into_iter().zip(missing) {
            if is_missing && record.state().is_of_letter_beside_live() {
                record.withdraw(&mut self.occupied);
                Self::leave_hidden(record);
            } else if is_missing {
                self.attachments.look_again();
                warn!(entry = %self.entry, record = %record.prepared.identity, "acknowledged but not shown: writing it again");
                record.withdraw(&mut self.occupied);
                again.push(record);
            } else {
                self.note_stored(record, false);
            }
        }
        self.settle();
        // In Kafka's order, before what waits.
        again.sort_by(|one, other| one.prepared.identity.cmp(&other.prepared.identity));
        for record in again.into_iter().rev() {
            note_state(&mut self.waiting_states, record.state());
            self.pending.push_front(record);
        }
        Ok(())
    }

    /// Which of these records, in their order of time, can't be read.
    pub(super) async fn missing(&mut self, records: &[PendingWrite]) -> Result<Vec<bool>, StoreError> {
        if self.are_shown(records).await? {
            return Ok(vec![false; records.len()]);
        }
        let mut seen = self.heads_of(records).await?;
        if records.iter().any(|record| !is_shown(record, &seen)) {
            tokio::time::sleep(FINISHING).await;
            seen = self.heads_of(records).await?;
        }
        Ok(records.iter().map(|record| !is_shown(record, &seen)).collect())
    }

    /// Finds out at the lowest cost whether all of these records are shown. `false`: they may be or not.
    async fn are_shown(&mut self, records: &[PendingWrite]) -> Result<bool, StoreError> {
        let Some(last) = records.last() else { return Ok(true) };
        let needs_no_query = records.iter().all(|record| !record.must_be_shown);
        if needs_no_query
            && let Some(part) = self.shown_part(records)
            && let Some(answer) = joint::ask(&self.shared, part).await
        {
            let is_among = |record: &PendingWrite, shown: &[QueriedRecord]| {
                shown.iter().any(|seen| Some(seen.timestamp_us) == record.time_us && record.is(seen))
            };
            match answer {
                Ok(Some(shown)) => return Ok(records.iter().all(|record| is_among(record, &shown))),
                Ok(None) => {}
                // Another entry may be the reason: that shows when this one asks by itself. The store may still be at work on the request.
                Err(_) => tokio::time::sleep(self.backoff.wait()).await,
            }
        }
        if needs_no_query && self.verifier.prefers_singles(records.len()) {
            return self.are_there(records).await;
        }
        // Between the offsets of dead letters that are sent again lie others, whose records a count would take for theirs.
        if records.iter().any(|record| record.state().is_of_letter()) {
            return Ok(false);
        }
        let placed = records.iter().filter_map(|record| Some((&record.prepared.identity, record.time_us?)));
        let is_below_own = records.first().and_then(|first| first.time_us) <= Some(self.occupied.own_from());
        let is_old = |record: &PendingWrite| record.state().may_have_been_written(record.prepared.identity.offset);
        let beside_earlier = is_below_own && records.iter().any(is_old);
        let Some(claim) = self.verifier.claim(placed, beside_earlier) else { return Ok(false) };
        let begin = Instant::now();
        let shown = self.shared.store.last_of(&self.entry, &claim).await?;
        (self.verifier.query, self.verifier.queried) = (Some(begin.elapsed()), Some(begin));
        if needs_no_query && self.verifier.single.is_none() && self.verifier.query > Some(CHEAP) {
            // Costly: learn what a single record would cost.
            self.are_there(records.get(..SINGLES_AT_ONCE).unwrap_or(records)).await?;
        }
        Ok(shown.is_some_and(|seen| Some(seen.timestamp_us) == last.time_us && last.is(&seen)))
    }

    /// The part that these records are of a query which other writers share; `None`: they are asked for by themselves.
    fn shown_part(&self, records: &[PendingWrite]) -> Option<ShownPart> {
        let is_shared = self.is_small_turn
            && self.request_sharing == RequestSharing::Shared
            && records.len() <= SMALL
            && self.shared.sharing_reads.is_on()
            && !self.verifier.is_costly(Instant::now());
        is_shared.then_some(())?;
        let (first, last) = (records.first()?, records.last()?);
        let state = first.state();
        // A stranger's record in this entry could be counted in place of a missing one of another entry.
        (!self.verifier.strangers.contains_key(&state.source)).then_some(())?;
        let is_plain = |record: &PendingWrite| {
            Arc::ptr_eq(record.state(), state) && !record.prepared.is_dead_letter() && !state.is_of_letter()
        };
        let offsets = || records.iter().map(|record| record.prepared.identity.offset);
        records.iter().all(is_plain).then_some(())?;
        Some(ShownPart {
            entry: self.entry.clone(),
            state: Arc::clone(state),
            own_from: self.occupied.own_from(),
            times: first.time_us?..=last.time_us?,
            offsets: offsets().min()?..=offsets().max()?,
            records: records.len(),
        })
    }

    /// Takes note of records that a look into the entry has shown, apart from this writer's own that aren't read back yet.
    pub(super) fn note_strangers(&mut self, seen: &[QueriedRecord]) {
        // Records are shown in the order of their times. Thousands may be unverified, and hardly any of them were looked at here.
        let (Some(first), Some(last)) = (seen.first(), seen.last()) else { return };
        let times = first.timestamp_us..=last.timestamp_us;
        let own = self.unverified.iter().filter_map(|record| Some((record.time_us?, record)));
        let own: HashMap<u64, &PendingWrite> = own.filter(|(time, _)| times.contains(time)).collect();
        let strangers =
            seen.iter().filter(|seen| !own.get(&seen.timestamp_us).is_some_and(|record| record.is_of(seen)));
        strangers.filter_map(|seen| seen.identity.as_ref()).for_each(|identity| self.verifier.note_stranger(identity));
    }

    /// Whether each of these can be read by itself.
    async fn are_there(&mut self, records: &[PendingWrite]) -> Result<bool, StoreError> {
        let (shared, begin) = (Arc::clone(&self.shared), Instant::now());
        let (store, entry) = (&shared.store, &self.entry);
        let is_there = async |record: &PendingWrite| {
            let Some(time) = record.time_us else { return Ok(false) };
            let occupant = store.occupant(entry, time).await?;
            Ok(matches!(occupant, Occupant::Record(seen) if record.is(&seen)))
        };
        let mut answers = stream::iter(records).map(is_there).buffer_unordered(SINGLES_AT_ONCE);
        while let Some(answer) = answers.next().await {
            if !answer? {
                return Ok(false);
            }
        }
        drop(answers);
        // One record alone takes as long as eight together.
        if records.len() >= SINGLES_AT_ONCE {
            self.verifier.single = Some(begin.elapsed() / u32::try_from(records.len()).unwrap_or(u32::MAX).max(1));
        }
        Ok(true)
    }

    /// What a query shows at the times of these records and between them, by time.
    async fn heads_of(&mut self, records: &[PendingWrite]) -> Result<BTreeMap<u64, QueriedRecord>, StoreError> {
        let times: Vec<u64> = records.iter().filter_map(|record| record.time_us).collect();
        let mut shown = BTreeMap::new();
        for near in times.chunk_by(|one, next| next - one <= NEAR_US) {
            let (Some(first), Some(last)) = (near.first(), near.last()) else { continue };
            let Range { start: mut from, end } = around(*first, *last);
            while from < end {
                let page = self.shared.store.heads(&self.entry, from..end, HEADS).await?;
                let ours = page.seen.into_iter().filter(|seen| near.binary_search(&seen.timestamp_us).is_ok());
                shown.extend(ours.map(|seen| (seen.timestamp_us, seen)));
                from = page.until;
            }
        }
        Ok(shown)
    }
}

/// Whether the record is among what a query showed, whole.
fn is_shown(record: &PendingWrite, seen: &BTreeMap<u64, QueriedRecord>) -> bool {
    record.time_us.and_then(|time| seen.get(&time)).is_some_and(|seen| record.is(seen))
}

/// From before the first to behind the last of these times: what hides the first record of a block may stand at the end of
/// the block before.
pub(in crate::sink) fn around(first: u64, last: u64) -> Range<u64> {
    first.saturating_sub(1)..last.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(topic: &str, offset: u64) -> Identity {
        let source = TopicPartition { topic: topic.into(), partition: 0 };
        Identity { source, topic_id: None, offset, index: None }
    }

    fn claim(verifier: &Verifier, records: &[(Identity, u64)]) -> Option<Claim> {
        verifier.claim(records.iter().map(|(identity, time)| (identity, *time)), false)
    }

    #[test]
    fn a_count_is_asked_for_only_where_it_proves_something() {
        let mut verifier = Verifier::default();
        let records = [(id("t", 7), 100), (id("t", 5), 120), (id("t", 9), 130)];
        let asked = claim(&verifier, &records).unwrap();
        assert_eq!((asked.offsets, asked.times, asked.records), (5..=9, 99..131, 3));
        verifier.note(&id("t", 4));
        assert!(claim(&verifier, &records).is_some());
        verifier.note(&id("t", 6));
        assert!(claim(&verifier, &records).is_none(), "6 would be counted, and could stand for a missing one");
        assert!(claim(&verifier, &[(id("t", 8), 1), (id("u", 9), 2)]).is_none(), "of two partitions");
        assert!(claim(&verifier, &[]).is_none());
    }

    /// Record 6 was written here before, and its plugin drops it now: it would be counted in place of one that is missing.
    #[test]
    fn no_count_is_asked_for_where_an_earlier_record_may_stand_for_a_missing_one() {
        let claim = |records: &[(Identity, u64)], beside_earlier| {
            let placed = records.iter().map(|(identity, time)| (identity, *time));
            Verifier::default().claim(placed, beside_earlier).is_some()
        };
        let with_gap = [(id("t", 5), 100), (id("t", 7), 120)];
        assert!(!claim(&with_gap, true) && claim(&with_gap, false));
        assert!(claim(&[(id("t", 5), 100), (id("t", 6), 110), (id("t", 7), 120)], true), "nothing stands between them");
        let part = |index| (Identity { index: Some(index), ..id("t", 5) }, 100 + u64::from(index));
        assert!(!claim(&[part(0), part(1)], true), "another version may have made more parts");
    }

    /// A late request of another host wrote 6, and its plugin drops it now: it would be counted in place of one that is missing.
    #[test]
    fn no_count_is_asked_for_where_somebody_elses_record_was_seen() {
        let mut verifier = Verifier::default();
        let of = |first, last| [(id("t", first), 100), (id("t", last), 120)];
        verifier.note_stranger(&id("t", 6));
        assert!(claim(&verifier, &of(5, 7)).is_none());
        assert!(claim(&verifier, &of(3, 5)).is_some() && claim(&verifier, &of(7, 9)).is_some());
        assert!(claim(&verifier, &[(id("u", 5), 100), (id("u", 7), 120)]).is_some(), "of another topic");
        let of_another = Identity { topic_id: TopicId::from_halves(7, 7), ..id("t", 4) };
        verifier.note_stranger(&of_another);
        assert!(claim(&verifier, &of(3, 5)).is_some(), "of a topic that was created again");
        verifier.note(&id("t", 6));
        assert!(verifier.strangers.is_empty(), "it is the writer's own");
        verifier.note_stranger(&id("t", 5));
        assert!(verifier.strangers.is_empty(), "nothing below what is known is counted");
        let most = u64::try_from(MOST_STRANGERS).unwrap();
        (0..=most).for_each(|at| verifier.note_stranger(&id("t", 10 + 2 * at)));
        assert_eq!(
            verifier.strangers.values().flat_map(HashMap::values).map(RangeSet::len).sum::<usize>(),
            1,
            "their number is bounded"
        );
        assert!(claim(&verifier, &of(11, 13)).is_none() && claim(&verifier, &of(7, 9)).is_some());
    }

    #[test]
    fn an_entry_whose_queries_are_costly_is_not_read_back_with_others_for_a_while() {
        let (mut verifier, now) = (Verifier::default(), Instant::now());
        assert!(!verifier.is_costly(now), "nothing is known yet");
        (verifier.query, verifier.queried) = (Some(CHEAP * 2), Some(now));
        assert!(verifier.is_costly(now) && !verifier.is_costly(now + COSTLY_FOR));
        verifier.query = Some(CHEAP);
        assert!(!verifier.is_costly(now));
    }

    #[test]
    fn single_records_are_asked_for_while_that_is_faster() {
        let mut verifier = Verifier::default();
        assert!(verifier.prefers_singles(1) && !verifier.prefers_singles(2), "nothing is known yet");
        verifier.query = Some(Duration::from_secs(1));
        verifier.single = Some(Duration::from_millis(1));
        assert!(verifier.prefers_singles(100) && !verifier.prefers_singles(2_000));
        let in_a_row = (0..1_000).take_while(|_| verifier.prefers_singles(100)).count();
        assert_eq!(in_a_row, TRY_QUERY_AFTER as usize, "a query is tried again");
        assert_eq!(verifier.most_unverified(), MOST_UNVERIFIED * 16);
    }
}
