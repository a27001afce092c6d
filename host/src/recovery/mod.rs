//! Reads again what a crash of the store may have lost.
//!
//! A ReductStore that is killed may lose or damage records that it has acknowledged: any of the blocks that it was
//! writing, which are two an entry (its write-ahead log, its block descriptors and their index aren't written
//! atomically: a kill in the midst of it costs the block, or what of it was in the log). So a restart of the store is
//! noticed by its uptime, and every partition is read again from where it stood when the store was last known to run,
//! less what two blocks hold, and from further back where an entry that gets few of the records has lost one of those
//! that this host remembers to have written last; each record is compared with what the store has, bytes included, and
//! written again where it must be. What was committed carries a mark of the store's start, so that this works across
//! restarts of hosts, too: as far as two blocks' worth of offsets reach, and further back to what the host before wrote
//! within some minutes into entries that get few of the records.
//!
//! Removing records has the same effect where a request that was cut off is still at work in their block. Nothing can be
//! committed then before all partitions have been read again, so those that have been wait for the others.
//!
//! Guarantees: the mark of a store's new start is given out only when its partitions are being read again; partitions are
//! read again until a whole pass had nothing to remove; between a failure of the store and the next look at it nothing is
//! committed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::flow::store_start::{Started, now_ms};
use crate::record::TopicPartition;
use crate::sink::Sink;
use crate::sink::store::StoreError;

/// How often the store is asked for its uptime.
const EVERY: Duration = Duration::from_secs(1);

/// Whose partitions are read again.
pub trait Rewinds: Send + Sync + 'static {
    fn positions(&self) -> Vec<(TopicPartition, u64)>;
    /// Reads a partition again from this offset on, or from its beginning where that is later, up to `until` at least.
    /// `drop`: what waits needn't be written first.
    fn rewind(&self, source: &TopicPartition, to: u64, until: u64, drop: bool);
    fn ended(&self) -> bool;
}

/// What is known of the store's start, and up to where each partition was written by then.
#[derive(Debug)]
pub struct Restarts {
    known: Mutex<Known>,
    /// How many offsets the blocks that the store was writing may reach back.
    back: u64,
}

#[derive(Debug, Default)]
struct Known {
    /// When the store was started.
    start: Option<Started>,
    /// When it was looked at last, in milliseconds since the Unix epoch.
    looked: Option<u64>,
    /// Where each partition stood when the store was known to run.
    safe: HashMap<TopicPartition, u64>,
    /// The lowest offset that a crash of the store may harm, as this host remembers it.
    at_risk: HashMap<TopicPartition, u64>,
    /// Partitions that are being read again.
    again: HashMap<TopicPartition, Pass>,
    /// Where those of them stand that have been read again as far as they have to be, while others haven't: what a next
    /// crash puts at risk begins there, or reading again would grow from crash to crash. Not used once something was
    /// removed, which may have spoiled anything.
    ahead: HashMap<TopicPartition, u64>,
}

/// A partition is being read again.
#[derive(Debug, Clone, Copy)]
struct Pass {
    until: u64,
    /// The store's start before: committed until the pass has ended, so that whoever takes over reads again, too.
    start: Started,
}

impl Known {
    /// Remembers where those partitions stand whose own pass has ended.
    fn note_ended(&mut self, positions: &[(TopicPartition, u64)]) {
        for (source, position) in positions {
            if self.again.get(source).is_some_and(|pass| *position >= pass.until) {
                self.ahead.insert(source.clone(), *position);
            }
        }
    }

    /// Where a partition stood when the store was last known to run.
    fn stood(&mut self, source: &TopicPartition, position: u64) -> u64 {
        let safe = *self.safe.entry(source.clone()).or_insert(position);
        self.ahead.get(source).copied().unwrap_or(safe)
    }
}

impl Restarts {
    pub fn new(start: Option<Started>, back: u64) -> Self {
        Self { known: Mutex::new(Known { start, ..Known::default() }), back }
    }

    /// What to commit beside a position.
    pub fn mark(&self, source: &TopicPartition, position: u64) -> Option<String> {
        let known = self.known();
        // Whoever reads this takes off two blocks.
        let at_risk = known.at_risk.get(source).map(|lowest| lowest.saturating_add(self.back));
        let safe = known.safe.get(source).copied().into_iter().chain(at_risk).fold(position, u64::min);
        let start = known.again.get(source).map(|pass| pass.start).or(known.start)?;
        Some(format!("store={start} safe={safe}"))
    }

    /// Where to begin with a partition that was committed with this mark. `None`: at what was committed. Without a mark,
    /// nothing is known of what was written before.
    pub fn begin(&self, source: &TopicPartition, committed: u64, mark: &str) -> Option<u64> {
        let marked = read_mark(mark);
        let mut known = self.known();
        known.safe.insert(source.clone(), marked.map_or(committed, |(_, safe)| safe));
        known.again.remove(source);
        let (start, safe) = marked?;
        if known.start.is_none_or(|now| now.narrow(start).is_some()) {
            return None;
        }
        let to = safe.min(committed).saturating_sub(self.back);
        warn!(partition = %source, committed, to, "ReductStore was started anew since this was committed; reading again");
        known.again.insert(source.clone(), Pass { until: committed, start });
        Some(to)
    }

    /// Watches the store until the host has ended.
    pub async fn watch(self: Arc<Self>, host: Arc<dyn Rewinds>, sink: Sink) {
        while !host.ended() {
            tokio::time::sleep(EVERY).await;
            // Asked before the store: what it then says holds for these positions.
            let (asked, positions, failures) = (now_ms(), host.positions(), sink.failures());
            let looked = match sink.store_started().await {
                Ok(start) => self.look(&*host, &sink, start, asked, &positions).await,
                Err(error) => Err(error),
            };
            match looked {
                Err(StoreError::Unavailable(_)) => {}
                // With another error it is there, and doesn't tell.
                _ => sink.explain(failures),
            }
        }
    }

    /// Whether this start isn't the known one. Where requests have failed, one that may have come after the last look is
    /// enough.
    fn is_restart(&self, start: Started, failed: bool) -> bool {
        let known = self.known();
        let Some(before) = known.start else { return false };
        match before.narrow(start) {
            None => true,
            Some(same) => failed && known.looked.is_some_and(|looked| same.to >= looked),
        }
    }

    async fn look(
        &self,
        host: &dyn Rewinds,
        sink: &Sink,
        start: Started,
        asked: u64,
        positions: &[(TopicPartition, u64)],
    ) -> Result<(), StoreError> {
        let mut start = start;
        if self.is_restart(start, sink.is_shaken()) {
            warn!("ReductStore was started anew; reading again what it may have lost");
            start = sink.store_started_exactly().await?;
            if sink.removals() > 0 {
                self.known().ahead.clear();
            }
            self.read_again(host, sink, start, positions, false).await?;
        } else if self.has_ended(positions) {
            let removals = sink.removals();
            self.known().ahead.clear();
            if removals > 0 {
                warn!("records had to be removed from ReductStore; reading again what that may have spoiled");
                self.read_again(host, sink, start, positions, true).await?;
                sink.explain_removals(removals);
            } else {
                self.known().again.clear();
            }
        } else if sink.removals() == 0 {
            self.known().note_ended(positions);
        }
        let at_risk = sink.lowest_at_risk();
        let mut known = self.known();
        known.at_risk = at_risk;
        known.start = Some(known.start.and_then(|before| before.narrow(start)).unwrap_or(start));
        known.looked = Some(asked);
        for (source, position) in positions {
            if !known.again.contains_key(source) {
                known.safe.insert(source.clone(), *position);
            }
        }
        Ok(())
    }

    async fn read_again(
        &self,
        host: &dyn Rewinds,
        sink: &Sink,
        start: Started,
        positions: &[(TopicPartition, u64)],
        drop: bool,
    ) -> Result<(), StoreError> {
        let windows: HashMap<TopicPartition, u64> = {
            let mut known = self.known();
            let safe = |(source, position): &(TopicPartition, u64)| {
                (source.clone(), known.stood(source, *position).saturating_sub(self.back))
            };
            positions.iter().map(safe).collect()
        };
        let harmed = sink.harmed(&windows).await?;
        sink.distrust();
        for (source, position) in positions {
            let window = windows.get(source).copied().unwrap_or_default();
            let to = harmed.get(source).map_or(window, |first| window.min(*first));
            let until = {
                let mut known = self.known();
                let start = known.start.unwrap_or(start);
                let pass = known.again.entry(source.clone()).or_insert(Pass { until: *position, start });
                pass.until = pass.until.max(*position);
                let until = pass.until;
                // Whoever takes over has to go back as far.
                let safe = known.safe.entry(source.clone()).or_insert(*position);
                *safe = to.saturating_add(self.back).min(*safe);
                until
            };
            host.rewind(source, to, until, drop);
        }
        Ok(())
    }

    /// Whether everything that had to be read again was.
    fn has_ended(&self, positions: &[(TopicPartition, u64)]) -> bool {
        let mut known = self.known();
        // A partition that was given up is somebody else's to read again.
        known.again.retain(|source, _| positions.iter().any(|(owned, _)| owned == source));
        positions.iter().all(|(source, at)| known.again.get(source).is_none_or(|pass| *at >= pass.until))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_mark(mark: &str) -> Option<(Started, u64)> {
    let value = |name| mark.split(' ').find_map(|part| part.strip_prefix(name));
    Some((value("store=")?.parse().ok()?, value("safe=")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(from: u64) -> Started {
        Started { from, to: from + 50 }
    }

    #[test]
    fn a_start_after_the_last_look_counts_where_requests_failed() {
        let restarts = Restarts::new(Some(started(1000)), 100);
        assert!(!restarts.is_restart(started(1040), true), "it was never looked at");
        restarts.known().looked = Some(1045);
        assert!(restarts.is_restart(started(1030), true));
        assert!(!restarts.is_restart(started(1030), false));
        restarts.known().looked = Some(1200);
        assert!(!restarts.is_restart(started(1030), true));
        assert!(restarts.is_restart(started(1400), false));
    }

    #[test]
    fn a_partition_that_was_read_again_begins_there_when_the_store_crashes_once_more() {
        let of = |partition| TopicPartition { topic: "t".into(), partition };
        let mut known = Known::default();
        for partition in [0, 1] {
            known.safe.insert(of(partition), 100);
            known.again.insert(of(partition), Pass { until: 500, start: started(1000) });
        }
        known.note_ended(&[(of(0), 700), (of(1), 400)]);
        assert_eq!((known.stood(&of(0), 800), known.stood(&of(1), 800)), (700, 100));
        assert_eq!(known.safe[&of(0)], 100, "what removing spoils may lie further back");
        assert_eq!(known.stood(&of(2), 800), 800);
    }

    #[test]
    fn another_start_of_the_store_sets_a_partition_back() {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let before = Restarts::new(Some(started(1000)), 100);
        let mark = before.mark(&source, 5000).unwrap();
        assert_eq!(mark, "store=1000-1050 safe=5000");
        before.known().at_risk = HashMap::from([(source.clone(), 4990)]);
        assert_eq!(before.mark(&source, 5000), Some(mark.clone()), "two blocks reach as far");
        before.known().at_risk = HashMap::from([(source.clone(), 300)]);
        assert_eq!(before.mark(&source, 5000).as_deref(), Some("store=1000-1050 safe=400"));
        let begin = |start, mark: &str| Restarts::new(start, 100).begin(&source, 5000, mark);
        assert_eq!(begin(Some(started(1250)), &mark), None, "the same start, by another clock");
        assert_eq!(begin(Some(started(1400)), &mark), Some(4900), "another one, within the same second");
        assert_eq!(begin(Some(started(9000)), "store=1000-1050 safe=30 letters=1@t"), Some(0));
        assert_eq!(begin(None, &mark), None);
        assert_eq!(begin(Some(started(9000)), "someone else's"), None);
    }
}
