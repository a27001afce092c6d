//! What a batch tells those who follow records through several programs: which records it holds, when it was sent, and whether
//! the store took it.
//!
//! Guarantees: the sink knows only this trait; without a target nothing of a batch is kept.

use std::time::SystemTime;

use bytes::Bytes;

use super::store::StoreError;
use crate::record::entry_name::EntryName;
use crate::record::{InputRecord, TopicPartition};

/// Who wants to know of each batch. It must not block.
pub trait BatchTarget: Send + Sync {
    /// A batch was sent and answered.
    fn wrote(&self, batch: TracedBatch);
}

/// One batch that was sent to the store and answered.
#[derive(Debug)]
pub struct TracedBatch {
    /// Where it was written to.
    pub entry: EntryName,
    /// What it was made of.
    pub messages: Vec<TracedMessage>,
    /// Bytes of its payloads.
    pub bytes: u64,
    /// When the writer took it up.
    pub begun: SystemTime,
    /// When the answer was there.
    pub ended: SystemTime,
    /// The class of the store's answer and its text, if it took no record or not all of them.
    pub failed: Option<(&'static str, String)>,
}

/// A record of Kafka's in a batch.
#[derive(Debug)]
pub struct TracedMessage {
    /// Its partition.
    pub source: TopicPartition,
    /// Its offset.
    pub offset: u64,
    /// The trace that it belongs to, as its producer says; not checked.
    pub traceparent: Option<Bytes>,
    /// What goes with it.
    pub tracestate: Option<Bytes>,
}

impl TracedMessage {
    /// The last of several headers of one key counts, as it does for labels.
    pub(super) fn of(record: &InputRecord) -> Self {
        let last = |key: &[u8]| {
            let found = record.headers.iter().rev().find(|header| header.key.eq_ignore_ascii_case(key));
            found.and_then(|header| header.value.clone())
        };
        Self {
            source: record.source.clone(),
            offset: record.offset,
            traceparent: last(b"traceparent"),
            tracestate: last(b"tracestate"),
        }
    }
}

impl TracedBatch {
    pub(super) fn begin(entry: &EntryName, messages: Vec<TracedMessage>, bytes: u64) -> Self {
        let now = SystemTime::now();
        Self { entry: entry.clone(), messages, bytes, begun: now, ended: now, failed: None }
    }

    pub(super) fn ended(self, answer: &Result<(), StoreError>) -> Self {
        let failed = answer.as_ref().err().map(|error| (error.class(), error.to_string()));
        Self { ended: SystemTime::now(), failed, ..self }
    }
}
