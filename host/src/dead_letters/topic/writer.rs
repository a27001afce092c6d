//! The way of one source partition's letters into the topic: a transactional producer that shuts every earlier one of
//! the same partition out, and what these have left in the topic.
//!
//! Guarantees: when a writer is open, nothing that an earlier host sent for the partition can arrive any more, and what it
//! has committed is known; a batch is in the topic as a whole or, for readers of committed records, not at all; it counts as
//! written when readers of committed records can see it, so that only letters that nobody has acknowledged are ever hidden.
//!
//! Why the last one: the transaction coordinator answers before it marks a transaction's end in the partition. If the
//! partition has no leader at that moment, as when its broker was killed and comes back, Kafka counts the transaction as
//! completed without the marker: it hangs, and hides all that stands behind its begin for ever. The next transaction of the
//! same transactional id continues the hanging one there, so that a writer that finds one ends it by an abort.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::QueuedLetter;
use super::index::LookupStarts;
use super::scan::{LookedUp, OpenTransaction, Wanted, look_up};
use crate::config;
use crate::dead_letters::format::headers;
use crate::flow::{PartitionState, Phase};
use crate::kafka::producer::{Producer, Refused};
use crate::record::{IdentityMap, TopicPartition};

/// How long another source's transaction may hide letters that were committed. Whether they are there is then looked up, when
/// the other sources had their turn.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

/// How many aborts are tried. A hanging transaction that is still there then isn't of this producer: Kafka has given the
/// transactional id another producer id since, as it does after a week without use.
const MOST_ENDS: u32 = 10;

/// How often each source's hanging transaction was aborted, and where that one begins.
#[derive(Default)]
pub struct HangingEnds(HashMap<TopicPartition, (u64, u32)>);

impl HangingEnds {
    fn may_help(&self, source: &TopicPartition, begin: u64) -> bool {
        self.0.get(source).is_none_or(|(last, times)| *last != begin || *times < MOST_ENDS)
    }

    fn count(&mut self, source: &TopicPartition, begin: u64) {
        let (last, times) = self.0.entry(source.clone()).or_default();
        *times = if *last == begin { times.saturating_add(1) } else { 1 };
        *last = begin;
    }
}

pub struct PartitionWriter {
    /// The assignment that it was opened for.
    state: Weak<PartitionState>,
    producer: Producer,
    partition: u32,
    found: IdentityMap<()>,
    used: Instant,
}

impl PartitionWriter {
    /// Shuts earlier producers out, then looks for what they left. Where they left a hanging transaction, the first of these
    /// letters goes with it into the abort. Blocks.
    pub fn open(
        config: &config::Kafka,
        topic: &str,
        source: &TopicPartition,
        state: &Arc<PartitionState>,
        letters: &[QueuedLetter],
        lookup_starts: &LookupStarts,
        ends: &mut HangingEnds,
    ) -> Result<Self, String> {
        let id = format!("reduct-sink/{}/{source}", config.group);
        let producer = Producer::transactional(config, topic, &id).map_err(|error| error.to_string())?;
        let partition = source.partition % producer.partitions()?;
        producer.init()?;
        let found = IdentityMap::default();
        let mut writer = Self { state: Arc::downgrade(state), producer, partition, found, used: Instant::now() };
        // Whatever lies before is committed, and doesn't come again.
        let wanted = Wanted { source, from: state.position() };
        let look_up = || look_up(config, topic, partition, lookup_starts.from(source, wanted.from), &wanted);
        let mut looked = look_up()?;
        if let LookedUp::Open(open) = looked
            && open.is_of_source
            && ends.may_help(source, open.begin)
        {
            writer.end_hanging(topic, letters, open)?;
            ends.count(source, open.begin);
            looked = look_up()?;
        }
        let LookedUp::All { letters, end } = looked else { return Err(is_hidden(topic, partition)) };
        debug!(%source, topic, partition, letters = letters.len(), "looked for earlier dead letters");
        lookup_starts.looked(source, wanted.from, letters.iter().map(|(identity, at)| (identity.offset, *at)), end);
        for identity in letters.into_keys() {
            writer.found.insert(identity, ());
        }
        Ok(writer)
    }

    /// Aborts a transaction of this transactional id that hangs: the coordinator has none that is open, because the producer is
    /// initialized. The letter gives the new transaction a part in the partition.
    fn end_hanging(&self, topic: &str, letters: &[QueuedLetter], open: OpenTransaction) -> Result<(), String> {
        self.producer.begin_transaction()?;
        if let Some(letter) = letters.first() {
            self.send(letter)?;
        }
        self.producer.abort()?;
        warn!(
            topic,
            partition = self.partition,
            begin = open.begin,
            "Kafka had left a transaction of dead letters hanging; it is aborted, and its letters are written again"
        );
        // Where that doesn't help, the look-up says so.
        let _ = self.producer.wait_visible(self.partition, open.begin, VISIBLE_WITHIN);
        Ok(())
    }

    /// Whether what it knows holds for this assignment as it is now.
    pub fn serves(&self, state: &Arc<PartitionState>) -> bool {
        self.state.as_ptr() == Arc::as_ptr(state)
    }

    /// Whether its assignment has ended, or it had nothing to do for the whole idle time.
    pub fn is_idle(&self, patience: Duration) -> bool {
        self.used.elapsed() > patience || self.state.upgrade().is_none_or(|state| state.phase() == Phase::Ended)
    }

    /// Writes those of the letters that aren't there yet. After an error the writer must not be used any more.
    pub fn write(&mut self, letters: &[QueuedLetter], lookup_starts: &LookupStarts) -> Result<(), String> {
        self.used = Instant::now();
        let new = |letter: &&QueuedLetter| !self.found.contains(&letter.record.identity());
        let new: Vec<&QueuedLetter> = letters.iter().filter(new).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.producer.begin_transaction()?;
        for letter in &new {
            self.send(letter)?;
        }
        let kept = self.producer.commit()?;
        let last = kept.iter().map(|(_, at)| *at).max().unwrap_or_default();
        self.producer.wait_visible(self.partition, last, VISIBLE_WITHIN)?;
        for (offset, at) in kept {
            if let Some(letter) = new.first() {
                lookup_starts.kept(letter.source(), offset, at);
            }
        }
        Ok(())
    }

    fn send(&self, letter: &QueuedLetter) -> Result<(), String> {
        let offset = letter.record.input.offset;
        loop {
            match self.producer.send(&letter.record, &headers(&letter.record), self.partition, offset) {
                Ok(()) => return Ok(()),
                Err(Refused::QueueFull) => self.producer.flush()?,
                Err(Refused::Other(reason)) => return Err(reason),
            }
        }
    }
}

fn is_hidden(topic: &str, partition: u32) -> String {
    format!(
        "an open transaction hides the end of {topic}/{partition}; if that lasts for minutes, `kafka-transactions.sh \
         find-hanging` says whether Kafka left it hanging, and `abort` ends it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_no_abort_ends_is_left_after_some() {
        let source = TopicPartition { topic: "camera".into(), partition: 1 };
        let mut ends = HangingEnds::default();
        for _ in 0..MOST_ENDS {
            assert!(ends.may_help(&source, 7));
            ends.count(&source, 7);
        }
        assert!(!ends.may_help(&source, 7));
        assert!(ends.may_help(&source, 9), "another one");
        ends.count(&source, 9);
        assert!(ends.may_help(&source, 9));
    }
}
