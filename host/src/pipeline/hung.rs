//! Records on which a call to a plugin didn't come back, so that the worker that called it was lost.
//!
//! Guarantees: such a record is given to no plugin while that version of the plugin is active, because the next worker would be lost as
//! well; what becomes of it follows from the plugin's `on_failure`. A record of a topic that was deleted and created again isn't taken for
//! the one that had its offset before. While there is no such record, a worker pays one atomic load for each record.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::lock;
use crate::chain::PluginFailure;
use crate::config::FailurePolicy;
use crate::record::{InputRecord, TopicId, TopicPartition};

/// A call that didn't come back, and the policy that decides what becomes of its record.
#[derive(Debug, Clone)]
pub struct HungCall {
    pub failure: PluginFailure,
    pub policy: FailurePolicy,
}

/// By partition and offset.
type ByOffset = HashMap<(TopicPartition, u64), (Option<TopicId>, HungCall)>;

#[derive(Debug, Default)]
pub struct HungRecords {
    any: AtomicBool,
    records: Mutex<ByOffset>,
}

/// Which record the plugins are asked about.
#[derive(Debug, Clone)]
pub struct RecordAsked {
    pub source: TopicPartition,
    pub topic_id: Option<TopicId>,
    pub offset: u64,
}

impl RecordAsked {
    pub fn of(record: &InputRecord) -> Self {
        Self { source: record.source.clone(), topic_id: record.topic_id, offset: record.offset }
    }
}

impl HungRecords {
    pub fn add(&self, record: RecordAsked, call: HungCall) {
        let RecordAsked { source, topic_id, offset } = record;
        lock(&self.records).insert((source, offset), (topic_id, call));
        self.any.store(true, Ordering::SeqCst);
    }

    /// The call that didn't come back on this record; `None`: there was none. The plugin's version may have been replaced since.
    pub fn of(&self, record: &InputRecord) -> Option<HungCall> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let records = lock(&self.records);
        let (topic_id, call) = records.get(&(record.source.clone(), record.offset))?;
        // Where one of the two ids isn't known, it may be the same topic.
        let is_other_topic = topic_id.zip(record.topic_id).is_some_and(|(before, now)| before != now);
        (!is_other_topic).then(|| call.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugin::Digest;

    #[test]
    fn a_record_of_a_topic_that_was_made_again_is_another_one() {
        let record = |topic_id, offset| InputRecord {
            source: TopicPartition { topic: "camera".into(), partition: 0 },
            topic_id,
            offset,
            timestamp_ms: None,
            key: None,
            headers: Vec::new(),
            payload: None,
        };
        let [before, now] = [1, 2].map(|id| TopicId::from_halves(0, id));
        let plugin: Arc<str> = "hanging".into();
        let failure = PluginFailure { plugin, digest: Digest::of(b""), config: None, reason: String::new() };
        let hung = HungRecords::default();
        assert!(hung.of(&record(before, 7)).is_none());
        hung.add(RecordAsked::of(&record(before, 7)), HungCall { failure, policy: FailurePolicy::DeadLetter });
        assert!(hung.of(&record(before, 7)).is_some() && hung.of(&record(None, 7)).is_some());
        assert!(hung.of(&record(now, 7)).is_none() && hung.of(&record(before, 8)).is_none());
    }
}
