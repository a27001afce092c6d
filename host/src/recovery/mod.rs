//! Re-reads what the store may have lost.
//!
//! A ReductStore that is killed may lose or damage records that it has acknowledged: any of the blocks that it was
//! writing, which are two an entry, because its write-ahead log, its block descriptors and their index aren't written
//! atomically. Removing a record has the same effect where a request that was cut off is still at work in its block.
//!
//! So one task, the owner of all re-reads, looks at the store's uptime once a second. When the store has restarted, each
//! partition is re-read from where it stood when the store was last known to run, less what two blocks hold, and from
//! further back where an entry that gets few of the records has lost one of those that this host remembers. When a record
//! was removed, the partitions of its entry are re-read, and no others. Each record of a re-read is compared with what the
//! store has, bytes included, and written again where it must be. What is committed carries the store's start, so that
//! the next owner of a partition notices a restart, too.
//!
//! A host that took the place of one that was killed, without waiting for its session, re-reads the same way what late
//! requests of the other one may have harmed, once no more of them can come.
//!
//! Guarantees: a partition is given the store's new start only together with its re-read; between a failure of the store
//! and the next look at it nothing is committed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{error, info, warn};

use crate::flow::store_start::{Started, now_ms};
use crate::flow::{CommitPoint, PartitionState, Phase, Reread, RereadCause};
use crate::record::TopicPartition;
use crate::sink::Sink;
use crate::sink::store::StoreError;

/// How often the store is asked for its uptime.
const EVERY: Duration = Duration::from_secs(1);

/// For how long records in flight may hold up a re-read. Where Kafka doesn't have them any more, they hold it up for as long
/// as it takes: they are the last copies.
const LONGEST_HOLD_UP: Duration = Duration::from_secs(30);

/// Has the partitions that are re-read.
pub trait Partitions: Send + Sync + 'static {
    /// The partitions that this host reads now.
    fn states(&self) -> Vec<Arc<PartitionState>>;
    /// The first offset that Kafka has of a partition, as it was looked at a few seconds ago.
    fn first_offset(&self, source: &TopicPartition) -> Option<u64>;
    /// Whether the host has ended.
    fn has_ended(&self) -> bool;
}

/// What is known of the store's start.
#[derive(Debug)]
pub struct Recovery {
    known: Mutex<KnownEntry>,
    /// How many offsets the blocks that the store has open may reach back.
    pub block_offsets: u64,
}

#[derive(Debug, Default)]
struct KnownEntry {
    /// When the store was started; `None`: it never said so.
    start: Option<Started>,
    /// When it was looked at last, in milliseconds since the Unix epoch.
    looked: Option<u64>,
}

impl Recovery {
    /// Knows the store's present start, if the store told it.
    pub fn new(start: Option<Started>, block_offsets: u64) -> Self {
        Self { known: Mutex::new(KnownEntry { start, looked: None }), block_offsets }
    }

    /// Sets the begin of a partition back if the store has restarted since the offset was committed. `low` and `high` are
    /// the partition's ends.
    ///
    /// `now_ms` is the time of day in milliseconds.
    ///
    /// An offset that was committed without the store's start tells nothing of what was written before.
    pub fn begin(&self, source: &TopicPartition, point: &mut CommitPoint, low: u64, high: u64, now_ms: u64) {
        let now = self.known().start;
        let CommitPoint { offset, metadata } = point;
        let (committed, durable) = (*offset, metadata.durable.unwrap_or(*offset));
        // Further records are new, also where a truncated log once held some. Earlier versions of the host told only how far
        // to compare.
        let mut reread_until = metadata.reread_until.or(metadata.compare_below).unwrap_or_default().min(high);
        if let Some(late) = metadata.late.take_if(|late| late.until_ms <= now_ms) {
            reread_until = reread_until.max(committed);
            metadata.compare_below = metadata.compare_below.max(Some(high));
            *offset = late.from.saturating_sub(self.block_offsets).max(low).min(committed);
            info!(partition = %source, committed, from = *offset, "re-reading what requests of an earlier host may have harmed");
        }
        if let (Some(before), Some(now)) = (metadata.store_start, now)
            && before.narrow(now).is_none()
        {
            let from = durable.saturating_sub(self.block_offsets).max(low).min(*offset);
            warn!(
                partition = %source, committed, from,
                "ReductStore restarted since this offset was committed; re-reading"
            );
            reread_until = reread_until.max(committed);
            // The owner before this one may have written further than it committed.
            metadata.compare_below = metadata.compare_below.max(Some(high));
            metadata.durable = Some(from.saturating_add(self.block_offsets).min(durable));
            metadata.store_start = Some(now);
            *offset = from;
        } else {
            metadata.durable = Some(durable);
            // A store that didn't tell its start yet is compared with the start that was committed, when it does.
            metadata.store_start = metadata.store_start.or(now);
        }
        metadata.reread_until = Some(reread_until).filter(|until| *offset < *until);
    }

    /// Watches the store until the host has ended.
    pub async fn watch(self: Arc<Self>, host: Arc<dyn Partitions>, sink: Sink) {
        while !host.has_ended() {
            tokio::time::sleep(EVERY).await;
            for state in host.states() {
                discard_what_holds_up(&*host, &state);
                if state.reread_after_late_requests(now_ms()) {
                    info!(
                        partition = %state.source,
                        "no more requests of an earlier host can come; re-reading what they may have harmed"
                    );
                }
            }
            // Asked before the store: what it then says holds for these positions.
            let states: Vec<_> = host.states().into_iter().map(|state| (state.position(), state)).collect();
            let (asked, failures) = (now_ms(), sink.gate().failures());
            let looked = match sink.store_started().await {
                Ok(start) => self.look(&*host, &sink, start, asked, &states).await,
                Err(error) => Err(error),
            };
            match looked {
                Err(StoreError::Unavailable(_)) => {}
                // With another error it is there, and doesn't tell.
                _ => sink.gate().resolve(failures),
            }
        }
    }

    async fn look(
        &self,
        host: &dyn Partitions,
        sink: &Sink,
        start: Started,
        asked: u64,
        states: &[(u64, Arc<PartitionState>)],
    ) -> Result<(), StoreError> {
        let mut start = start;
        let has_restarted = self.has_restarted(start, !sink.gate().is_open());
        if has_restarted {
            warn!("ReductStore restarted; re-reading what it may have lost");
            start = sink.store_started_exactly().await?;
        }
        let start = self.learn(start, asked);
        let mut neighbours = sink.take_neighbours();
        for state in host.states().iter().filter(|state| state.phase() != Phase::Ended) {
            if neighbours.remove(&state.source) {
                state.require_reread(RereadCause::Removal);
            }
        }
        // One that begins again at this moment is found by the next look.
        sink.keep_neighbours(neighbours);
        // Partitions that came meanwhile may have been given the start before, too.
        let (harmed, unharmed): (Vec<_>, Vec<_>) = host.states().into_iter().partition(|state| {
            has_restarted || state.store_start().is_some_and(|before| before.narrow(start).is_none())
        });
        let removed = unharmed.into_iter().filter_map(|state| Some((state.required_reread()?, state))).collect();
        let crashed = harmed.into_iter().map(|state| (state.crash_window(), state)).collect();
        reread(sink, crashed, Some(start), false).await?;
        reread(sink, removed, None, true).await?;
        if has_restarted && let Some((entry, record)) = sink.lost_without_a_crash().await? {
            error!(
                %entry, %record,
                "ReductStore restarted without a record that it had acknowledged, and that no crash takes: it was restored from a \
                 backup, or another store was put in its place, or the bucket's quota is small. What Kafka still has comes back \
                 if a new kafka.group reads the topics from their begin; records that are there are not written twice"
            );
        }
        let at_risk = sink.lowest_at_risk();
        for (position, state) in states {
            // One whose re-read is still to be announced keeps the start before.
            if state.store_start().is_none_or(|before| before.narrow(start).is_some()) {
                state.looked(start, *position, at_risk.get(&state.source).copied());
            }
        }
        Ok(())
    }

    /// The store has this start, as it told when it was asked at that time. From now on partitions begin with it: one whose
    /// re-read was announced may begin at once. Tells what is known with the earlier answers.
    pub fn learn(&self, start: Started, asked: u64) -> Started {
        let mut known = self.known();
        let start = known.start.and_then(|before| before.narrow(start)).unwrap_or(start);
        (known.start, known.looked) = (Some(start), Some(asked));
        start
    }

    /// Whether this start isn't the known one. Where requests have failed, one that may have come after the last look is
    /// enough.
    fn has_restarted(&self, start: Started, failed: bool) -> bool {
        let known = self.known();
        let Some(before) = known.start else { return false };
        match before.narrow(start) {
            None => true,
            Some(same) => failed && known.looked.is_some_and(|looked| same.to >= looked),
        }
    }

    fn known(&self) -> MutexGuard<'_, KnownEntry> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record that waits for its dead letter, a circuit breaker or a retry would hold up the re-read of its partition for as
/// long. Where Kafka still has it, it needn't: it is read again, too.
fn discard_what_holds_up(host: &dyn Partitions, state: &PartitionState) {
    let is_in_kafka = || host.first_offset(&state.source).is_some_and(|first| first <= state.position());
    if state.awaits_reread_for() >= Some(LONGEST_HOLD_UP) && is_in_kafka() {
        warn!(
            partition = %state.source, in_flight = state.in_flight(),
            "records in flight hold up a re-read; giving them up, they are read again"
        );
        state.discard_unsent();
    }
}

/// Announces re-reads from the given offsets, or from further back where the store doesn't have a remembered record.
async fn reread(
    sink: &Sink,
    partitions: Vec<(u64, Arc<PartitionState>)>,
    store_start: Option<Started>,
    discard_unsent: bool,
) -> Result<(), StoreError> {
    if partitions.is_empty() {
        return Ok(());
    }
    let windows: HashMap<TopicPartition, u64> =
        partitions.iter().map(|(from, state)| (state.source.clone(), *from)).collect();
    let harmed = sink.harmed(&windows).await?;
    for (window, state) in partitions {
        let from = harmed.get(&state.source).map_or(window, |first| window.min(*first));
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
        let recovery = Recovery::new(Some(started(1000)), 100);
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
        Recovery::new(start, 100).begin(&source, &mut point, 20, 9000, 1700);
        let until = point.metadata.reread_until.unwrap_or_default();
        (point, until)
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
