//! The recovery task: re-reads from Kafka what the store may have lost.
//!
//! A ReductStore that is killed may lose or damage records that it has acknowledged, because it doesn't write its
//! write-ahead log, its block descriptors and their index atomically. The records at risk are those of the blocks that
//! it was writing: two blocks for each entry. Removing a record can do the same damage while the store still handles a
//! cut-off request to the same block.
//!
//! Once a second this task asks the store for its uptime and starts the re-reads that follow. When the store has
//! restarted, each partition is re-read from the position it had when the store was last known to run, less the number
//! of records that two blocks hold. If an entry gets few of a partition's records and has lost one that this host
//! remembers, the re-read begins at that record. When a record was removed, only the partitions of its entry are
//! re-read. The sink compares each re-read record with what the store has, payload included, and writes it again if it
//! is missing or differs. The commit metadata carries the store's start, so that the next owner of a partition notices
//! a restart, too.
//!
//! A host may take over partitions from one that was killed before that host's session has ended. Requests of the
//! killed host may then still reach the store and damage records. When no more of them can arrive, the recovery
//! re-reads what they may have damaged.
//!
//! Guarantees: a partition is given the store's new start only together with its re-read; between a failure of the
//! store and the next successful look at its uptime, only offsets are committed that had been acknowledged before an earlier look, and begins of re-reads that are owed.
//!
//! A re-read passes through four modules: this one decides from where, `flow::partition_state::reread` keeps what is owed,
//! `consumer::begin` ends the partition and begins it again, and `sink::writer::place` compares the records.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::flow::block_margin::BlockMargin;
use crate::flow::store_start::{Started, now_ms};
use crate::flow::{CommitPoint, PartitionState, Phase, Reread};
use crate::record::TopicPartition;
use crate::sink::Sink;
use crate::sink::store::StoreError;

/// How often the store is asked for its uptime.
const EVERY: Duration = Duration::from_secs(1);

/// How often the bucket is asked for the size of its blocks, and how long the answer is waited for.
const BLOCKS_EVERY: Duration = Duration::from_secs(30);
const BLOCKS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long records in flight may delay a re-read before the host discards them. Records that Kafka has no more are
/// never discarded, because they are the last copies.
const LONGEST_HOLD_UP: Duration = Duration::from_secs(30);

/// What the recovery asks the host about its partitions.
pub trait Partitions: Send + Sync + 'static {
    /// The partitions that this host reads now.
    fn states(&self) -> Vec<Arc<PartitionState>>;
    /// The first offset that Kafka has of a partition, as of a few seconds ago; `None`: not known.
    fn first_offset(&self, source: &TopicPartition) -> Option<u64>;
    /// Whether the host has ended.
    fn has_ended(&self) -> bool;
}

/// The recovery's knowledge of when the store was started.
#[derive(Debug)]
pub struct Recovery {
    known: Mutex<KnownStart>,
    /// How many offsets back the records in the store's open blocks may reach: the margin of each re-read.
    pub block_margin: BlockMargin,
}

#[derive(Debug, Default)]
struct KnownStart {
    /// When the store was started; `None`: it hasn't answered yet.
    start: Option<Started>,
    /// When the store was last asked for its uptime, in milliseconds since the Unix epoch; `None`: it hasn't answered
    /// yet.
    looked: Option<u64>,
    /// When the store was asked for the last time before all re-reads were announced that followed from its answer; `None`: not yet.
    ran_at: Option<Instant>,
}

impl Recovery {
    /// Begins with the store's present start; `None`: the store hasn't answered yet.
    pub fn new(start: Option<Started>, block_margin: BlockMargin) -> Self {
        Self { known: Mutex::new(KnownStart { start, looked: None, ran_at: None }), block_margin }
    }

    /// Moves the offset at which a partition begins back, if the store has restarted since that offset was committed,
    /// or if late requests of an earlier host may have damaged records. `low` and `high` are the partition's first and
    /// next offset in Kafka; `now_ms` is the time of day in milliseconds since the Unix epoch.
    ///
    /// If the commit metadata has no start of the store, the store's restart can't be noticed, and the offset stays.
    pub fn move_begin_back(&self, source: &TopicPartition, point: &mut CommitPoint, low: u64, high: u64, now_ms: u64) {
        let (now, ran_ms) = {
            let known = self.known();
            (known.start, known.looked.unwrap_or_default())
        };
        let CommitPoint { offset, metadata } = point;
        let committed = *offset;
        // The owner that committed it may have known larger blocks, and would have gone back further.
        let further = metadata.margin.take().unwrap_or_default().saturating_sub(self.block_margin.offsets());
        let durable = metadata.durable.unwrap_or(*offset).saturating_sub(further);
        // It isn't known when the store went down: what was at risk when this was committed may have been at risk then, too.
        let at_risk = metadata.risks.lowest().unwrap_or(u64::MAX);
        // Records from `high` on are new, even if the log was truncated and once held other records at these offsets.
        // Earlier versions of the host committed only `compare_below`.
        let mut reread_until = metadata.reread_until.or(metadata.compare_below).unwrap_or_default().min(high);
        if let Some(late) = metadata.late.take_if(|late| late.until_ms <= now_ms) {
            reread_until = reread_until.max(committed);
            metadata.compare_below = metadata.compare_below.max(Some(high));
            *offset = late.from.saturating_sub(self.block_margin.offsets()).min(at_risk).max(low).min(committed);
            info!(
                partition = %source, committed, from = *offset,
                "re-reading records that late requests of an earlier host may have damaged"
            );
        }
        if let (Some(before), Some(now)) = (metadata.store_start, now)
            && before.narrow(now).is_none()
        {
            let from = durable.saturating_sub(self.block_margin.offsets()).min(at_risk).max(low).min(*offset);
            warn!(
                partition = %source, committed, from,
                "ReductStore restarted since this offset was committed; re-reading"
            );
            reread_until = reread_until.max(committed);
            // The previous owner of the partition may have written records beyond its last commit.
            metadata.compare_below = metadata.compare_below.max(Some(high));
            metadata.durable = Some(from.saturating_add(self.block_margin.offsets()).min(durable));
            metadata.store_start = Some(now);
            *offset = from;
        } else {
            metadata.durable = Some(durable);
            // If the store hasn't answered yet, the committed start is kept and compared with the store's first answer.
            metadata.store_start = metadata.store_start.or(now);
        }
        metadata.risks = metadata.risks.at(ran_ms, now_ms);
        metadata.reread_until = Some(reread_until).filter(|until| *offset < *until);
    }

    /// Watches the store until the host has ended.
    pub async fn watch(self: Arc<Self>, host: Arc<dyn Partitions>, sink: Sink) {
        let mut blocks_looked = Instant::now();
        while !host.has_ended() {
            tokio::time::sleep(EVERY).await;
            if blocks_looked.elapsed() >= BLOCKS_EVERY {
                // While this task waits for it, the store isn't asked for its uptime. A look that fails is made again before a re-read.
                let _ = tokio::time::timeout(BLOCKS_TIMEOUT, self.cover_blocks(&sink)).await;
                blocks_looked = Instant::now();
            }
            for state in host.states() {
                discard_what_holds_up(&*host, &state);
                if state.reread_after_late_requests(now_ms()) {
                    info!(
                        partition = %state.source,
                        "no more requests of an earlier host can arrive; re-reading records that they may have damaged"
                    );
                }
            }
            // The positions are read before the store is asked, so that its answer holds for all of them.
            let states: Vec<_> = host.states().into_iter().map(|state| (state.position(), state)).collect();
            let (asked, asked_at, failures) = (now_ms(), Instant::now(), sink.gate().failures());
            let looked = match sink.store_started().await {
                Ok(start) => self.look(&*host, &sink, start, asked, &states).await,
                Err(error) => Err(error),
            };
            if let Ok(has_crashed) = looked {
                self.known().ran_at = Some(asked_at);
                sink.looked(asked_at, has_crashed);
            }
            match looked {
                Err(StoreError::Unavailable(_)) => {}
                // Any other error shows that the store runs, although it doesn't tell its uptime.
                _ => sink.gate().resolve(failures),
            }
        }
    }

    /// Keeps the margin as large as the bucket's blocks need it: somebody may make them larger.
    async fn cover_blocks(&self, sink: &Sink) -> Result<(), StoreError> {
        let max_block_records = sink.look_at_blocks().await?;
        if self.block_margin.cover(max_block_records) {
            info!(
                max_block_records,
                "the blocks of the bucket were made larger; after a crash more records are re-read"
            );
        }
        Ok(())
    }

    /// Compares the store's answer with what is known, and announces the re-reads that follow from it. `true`: the store has crashed, as far
    /// as a partition knows.
    async fn look(
        &self,
        host: &dyn Partitions,
        sink: &Sink,
        start: Started,
        asked: u64,
        states: &[(u64, Arc<PartitionState>)],
    ) -> Result<bool, StoreError> {
        let mut start = start;
        let has_restarted = self.has_restarted(start, !sink.gate().is_open());
        if has_restarted {
            warn!("ReductStore restarted; re-reading what it may have lost");
            start = sink.store_started_exactly().await?;
        }
        let narrowed = self.narrowed(start);
        if has_restarted || host.states().iter().any(|state| has_begun_before(state, narrowed)) {
            match self.cover_blocks(sink).await {
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // What else is wrong, such as a bucket that isn't there any more, must not keep the partitions from being re-read.
                Err(error) => {
                    warn!(%error, "the size of the bucket's blocks can't be asked for; re-reading as if it were the same")
                }
                Ok(()) => {}
            }
        }
        let start = self.learn(start, asked);
        let mut beside_removal = sink.take_harmed_by_removal();
        for state in host.states().iter().filter(|state| state.phase() != Phase::Ended) {
            if beside_removal.remove(&state.source) {
                state.require_reread_after_removal();
            }
        }
        // A partition that is being assigned again at this moment has no state yet: the next look finds it.
        sink.keep_harmed_by_removal(beside_removal);
        // Partitions that were assigned since the restart may have begun with the earlier start, too.
        let (harmed, unharmed): (Vec<_>, Vec<_>) =
            host.states().into_iter().partition(|state| has_restarted || has_begun_before(state, start));
        let removed = unharmed.into_iter().filter_map(|state| Some((state.required_reread()?, state))).collect();
        let crashed: Vec<_> = harmed.into_iter().map(|state| (state.reread_from_after_crash(), state)).collect();
        let has_crashed = has_restarted || !crashed.is_empty();
        // The store may have been away for longer than its blocks are at work: what counts is what was at risk when it ran.
        let ran_at = self.known().ran_at.unwrap_or_else(Instant::now);
        reread(sink, crashed, ran_at, Some(start), false).await?;
        reread(sink, removed, ran_at, None, true).await?;
        if has_restarted && let Some((entry, record)) = sink.lost_without_a_crash().await? {
            error!(
                %entry, %record,
                "ReductStore restarted and lacks a record that it had acknowledged, which a crash can't explain: the store \
                 was restored from a backup, or replaced by another store, or the bucket's quota is small. To write again \
                 what Kafka still has, read the topics from their begin with a new kafka.group; the host doesn't write \
                 records twice that the store still has"
            );
        }
        let at_risk = sink.lowest_at_risk();
        for (position, state) in states {
            // A partition whose re-read is still to be announced keeps the earlier start.
            if state.store_start().is_none_or(|before| before.narrow(start).is_some()) {
                state.looked(start, *position, at_risk.get(&state.source).copied(), asked);
            }
        }
        Ok(has_crashed)
    }

    /// Notes the start that the store gave when it was asked at `asked` (milliseconds since the Unix epoch). Partitions
    /// that are assigned from now on begin with it. Returns the start, made more exact by the earlier answers about the
    /// same start.
    pub fn learn(&self, start: Started, asked: u64) -> Started {
        let mut known = self.known();
        let start = known.start.and_then(|before| before.narrow(start)).unwrap_or(start);
        (known.start, known.looked) = (Some(start), Some(asked));
        start
    }

    /// The start, made more exact by the earlier answers about the same start.
    fn narrowed(&self, start: Started) -> Started {
        self.known().start.and_then(|before| before.narrow(start)).unwrap_or(start)
    }

    /// Whether `start` is another one than the known start. If requests have `failed`, it also counts as another one
    /// when the store may have started after it was last asked.
    fn has_restarted(&self, start: Started, failed: bool) -> bool {
        let known = self.known();
        let Some(before) = known.start else { return false };
        match before.narrow(start) {
            None => true,
            Some(same) => failed && known.looked.is_some_and(|looked| same.to >= looked),
        }
    }

    fn known(&self) -> MutexGuard<'_, KnownStart> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Discards a partition's unsent records if they delay its re-read for too long: records that wait for their dead
/// letter, for a circuit breaker or for a retry. Only records that Kafka still has are discarded, because the re-read
/// brings them again.
fn discard_what_holds_up(host: &dyn Partitions, state: &PartitionState) {
    let is_in_kafka = || host.first_offset(&state.source).is_some_and(|first| first <= state.position());
    if state.awaits_reread_for() >= Some(LONGEST_HOLD_UP) && is_in_kafka() {
        warn!(
            partition = %state.source, in_flight = state.in_flight(),
            "records in flight delay a re-read; the host discards them and reads them again from Kafka"
        );
        state.discard_unsent();
    }
}

/// Whether the partition knows an earlier start of the store.
fn has_begun_before(state: &PartitionState, start: Started) -> bool {
    state.store_start().is_some_and(|before| before.narrow(start).is_none())
}

/// Announces a re-read of each partition from the given offset, or from an earlier one if the store has lost a record
/// that this host remembers.
async fn reread(
    sink: &Sink,
    partitions: Vec<(u64, Arc<PartitionState>)>,
    ran_at: Instant,
    store_start: Option<Started>,
    discard_unsent: bool,
) -> Result<(), StoreError> {
    if partitions.is_empty() {
        return Ok(());
    }
    let first_offsets: HashMap<TopicPartition, u64> =
        partitions.iter().map(|(from, state)| (state.source.clone(), *from)).collect();
    let harmed = sink.harmed(&first_offsets, ran_at).await?;
    for (first, state) in partitions {
        let from = harmed.get(&state.source).map_or(first, |lost| first.min(*lost));
        warn!(partition = %state.source, from, "re-reading what ReductStore may have lost");
        state.announce_reread(Reread { from, discard_unsent, store_start });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::CommitMetadata;

    fn started(from: u64) -> Started {
        Started { from, to: from + 50 }
    }

    #[test]
    fn a_start_after_the_last_look_counts_where_requests_failed() {
        let recovery = Recovery::new(Some(started(1000)), BlockMargin::of_blocks(50));
        assert!(!recovery.has_restarted(started(1040), true), "it was never looked at");
        recovery.known().looked = Some(1045);
        assert!(recovery.has_restarted(started(1030), true));
        assert!(!recovery.has_restarted(started(1030), false));
        recovery.known().looked = Some(1200);
        assert!(!recovery.has_restarted(started(1030), true));
        assert!(recovery.has_restarted(started(1400), false));
    }

    fn begin(start: Option<Started>, metadata: &str) -> (CommitPoint, u64) {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let mut point = CommitPoint { offset: 5000, metadata: CommitMetadata::read(metadata) };
        Recovery::new(start, BlockMargin::of_blocks(50)).move_begin_back(&source, &mut point, 20, 9000, 1700);
        let until = point.metadata.reread_until.unwrap_or_default();
        (point, until)
    }

    #[test]
    fn a_partition_goes_back_as_far_as_its_earlier_owner_would_have() {
        let (point, _) = begin(Some(started(1400)), "store=1000-1050 durable=4990 margin=256");
        assert_eq!((point.offset, point.metadata.durable), (4734, Some(4834)));
        let (point, _) = begin(Some(started(1400)), "store=1000-1050 durable=4990 margin=2");
        assert_eq!(point.offset, 4890, "not less than its own margin");
        let (point, _) = begin(Some(started(1000)), "store=1000-1050 durable=4990 margin=256");
        assert_eq!((point.offset, point.metadata.durable), (5000, Some(4834)), "the store may restart later");
        let (point, _) = begin(Some(started(1400)), "store=1000-1050 durable=4990 margin=18446744073709551615");
        assert_eq!(point.offset, 20, "somebody else's");
    }

    #[test]
    fn another_start_of_the_store_sets_a_partition_back() {
        let (point, until) = begin(Some(started(1250)), "store=1000-1050 durable=4990");
        assert_eq!((point.offset, until), (5000, 0), "the same start, by another clock");
        let (point, until) = begin(Some(started(1400)), "store=1000-1050 durable=4990");
        assert_eq!((point.offset, until), (4890, 5000));
        assert_eq!(point.metadata.to_string(), "store=1400-1450 durable=4990 reread=5000 compare=9000");
        let (point, _) = begin(Some(started(9000)), "store=1000-1050 durable=30 letters=1@t");
        assert_eq!((point.offset, point.metadata.durable), (20, Some(30)), "the partition begins there now");
    }

    #[test]
    fn another_start_of_the_store_sets_a_partition_back_to_what_was_at_risk() {
        let (point, until) = begin(Some(started(1400)), "store=1000-1050 durable=4990 risk=600@1700,700@2000");
        assert_eq!((point.offset, until), (600, 5000), "the store may have gone down long ago");
        let risks = "risk=600@1700,700@2000";
        let wanted = format!("store=1400-1450 durable=700 reread=5000 compare=9000 {risks}");
        assert_eq!(point.metadata.to_string(), wanted);
    }

    #[test]
    fn a_risk_is_over_only_while_the_store_is_known_to_run() {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let text = "store=1000-1050 durable=4990 risk=600@1700,700@2000";
        let risks = |looked| {
            let mut point = CommitPoint { offset: 5000, metadata: CommitMetadata::read(text) };
            let recovery = Recovery::new(Some(started(1000)), BlockMargin::of_blocks(50));
            recovery.known().looked = looked;
            recovery.move_begin_back(&source, &mut point, 20, 9000, 400_000);
            assert_eq!(point.offset, 5000);
            point.metadata.risks.to_string()
        };
        assert_eq!(risks(Some(1700)), "700@2000");
        assert_eq!(risks(Some(1600)), "600@1700,700@2000", "it is away since");
        assert_eq!(risks(None), "600@1700,700@2000");
    }

    #[test]
    fn late_requests_set_a_partition_back_when_none_can_come_any_more() {
        let (point, until) = begin(Some(started(1000)), "store=1000-1050 durable=4990 late=4000@1701");
        assert_eq!((point.offset, until), (5000, 0));
        assert_eq!(point.metadata.to_string(), "store=1000-1050 durable=4990 late=4000@1701");
        let (point, until) = begin(Some(started(1000)), "store=1000-1050 durable=4990 late=4000@1700");
        assert_eq!((point.offset, until), (3900, 5000));
        assert_eq!(point.metadata.to_string(), "store=1000-1050 durable=4990 reread=5000 compare=9000");
        let (point, until) = begin(Some(started(9000)), "store=1000-1050 durable=3000 late=4000@1700");
        assert_eq!((point.offset, until), (2900, 5000), "and the store has restarted");
    }

    #[test]
    fn a_reread_that_another_host_began_goes_on() {
        let (point, until) = begin(Some(started(1000)), "store=1000-1050 durable=4990 compare=5500");
        assert_eq!((point.offset, until, point.metadata.compare_below), (5000, 5500, Some(5500)));
        let (point, until) = begin(Some(started(1000)), "store=1000-1050 durable=4990 reread=5200 compare=8000");
        assert_eq!((point.offset, until, point.metadata.compare_below), (5000, 5200, Some(8000)));
    }

    #[test]
    fn a_store_that_did_not_tell_its_start_is_compared_later() {
        let (point, until) = begin(None, "store=1000-1050 durable=4990");
        assert_eq!((point.offset, until, point.metadata.store_start), (5000, 0, Some(started(1000))));
        let (point, _) = begin(Some(started(9000)), "someone else's");
        assert_eq!((point.offset, point.metadata.store_start), (5000, Some(started(9000))));
    }
}
