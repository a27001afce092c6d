//! Reads again what a crash of the store may have lost.
//!
//! A ReductStore that is killed may lose or damage records that it has acknowledged: those of the blocks that it was
//! writing (its write-ahead log and its block descriptors aren't written atomically). So a restart of the store is
//! noticed by its uptime, and every partition is read again from where it stood when the store was last known to run,
//! less what two blocks hold; each record is compared with what the store has, bytes included, and written again where it
//! must be. What was committed carries a mark of the store's start, so that this works across restarts of hosts, too.
//!
//! Removing records has the same effect where a request that was cut off is still at work in their block.
//!
//! Guarantees: the mark of a store's new start is given out only when its partitions are being read again; partitions are
//! read again until a whole pass had nothing to remove; between a failure of the store and the next look at it nothing is
//! committed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::warn;

use crate::record::TopicPartition;
use crate::sink::Sink;
use crate::sink::store::StoreError;

/// How often the store is asked for its uptime.
const EVERY: Duration = Duration::from_secs(1);
/// Starts of the store that are closer than this are the same: its uptime comes in whole seconds, and clocks differ.
const SAME_START: u64 = 2;

/// Whose partitions are read again.
pub trait Rewinds: Send + Sync + 'static {
    fn positions(&self) -> Vec<(TopicPartition, u64)>;
    /// Reads a partition again from this offset on, or from its beginning where that is later.
    fn rewind(&self, source: &TopicPartition, to: u64);
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
    /// When the store was started, in seconds since the Unix epoch.
    start: Option<u64>,
    /// When it was looked at last, in seconds since the Unix epoch.
    looked: Option<u64>,
    /// Where each partition stood when the store was known to run.
    safe: HashMap<TopicPartition, u64>,
    /// Partitions that are being read again.
    again: HashMap<TopicPartition, Pass>,
}

/// A partition is being read again.
#[derive(Debug, Clone, Copy)]
struct Pass {
    until: u64,
    /// The store's start before: committed until the pass has ended, so that whoever takes over reads again, too.
    start: u64,
}

impl Restarts {
    pub fn new(start: Option<u64>, back: u64) -> Self {
        Self { known: Mutex::new(Known { start, ..Known::default() }), back }
    }

    /// What to commit beside a position.
    pub fn mark(&self, source: &TopicPartition, position: u64) -> Option<String> {
        let known = self.known();
        let safe = known.safe.get(source).copied().unwrap_or(position).min(position);
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
        if known.start.is_none_or(|now| now.abs_diff(start) <= SAME_START) {
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
            let (positions, failures) = (host.positions(), sink.failures());
            match sink.store_start().await {
                Ok(start) => self.look(&*host, &sink, start, &positions),
                Err(StoreError::Unavailable(_)) => continue,
                // It is there, and doesn't tell.
                Err(_) => {}
            }
            sink.explain(failures);
        }
    }

    /// Whether this start isn't the known one. Where requests have failed, a start after the last look is enough: two starts
    /// may follow each other so soon that they can't be told apart by their times.
    fn is_restart(&self, start: u64, failed: bool) -> bool {
        let known = self.known();
        known.start.is_some_and(|before| before.abs_diff(start) > SAME_START)
            || (failed && known.looked.is_some_and(|looked| start >= looked))
    }

    fn look(&self, host: &dyn Rewinds, sink: &Sink, start: u64, positions: &[(TopicPartition, u64)]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.is_restart(start, sink.is_shaken()) {
            warn!("ReductStore was started anew; reading again what it may have lost");
            self.read_again(host, sink, start, positions);
        } else if self.has_ended(positions) {
            if sink.take_removals() > 0 {
                warn!("records had to be removed from ReductStore; reading again what that may have spoiled");
                self.read_again(host, sink, start, positions);
            } else {
                self.known().again.clear();
            }
        }
        let mut known = self.known();
        known.start = Some(start);
        known.looked = Some(now);
        for (source, position) in positions {
            if !known.again.contains_key(source) {
                known.safe.insert(source.clone(), *position);
            }
        }
    }

    fn read_again(&self, host: &dyn Rewinds, sink: &Sink, start: u64, positions: &[(TopicPartition, u64)]) {
        sink.distrust();
        for (source, position) in positions {
            let safe = {
                let mut known = self.known();
                let start = known.start.unwrap_or(start);
                let pass = known.again.entry(source.clone()).or_insert(Pass { until: *position, start });
                pass.until = pass.until.max(*position);
                *known.safe.entry(source.clone()).or_insert(*position)
            };
            host.rewind(source, safe.saturating_sub(self.back));
        }
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

fn read_mark(mark: &str) -> Option<(u64, u64)> {
    let (start, safe) = mark.strip_prefix("store=")?.split_once(" safe=")?;
    Some((start.parse().ok()?, safe.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_after_the_last_look_counts_where_requests_failed() {
        let restarts = Restarts::new(Some(1000), 100);
        assert!(!restarts.is_restart(1001, true), "it was never looked at");
        restarts.known().looked = Some(1001);
        assert!(restarts.is_restart(1002, true));
        assert!(!restarts.is_restart(1002, false));
        assert!(!restarts.is_restart(1000, true));
        assert!(restarts.is_restart(1003, false));
    }

    #[test]
    fn another_start_of_the_store_sets_a_partition_back() {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let before = Restarts::new(Some(1000), 100);
        let mark = before.mark(&source, 5000).unwrap();
        assert_eq!(mark, "store=1000 safe=5000");
        assert_eq!(
            Restarts::new(Some(1002), 100).begin(&source, 5000, &mark),
            None,
            "the same start, by another clock"
        );
        assert_eq!(Restarts::new(Some(1009), 100).begin(&source, 5000, &mark), Some(4900));
        assert_eq!(Restarts::new(Some(1009), 100).begin(&source, 5000, "store=1000 safe=30"), Some(0));
        assert_eq!(Restarts::new(None, 100).begin(&source, 5000, &mark), None);
        assert_eq!(Restarts::new(Some(1009), 100).begin(&source, 5000, "someone else's"), None);
    }
}
