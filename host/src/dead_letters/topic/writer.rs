//! The way of one source partition's letters into the topic: a transactional producer that shuts every earlier one of
//! the same partition out, and what these have left in the topic.
//!
//! Guarantees: when a writer is open, nothing that an earlier host sent for the partition can arrive any more, and what it
//! has committed is known; a batch is in the topic as a whole or, for readers of committed records, not at all.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tracing::debug;

use super::QueuedLetter;
use super::index::LookupStarts;
use super::scan::{Wanted, look_up};
use crate::config;
use crate::dead_letters::format::headers;
use crate::flow::{PartitionState, Phase};
use crate::kafka::producer::{Producer, Refused};
use crate::record::{IdentityMap, TopicPartition};

pub struct PartitionWriter {
    /// The assignment that it was opened for.
    state: Weak<PartitionState>,
    producer: Producer,
    partition: u32,
    found: IdentityMap<()>,
    used: Instant,
}

impl PartitionWriter {
    /// Shuts earlier producers out, then looks for what they left. Blocks.
    pub fn open(
        config: &config::Kafka,
        topic: &str,
        source: &TopicPartition,
        state: &Arc<PartitionState>,
        lookup_starts: &LookupStarts,
    ) -> Result<Self, String> {
        let id = format!("reduct-sink/{}/{source}", config.group);
        let producer = Producer::transactional(config, topic, &id).map_err(|error| error.to_string())?;
        let partition = source.partition % producer.partitions()?;
        producer.init()?;
        // Whatever lies before is committed, and doesn't come again.
        let wanted = Wanted { source, from: state.position() };
        let (letters, end) = look_up(config, topic, partition, lookup_starts.from(source, wanted.from), &wanted)?;
        debug!(%source, topic, partition, letters = letters.len(), "looked for earlier dead letters");
        lookup_starts.looked(source, wanted.from, letters.iter().map(|(identity, at)| (identity.offset, *at)), end);
        let mut found = IdentityMap::default();
        for identity in letters.into_keys() {
            found.insert(identity, ());
        }
        Ok(Self { state: Arc::downgrade(state), producer, partition, found, used: Instant::now() })
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
        for (offset, at) in self.producer.commit()? {
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
