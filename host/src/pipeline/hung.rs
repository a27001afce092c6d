//! Records on which a plugin's call didn't come back, with the worker that asked.
//!
//! Guarantees: such a record is given to no plugin again while this process runs, because the next worker would be lost to
//! it as well; it becomes a dead letter, or what the plugin's `on_failure` says. Costs a worker one load a record.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::lock;
use crate::chain::PluginFailure;
use crate::config::FailurePolicy;
use crate::record::TopicPartition;

/// What becomes of such a record.
#[derive(Debug, Clone)]
pub struct HungCall {
    pub failure: PluginFailure,
    pub policy: FailurePolicy,
}

#[derive(Debug, Default)]
pub struct HungRecords {
    any: AtomicBool,
    records: Mutex<HashMap<(TopicPartition, u64), HungCall>>,
}

impl HungRecords {
    pub fn add(&self, source: TopicPartition, offset: u64, call: HungCall) {
        lock(&self.records).insert((source, offset), call);
        self.any.store(true, Ordering::SeqCst);
    }

    /// What happened on this record.
    pub fn of(&self, source: &TopicPartition, offset: u64) -> Option<HungCall> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        lock(&self.records).get(&(source.clone(), offset)).cloned()
    }
}
