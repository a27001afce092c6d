//! Measures how long a plugin's calls take and how much memory its instances have.
//!
//! Guarantees: each worker writes its own meter with plain stores; a percentile is exact to an eighth of its value (a
//! histogram has eight buckets from one power of two to the next), the longest measured call is exact; a meter's size is fixed,
//! a few kilobytes. A call of the sample stands for all calls between it and the one before; a call that ran into its time limit
//! is always measured and stands for itself, so that none of them is missing and they don't count for more than they are.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::stage::MEASURED_EVERY;
use crate::plugin::increment;

/// The binary logarithm of [`STEPS`].
const STEP_BITS: u32 = 3;
/// How many buckets there are from one power of two to the next.
const STEPS: usize = 1 << STEP_BITS;
/// The buckets reach up to 2^38 ns, more than four minutes: a longer call counts in the last bucket.
const OCTAVES: usize = 36;
const BUCKETS: usize = OCTAVES * STEPS;

/// The latency of the calls that were measured, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How many calls were measured, of the sample and those that ran into their time limit.
    pub measured: u64,
    /// How many calls of the sample they say as much as: one of these stands for many calls, one that ran into its time limit for itself.
    #[serde(skip)]
    pub weight: u64,
    /// Half of the calls took at most this, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 calls took at most this, in microseconds.
    pub p99_us: f64,
    /// The longest call, in microseconds.
    pub max_us: f64,
}

/// The bounds of [`Histogram`]'s buckets in nanoseconds, as powers of two: from one microsecond to 17 seconds.
const BOUNDS: [u32; 13] = [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34];

/// How the calls are spread over a few buckets, as far as the measured ones tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// The upper bound of each bucket in seconds, and how many calls fell into it and into no lower one.
    pub buckets: Vec<(f64, u64)>,
    /// How many seconds these calls took together, exact to a sixteenth.
    pub sum_s: f64,
}

impl std::ops::AddAssign<&Histogram> for Histogram {
    fn add_assign(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
        } else {
            for ((_, sum), (_, count)) in self.buckets.iter_mut().zip(&other.buckets) {
                *sum += count;
            }
        }
        self.sum_s += other.sum_s;
    }
}

/// The meters of one version of a plugin, one for each worker.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<Vec<Arc<Meter>>>);

/// What one worker measured of one version.
#[derive(Debug)]
pub(crate) struct Meter {
    buckets: [AtomicU64; BUCKETS],
    longest: AtomicU64,
    /// Calls that ran into their time limit, and how many nanoseconds they took together.
    timed_out: AtomicU64,
    timed_out_nanos: AtomicU64,
    memory: AtomicU64,
    passed_over: AtomicU64,
    /// How many nanoseconds this worker took to change over to the version.
    taking_over: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            longest: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            timed_out_nanos: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            passed_over: AtomicU64::new(0),
            taking_over: AtomicU64::new(0),
        }
    }
}

impl Meter {
    /// A call of the sample, one in [`MEASURED_EVERY`].
    pub fn took(&self, time: Duration) {
        let nanos = nanos(time);
        if let Some(bucket) = self.buckets.get(bucket_of(nanos)) {
            increment(bucket);
        }
        self.longest.store(self.longest.load(Relaxed).max(nanos), Relaxed);
    }

    /// A call that ran into its time limit.
    pub fn timed_out(&self, time: Duration) {
        let nanos = nanos(time);
        increment(&self.timed_out);
        self.timed_out_nanos.store(self.timed_out_nanos.load(Relaxed).saturating_add(nanos), Relaxed);
        self.longest.store(self.longest.load(Relaxed).max(nanos), Relaxed);
    }

    /// How many calls there were for each bucket, as far as the measured ones tell.
    fn calls(&self) -> impl Iterator<Item = u64> {
        // All of them took about as long as the limit says.
        let timed_out = self.timed_out.load(Relaxed);
        let late = self.timed_out_nanos.load(Relaxed).checked_div(timed_out).map(bucket_of);
        let sampled = |bucket: &AtomicU64| bucket.load(Relaxed).saturating_mul(MEASURED_EVERY);
        let calls = move |(at, bucket)| sampled(bucket) + if late == Some(at) { timed_out } else { 0 };
        self.buckets.iter().enumerate().map(calls)
    }

    /// Notes how much memory the worker's instances have now: 0 when they have ended.
    pub fn record_memory(&self, bytes: usize) {
        self.memory.store(bytes as u64, Relaxed);
    }

    /// Counts a record that the plugin's `when` leaves out.
    pub fn passed_over(&self) {
        increment(&self.passed_over);
    }

    pub fn took_over_in(&self, time: Duration) {
        self.taking_over.store(nanos(time), Relaxed);
    }
}

impl Meters {
    /// A meter for one more worker.
    pub fn join(&self) -> Arc<Meter> {
        let meter = Arc::new(Meter::default());
        self.lock().push(Arc::clone(&meter));
        meter
    }

    pub fn latency(&self) -> Latency {
        let meters = self.lock();
        let mut buckets = [0_u64; BUCKETS];
        let (mut longest, mut measured) = (0, 0);
        for meter in meters.iter() {
            for (sum, calls) in buckets.iter_mut().zip(meter.calls()) {
                *sum += calls;
            }
            longest = longest.max(meter.longest.load(Relaxed));
            measured += meter.timed_out.load(Relaxed);
            measured += meter.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum::<u64>();
        }
        let calls: u64 = buckets.iter().sum();
        let percentile = |share: f64| {
            let rank = ((calls as f64 * share).ceil() as u64).max(1);
            let mut seen = 0;
            let bucket = buckets.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            bucket.map_or(0, |bucket| middle_of(bucket).min(longest))
        };
        let us = |nanos: u64| nanos as f64 / 1000.0;
        Latency {
            measured,
            weight: calls / MEASURED_EVERY,
            p50_us: us(percentile(0.5)),
            p99_us: us(percentile(0.99)),
            max_us: us(longest),
        }
    }

    pub fn histogram(&self) -> Histogram {
        let bounds = BOUNDS.iter().map(|power| (1u64 << power) as f64 / 1e9);
        let mut buckets: Vec<(f64, u64)> = bounds.chain([f64::MAX]).map(|bound| (bound, 0)).collect();
        let mut sum_s = 0.0;
        for meter in self.lock().iter() {
            for (bucket, count) in meter.calls().enumerate() {
                let seconds = middle_of(bucket) as f64 / 1e9;
                sum_s += seconds * count as f64;
                if let Some(found) = buckets.iter_mut().find(|(bound, _)| seconds < *bound) {
                    found.1 += count;
                }
            }
        }
        Histogram { buckets, sum_s }
    }

    /// The memory of all instances together, in bytes.
    pub fn memory(&self) -> u64 {
        self.lock().iter().map(|meter| meter.memory.load(Relaxed)).sum()
    }

    pub fn passed_over(&self) -> u64 {
        self.lock().iter().map(|meter| meter.passed_over.load(Relaxed)).sum()
    }

    /// How long the slowest worker took to change over to the version.
    pub fn taking_over(&self) -> Duration {
        let longest = self.lock().iter().map(|meter| meter.taking_over.load(Relaxed)).max();
        Duration::from_nanos(longest.unwrap_or(0))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Meter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn bucket_of(nanos: u64) -> usize {
    if nanos < STEPS as u64 {
        return nanos as usize;
    }
    let octave = nanos.ilog2() - STEP_BITS;
    let step = (nanos >> octave) as usize - STEPS;
    (((octave as usize) + 1) * STEPS + step).min(BUCKETS - 1)
}

fn middle_of(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let octave = bucket / STEPS - 1;
    let least = ((STEPS + bucket % STEPS) as u64) << octave;
    least + (1 << octave) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_an_eighth() {
        let meters = Meters::default();
        let (one, other) = (meters.join(), meters.join());
        for nanos in 1..=10_000 {
            (if nanos % 2 == 0 { &one } else { &other }).took(Duration::from_nanos(nanos * 100));
        }
        let latency = meters.latency();
        assert_eq!((latency.measured, latency.max_us), (10_000, 1000.0));
        assert!((latency.p50_us - 500.0).abs() < 500.0 / 8.0, "{latency:?}");
        assert!((latency.p99_us - 990.0).abs() < 990.0 / 8.0, "{latency:?}");
        let histogram = meters.histogram();
        // Each stands for as many calls as are between two measured ones.
        assert_eq!(histogram.buckets.iter().map(|(_, count)| count).sum::<u64>(), 10_000 * MEASURED_EVERY);
        let up_to =
            |seconds: f64| histogram.buckets.iter().filter(|(bound, _)| *bound <= seconds).map(|(_, n)| n).sum();
        let half: u64 = up_to(0.000_263);
        assert!((2_500..2_700).contains(&(half / MEASURED_EVERY)), "{histogram:?}");
        assert!((histogram.sum_s / MEASURED_EVERY as f64 - 5.0).abs() < 0.3, "{histogram:?}");
    }

    #[test]
    fn each_call_that_ran_into_its_time_limit_counts_once() {
        let meters = Meters::default();
        let meter = meters.join();
        let [quick, limit] = [Duration::from_micros(3), Duration::from_millis(500)];
        (0..10).for_each(|_| meter.took(quick));
        (0..5).for_each(|_| meter.timed_out(limit));
        let latency = meters.latency();
        assert_eq!((latency.measured, latency.weight, latency.max_us), (15, 10, 500_000.0));
        assert!(latency.p99_us < 4.0, "5 of 645 calls are fewer than one in a hundred: {latency:?}");
        let counts =
            |bound: f64| meters.histogram().buckets.iter().find(|(of, _)| *of > bound).map(|(_, count)| *count);
        assert_eq!((counts(3e-6), counts(0.5)), (Some(10 * MEASURED_EVERY), Some(5)));
        assert!((meters.histogram().sum_s - 2.5).abs() < 0.2, "{:?}", meters.histogram());
        (0..5).for_each(|_| meter.timed_out(limit));
        assert!((meters.latency().p99_us - 500_000.0).abs() < 500_000.0 / 8.0, "10 of 650: {:?}", meters.latency());
    }

    #[test]
    fn every_time_has_its_bucket() {
        for nanos in [0, 1, 7, 8, 9, 15, 16, 17, 1000, 123_456_789, 1 << 38] {
            let middle = middle_of(bucket_of(nanos)) as f64;
            assert!((middle - nanos as f64).abs() <= nanos as f64 / 8.0, "{nanos}: {middle}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(Meters::default().latency(), Latency::default());
    }
}
