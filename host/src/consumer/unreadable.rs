//! Deals with batches that can't be read: reports them, and fetches them again, stops the host, or goes on behind them, as
//! `kafka.on_unreadable` says.
//!
//! To go on behind a batch, a thread for its partition looks for the batch's end, because that takes several fetches; the
//! polling thread moves the partition.
//!
//! Guarantees: only a batch that was found unreadable is skipped, up to an end that was found and not guessed, and the handler gets the
//! skipped offsets; while a partition waits for the next attempt, librdkafka
//! doesn't fetch from it, unless it refused the last attempt; a partition that librdkafka has stopped reading meanwhile begins again.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;
use tracing::{debug, warn};

use super::group::AssignedPartition;
use super::partition_reader::UnreadableBatch;
use super::{GroupConsumer, SEEK_TIMEOUT, seek};
use crate::config::{self, OnUnreadable, threads};
use crate::flow::Phase;
use crate::kafka::unreadable::end_of_batch;
use crate::record::TopicPartition;

/// How long after it was last fetched a batch that can't be read is fetched again.
const FETCH_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Looks for the ends of unreadable batches. See the module.
pub(super) struct Skipping {
    /// See [`FETCH_AGAIN_AFTER`].
    pub fetch_again_after: Duration,
    config: config::Kafka,
    /// The partitions for which a thread looks now.
    looking: HashSet<TopicPartition>,
    outbox: Sender<(TopicPartition, u64, Result<u64, String>)>,
    found: Receiver<(TopicPartition, u64, Result<u64, String>)>,
}

impl Skipping {
    pub fn new(config: &config::Kafka) -> Self {
        let (outbox, found) = channel();
        let fetch_again_after = FETCH_AGAIN_AFTER;
        Self { fetch_again_after, config: config.clone(), looking: HashSet::new(), outbox, found }
    }

    /// Looks for the end of the batch that has this offset, unless that goes on already.
    pub fn look(&mut self, source: &TopicPartition, from: u64) {
        if !self.looking.insert(source.clone()) {
            return;
        }
        let (config, asked, outbox) = (self.config.clone(), source.clone(), self.outbox.clone());
        let look = move || {
            let found = end_of_batch(&config, &asked, from);
            // The consumer may have ended meanwhile.
            let _ = outbox.send((asked, from, found));
        };
        if let Err(error) = threads::spawn("kafka-unreadable", look) {
            warn!(partition = %source, %error, "can't look for the end of the batch");
            self.looking.remove(source);
        }
    }

    /// The offsets to skip of each batch whose end was found since. An end that wasn't found is looked for again after the batch was
    /// fetched again.
    pub fn found(&mut self) -> Vec<(TopicPartition, Range<u64>)> {
        let mut all = Vec::new();
        for (source, from, found) in self.found.try_iter() {
            self.looking.remove(&source);
            match found {
                Ok(end) => all.push((source, from..end)),
                Err(reason) => warn!(partition = %source, from, reason, "the unreadable batch can't be skipped yet"),
            }
        }
        all
    }
}

impl GroupConsumer {
    /// Reports batches that can't be read, and fetches them again from time to time, because a broker may have been repaired or another
    /// replica may lead.
    pub(super) fn look_at_unreadable(&mut self) {
        let assigned = self.consumer.context().assigned();
        for (source, partition) in assigned.iter() {
            let AssignedPartition::Reading { state, control } = partition else { continue };
            let Some(UnreadableBatch { since, reason, is_reported }) = control.unreadable() else { continue };
            let offset = state.next_offset();
            if !is_reported {
                control.unreadable_is_reported();
                // librdkafka would fetch the batch again and again without a pause, which keeps a core of the broker busy.
                if let Err(error) = self.consumer.pause(&only(source)) {
                    debug!(partition = %source, %error, "can't pause fetching");
                }
                let told = format!("the batch from offset {offset} on can't be read: {reason}");
                if self.on_unreadable == OnUnreadable::Stop {
                    self.handler.failed(format!("{source}: {told} (kafka.on_unreadable is \"stop\")"));
                }
                self.handler.unreadable(source, offset, &told);
                if self.on_unreadable == OnUnreadable::Skip {
                    self.skipping.look(source, offset);
                }
            }
            if since.elapsed() < self.skipping.fetch_again_after {
                continue;
            }
            match control.try_again(|| self.fetch_from(source, offset, state.leader_epoch())) {
                Ok(()) => {}
                // librdkafka stopped reading the partition, as it does where Kafka has deleted the batch. The reader, which waits for the
                // batch to be fetched again, doesn't take the event that says so.
                Err(RDKafkaErrorCode::State) if control.unchecked_since().is_none() => state.begin_again(),
                Err(error) => debug!(partition = %source, %error, "can't fetch the batch again yet"),
            }
        }
    }

    /// Goes on behind batches that can't be read, where their ends were found.
    pub(super) fn skip(&mut self) {
        for (source, offsets) in self.skipping.found() {
            let assigned = self.context().assigned();
            let Some(AssignedPartition::Reading { state, control }) = assigned.get(&source) else { continue };
            // The batch may have been read meanwhile, or the partition may be about to begin at another offset.
            let Some(UnreadableBatch { reason, .. }) = control.unreadable() else { continue };
            if state.next_offset() != offsets.start || state.phase() != Phase::Reading {
                continue;
            }
            let mut is_skipped = false;
            // Nobody knows the leader epoch behind the batch.
            let seek = || {
                self.fetch_from(&source, offsets.end, None)?;
                is_skipped = state.skip_to(offsets.end);
                Ok::<_, RDKafkaErrorCode>(())
            };
            match control.try_again(seek) {
                // Nothing was skipped, because a re-read was announced meanwhile. It comes to the batch once more.
                Ok(()) if !is_skipped => {}
                Ok(()) if offsets.is_empty() => debug!(partition = %source, "the batch can be read again"),
                Ok(()) => self.handler.skipped(&source, offsets, &reason),
                Err(error) => debug!(partition = %source, %error, "can't go on behind the batch yet"),
            }
        }
    }

    /// Ends the pause, if there is one, and moves the partition. What was fetched in between is dropped.
    fn fetch_from(&self, source: &TopicPartition, offset: u64, epoch: Option<u32>) -> Result<(), RDKafkaErrorCode> {
        self.end_pause(source)?;
        seek::seek(&self.consumer, source, offset, epoch, SEEK_TIMEOUT)
    }

    /// librdkafka keeps a pause also where the partition is given up and assigned again.
    pub(super) fn end_pause(&self, source: &TopicPartition) -> Result<(), RDKafkaErrorCode> {
        self.consumer.resume(&only(source)).map_err(seek::code)
    }
}

fn only(source: &TopicPartition) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(&source.topic, source.partition.cast_signed());
    list
}
