//! Counts the requests of a partition that are under way, and waits for records and answers before the partition is given up.
//!
//! Guarantees: a request with a dead letter of a partition counts as a request of the partition.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::{Inner, PartitionState};
use crate::flow::ack_handle::UnderWay;

impl PartitionState {
    /// Counts a request with records of this partition as under way until the returned value is dropped.
    #[must_use]
    pub fn request(self: &Arc<Self>) -> UnderWay {
        self.lock().requests += 1;
        if let Some(live) = self.live_partition() {
            live.lock().requests += 1;
        }
        UnderWay::new(Arc::clone(self))
    }

    pub(in crate::flow) fn answered(&self) {
        for state in self.live_partition().map(AsRef::as_ref).into_iter().chain([self]) {
            let mut inner = state.lock();
            inner.requests = inner.requests.saturating_sub(1);
            state.notify(&inner);
        }
    }

    /// Waits until no record is in flight; `false`: that took longer than `bound`, or can't happen any more.
    pub fn wait_drained(&self, bound: Duration) -> bool {
        self.wait(bound, |inner| match inner.checkpoint.in_flight() {
            0 => Some(true),
            _ => (!inner.is_held()).then_some(false),
        })
    }

    /// Waits until no request is under way; `false`: that took longer than `bound`.
    pub fn wait_answered(&self, bound: Duration) -> bool {
        self.wait(bound, |inner| (inner.requests == 0).then_some(true))
    }

    fn wait(&self, bound: Duration, is_done: impl Fn(&Inner) -> Option<bool>) -> bool {
        let deadline = Instant::now() + bound;
        let mut inner = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match is_done(&inner) {
                Some(answer) => return answer,
                None if left.is_zero() => return false,
                None => {}
            }
            inner.waiting += 1;
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
            inner.waiting -= 1;
        }
    }
}
