//! Decides whether a new version of a plugin is worse than the previous one: by the bounds of the bake window and of
//! the shadow trial in the configuration. Plain values, no I/O.

use crate::chain::PluginVersion;
use crate::config::{Bake, Trial};

use super::report::BakeFigures;
use super::shadow_trial::TrialComparison;

/// A share of few records says little, so a bound is applied to at least this many: a bound of 0.5 % allows 5 failures
/// from the first record on.
const LEAST_RECORDS: u64 = 1000;
/// Latencies are compared only if what was measured of each version weighs at least as much as this many calls of the sample. All calls
/// that ran into their time limit are measured: a few of them say little beside those that the sample left out.
const LEAST_WEIGHT: u64 = 16;
/// A version whose median call takes at most this, in microseconds, is never too slow.
const FAST_US: f64 = 100.0;

/// What was counted and measured of a version up to a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct VersionStats {
    pub records: u64,
    pub failed: u64,
    pub weight: u64,
    pub p50_us: f64,
}

impl VersionStats {
    /// The statistics of this version; a `retry` counts as a failure.
    pub fn of(version: &PluginVersion) -> Self {
        let counts = version.counts;
        let failed = counts.failed + counts.retried;
        let records = counts.kept + counts.dropped + counts.changed + counts.split + failed;
        Self { records, failed, weight: version.latency.weight, p50_us: version.latency.p50_us }
    }

    /// Which share of the records failed, from 0 to 1.
    fn share(&self) -> f64 {
        self.failed as f64 / self.records.max(1) as f64
    }
}

/// What a version did since it was activated, beside what the previous version did in all its time.
pub(super) fn figures(
    before: VersionStats,
    at_take_over: VersionStats,
    now: VersionStats,
    seconds: f64,
) -> BakeFigures {
    BakeFigures {
        records: now.records.saturating_sub(at_take_over.records),
        failed: now.failed.saturating_sub(at_take_over.failed),
        failed_before: before.share(),
        p50_us: now.p50_us,
        p50_us_before: before.p50_us,
        seconds,
    }
}

/// Why the version has to be rolled back; `None`: it is within the bounds.
pub(super) fn past_bounds(
    bounds: &Bake,
    before: VersionStats,
    now: VersionStats,
    figures: &BakeFigures,
) -> Option<String> {
    failures(figures.failed, figures.records, before.share(), bounds.max_failures.0)
        .or_else(|| slowness((now.weight, now.p50_us), (before.weight, before.p50_us), bounds.max_slowdown))
}

/// Why the candidate must not be activated; `None`: it is within the bounds.
pub(super) fn past_trial(bounds: &Trial, found: &TrialComparison) -> Option<String> {
    let share = found.failed_present as f64 / found.records.max(1) as f64;
    let (candidate, present) = (found.latency, found.latency_present);
    failures(found.failed, found.records, share, bounds.max_failures.0).or_else(|| {
        slowness((candidate.weight, candidate.p50_us), (present.weight, present.p50_us), bounds.max_slowdown)
    })
}

/// `before` is the previous version's share of failures; `more` is how much larger the new version's share may be.
fn failures(failed: u64, records: u64, before: f64, more: f64) -> Option<String> {
    let share = before + more;
    let allowed = share * records.max(LEAST_RECORDS) as f64;
    (failed as f64 > allowed).then(|| {
        let (most, percent) = (allowed.floor(), share * 100.0);
        // Among few records the bound is that of the least number.
        let of_which = if records > LEAST_RECORDS { records.to_string() } else { format!("the first {LEAST_RECORDS}") };
        let failures = if most == 1.0 { "failure" } else { "failures" };
        format!(
            "it failed on {failed} of {records} records, and at most {most} {failures} among {of_which} are allowed ({percent:.2} %)"
        )
    })
}

/// `now` and `before` are each the weight of what was measured and the median in microseconds.
fn slowness(now: (u64, f64), before: (u64, f64), times: u64) -> Option<String> {
    let enough = now.0 >= LEAST_WEIGHT && before.0 >= LEAST_WEIGHT;
    (enough && now.1 > FAST_US && now.1 > before.1 * times as f64).then(|| {
        format!(
            "its median call takes {:.1} µs and that of the previous version {:.1} µs; the bound is {times} times as \
             much",
            now.1, before.1
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::chain::Meters;
    use crate::config::PluginSource;
    use crate::plugin::{Counts, Digest};

    fn done(records: u64, failed: u64) -> VersionStats {
        VersionStats { records, failed, weight: 100, p50_us: 5.0 }
    }

    fn verdict(before: VersionStats, now: VersionStats) -> Option<String> {
        let figures = figures(before, VersionStats::default(), now, 1.0);
        past_bounds(&Bake::default(), before, now, &figures)
    }

    #[test]
    fn failures_are_counted_beyond_those_of_the_previous_version() {
        assert_eq!(verdict(done(0, 0), done(10, 5)), None, "too few to say");
        assert!(verdict(done(0, 0), done(10, 6)).is_some());
        assert_eq!(verdict(done(100_000, 0), done(10_000, 50)), None);
        assert!(verdict(done(100_000, 0), done(10_000, 51)).is_some());
        assert_eq!(verdict(done(1000, 100), done(10_000, 1000)), None, "it was so before");
        assert_eq!(
            verdict(done(0, 0), done(10, 10)).unwrap(),
            "it failed on 10 of 10 records, and at most 5 failures among the first 1000 are allowed (0.50 %)"
        );
        assert!(
            verdict(done(1000, 0), done(10_000, 51)).unwrap().contains("at most 50 failures among 10000 are allowed")
        );
        assert!(verdict(done(1000, 100), done(10_000, 1100)).is_some());
    }

    #[test]
    fn slowness_is_a_matter_of_proportion_and_of_enough_calls() {
        let slow = |p50_us, weight| VersionStats { p50_us, weight, ..done(1000, 0) };
        assert_eq!(verdict(slow(5.0, 100), slow(60.0, 100)), None, "fast enough");
        assert!(verdict(slow(5.0, 100), slow(200.0, 100)).is_some());
        assert_eq!(verdict(slow(5.0, 100), slow(200.0, 3)), None);
        assert_eq!(verdict(slow(50.0, 100), slow(200.0, 100)), None);
    }

    /// A version of which all calls at their time limit were measured, and of the others one in 64.
    fn described(quick: usize, late: usize) -> PluginVersion {
        let meters = Meters::default();
        let meter = meters.join();
        (0..quick).for_each(|_| meter.took(Duration::from_micros(3)));
        (0..late).for_each(|_| meter.timed_out(Duration::from_millis(500)));
        PluginVersion {
            name: "p".into(),
            digest: Digest::of(b"p"),
            config: None,
            source: PluginSource::Builtin,
            bytes: 0,
            since: SystemTime::UNIX_EPOCH,
            counts: Counts::default(),
            failures: Vec::new(),
            breaker_open: false,
            passed_over: 0,
            latency: meters.latency(),
            histogram: meters.histogram(),
            memory_bytes: 0,
            taking_over: Duration::ZERO,
        }
    }

    #[test]
    fn a_few_calls_at_their_time_limit_do_not_stand_for_all() {
        let before = VersionStats::of(&described(100, 0));
        let now = |quick, late| verdict(before, VersionStats::of(&described(quick, late)));
        assert_eq!(now(2, 200), None, "they are 200 of 328 calls");
        for (quick, late) in [(16, 2_000), (0, 1_024)] {
            assert!(now(quick, late).is_some_and(|told| told.contains("its median call takes")));
        }
    }
}
