//! How long requests to ReductStore take, by what they do.
//!
//! Guarantees: measuring is a few plain additions a request, of which each carries up to thousands of records; a request
//! that fails is measured too.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOperation {
    /// Writes a batch.
    Write,
    /// Looks for records in a range of time.
    Query,
    /// Asks for one record.
    Read,
    /// Removes records.
    Remove,
}

impl StoreOperation {
    /// Each with its name in the metrics.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Write, "write"), (Self::Query, "query"), (Self::Read, "read"), (Self::Remove, "remove")];
}

/// The upper bounds of the buckets, in seconds.
pub const BOUNDS_S: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The times of all requests, one histogram for each operation.
#[derive(Debug, Default)]
pub struct RequestTimes([OperationTimes; StoreOperation::ALL.len()]);

#[derive(Debug, Default)]
struct OperationTimes {
    /// The last one has no bound.
    buckets: [AtomicU64; BOUNDS_S.len() + 1],
    sum_us: AtomicU64,
    failed: AtomicU64,
}

/// The requests of one operation at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestHistogram {
    /// See [`StoreOperation::ALL`].
    pub operation: &'static str,
    /// Upper bounds in seconds, and how many requests fell into each bucket and into no lower one.
    pub buckets: Vec<(f64, u64)>,
    /// The seconds of all requests together.
    pub sum_s: f64,
    /// How many of them failed.
    pub failed: u64,
}

impl RequestTimes {
    pub(super) fn took(&self, operation: StoreOperation, time: Duration, is_well: bool) {
        let Some(times) = self.0.get(operation as usize) else { return };
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS_S.len());
        if let Some(bucket) = times.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        times.sum_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
        if !is_well {
            times.failed.fetch_add(1, Relaxed);
        }
    }

    /// All operations as they are now.
    pub fn histograms(&self) -> Vec<RequestHistogram> {
        let bounds = || BOUNDS_S.into_iter().chain([f64::MAX]);
        let histogram = |(times, (_, operation)): (&OperationTimes, (StoreOperation, &'static str))| RequestHistogram {
            operation,
            buckets: bounds().zip(&times.buckets).map(|(bound, count)| (bound, count.load(Relaxed))).collect(),
            sum_s: times.sum_us.load(Relaxed) as f64 / 1e6,
            failed: times.failed.load(Relaxed),
        };
        self.0.iter().zip(StoreOperation::ALL).map(histogram).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_in_one_bucket_of_its_operation() {
        let times = RequestTimes::default();
        times.took(StoreOperation::Write, Duration::from_micros(900), true);
        times.took(StoreOperation::Write, Duration::from_millis(3), false);
        times.took(StoreOperation::Remove, Duration::from_secs(60), true);
        let [write, query, _, remove] = times.histograms().try_into().unwrap();
        assert_eq!(
            (write.operation, write.buckets[0], write.buckets[2], write.failed),
            ("write", (0.001, 1), (0.005, 1), 1)
        );
        assert!((write.sum_s - 0.0039).abs() < 1e-9);
        assert_eq!(query.buckets.iter().map(|(_, count)| count).sum::<u64>(), 0);
        assert_eq!(remove.buckets.last(), Some(&(f64::MAX, 1)));
    }
}
