//! The log of a plugin's failures.
//!
//! Guarantees: the first failure of each kind is logged with its record and its reason; the others are counted, and their
//! number is logged once a minute while it fails, and within a minute after its last failure. So a plugin that fails on every record
//! costs the log some lines a minute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use crate::config::FailurePolicy;
use crate::record::InputRecord;

/// Kinds of reasons that are told apart. Further ones are counted together.
const KINDS: usize = 16;
/// Two reasons are of one kind if their first characters, this many, are alike, digits aside.
const KIND_CHARACTERS: usize = 80;
/// What was only counted is said this long after the first of it.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// One kind of failures of a plugin's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecentFailure {
    /// The last reason of this kind.
    pub reason: String,
    /// How often it failed so.
    pub count: u64,
    /// When it did so last: milliseconds since the Unix epoch.
    pub last_at_ms: u64,
}

/// Of one version of a plugin, shared by the workers.
pub(super) struct FailureLog {
    plugin: Arc<str>,
    version: String,
    seen: Mutex<SeenFailures>,
}

#[derive(Default)]
struct SeenFailures {
    kinds: Vec<FailureKind>,
    /// Since when there are failures that were only counted.
    unsaid_since: Option<Instant>,
}

struct FailureKind {
    name: String,
    /// Failures that weren't logged yet.
    count: u64,
    last: String,
    /// All of them, and when the last one was.
    total: u64,
    last_at: SystemTime,
}

impl FailureLog {
    pub fn new(plugin: Arc<str>, version: String) -> Self {
        Self { plugin, version, seen: Mutex::default() }
    }

    pub fn report(&self, record: &InputRecord, policy: FailurePolicy, reason: &str, now: Instant) {
        let mut seen = self.lock();
        if seen.count(reason, now) {
            let (plugin, version) = (&self.plugin, &self.version);
            let (topic, partition, offset) = (&record.source.topic, record.source.partition, record.offset);
            tracing::warn!(
                %plugin, version, %topic, partition, offset, reason, on_failure = ?policy,
                "the plugin failed on a record; more failures of this kind are counted",
            );
        }
        self.report_if_due(&mut seen, now);
    }

    /// Logs the failures that were only counted if a minute has passed: after the last one nobody else does.
    pub fn report_due(&self, now: Instant) {
        self.report_if_due(&mut self.lock(), now);
    }

    fn report_if_due(&self, seen: &mut SeenFailures, now: Instant) {
        if seen.is_due(now) {
            self.report_counts(seen);
        }
    }

    /// The kinds of failures so far, the latest first.
    pub fn recent(&self) -> Vec<RecentFailure> {
        let at_ms = |at: SystemTime| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        };
        let mut recent: Vec<RecentFailure> = self
            .lock()
            .kinds
            .iter()
            .map(|kind| RecentFailure { reason: kind.last.clone(), count: kind.total, last_at_ms: at_ms(kind.last_at) })
            .collect();
        recent.sort_by_key(|failure| std::cmp::Reverse(failure.last_at_ms));
        recent
    }

    /// Logs the failures that were only counted: the host is about to end, or the version to leave.
    pub fn report_rest(&self) {
        self.report_counts(&mut self.lock());
    }

    fn report_counts(&self, seen: &mut SeenFailures) {
        let (plugin, version) = (&self.plugin, &self.version);
        seen.unsaid_since = None;
        for kind in seen.kinds.iter_mut().filter(|kind| kind.count > 0) {
            let (records, last_reason) = (std::mem::take(&mut kind.count), &kind.last);
            tracing::warn!(%plugin, version, records, last_reason, "the plugin failed on more records");
        }
    }

    fn lock(&self) -> MutexGuard<'_, SeenFailures> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SeenFailures {
    fn is_due(&self, now: Instant) -> bool {
        self.unsaid_since.is_some_and(|since| now.saturating_duration_since(since) >= REPORT_EVERY)
    }

    fn is_new_kind(&self, name: &str) -> bool {
        self.kinds.len() < KINDS && !self.kinds.iter().any(|kind| kind.name == name)
    }

    /// Counts the failure, unless it is the first of its kind: then `true`.
    fn count(&mut self, reason: &str, now: Instant) -> bool {
        let name: String = reason.chars().filter(|c| !c.is_ascii_digit()).take(KIND_CHARACTERS).collect();
        if self.is_new_kind(&name) {
            self.kinds.push(FailureKind { name, count: 0, last: reason.into(), total: 1, last_at: SystemTime::now() });
            return true;
        }
        let known = self.kinds.iter().position(|kind| kind.name == name);
        // What is one kind too many counts with the last.
        let at = known.unwrap_or(KINDS.saturating_sub(1));
        if let Some(kind) = self.kinds.get_mut(at) {
            self.unsaid_since.get_or_insert(now);
            kind.count += 1;
            kind.total += 1;
            kind.last_at = SystemTime::now();
            kind.last.clear();
            kind.last.push_str(reason);
        }
        false
    }
}

impl Drop for FailureLog {
    fn drop(&mut self) {
        self.report_rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_kind_is_new_and_the_others_are_counted() {
        let (mut seen, now) = (SeenFailures::default(), Instant::now());
        assert!(seen.count("frame 17 is broken", now));
        assert!(!seen.count("frame 18 is broken", now));
        assert!(seen.count("no header camera", now));
        assert!(!seen.count("frame 19 is broken", now));
        assert_eq!(seen.kinds.iter().map(|kind| kind.count).collect::<Vec<_>>(), [2, 0]);
        let new = (0..1000_u32).filter(|n| seen.count(&"x".repeat(*n as usize % 70), now)).count();
        assert_eq!(new, KINDS - 2, "their number is bounded");
    }

    #[test]
    fn counted_failures_are_said_once_a_minute_also_when_no_other_comes() {
        let failures = FailureLog::new("p".into(), "v".into());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let unsaid = || failures.lock().kinds.iter().map(|kind| kind.count).sum::<u64>();
        failures.lock().count("broken", at(0));
        assert!(!failures.lock().is_due(at(1000)), "the first one was logged by itself");
        failures.lock().count("broken", at(100));
        failures.lock().count("broken", at(130));
        failures.report_due(at(159));
        assert_eq!(unsaid(), 2);
        failures.report_due(at(160));
        assert_eq!(unsaid(), 0);
        failures.lock().count("broken", at(170));
        failures.report_due(at(229));
        assert_eq!(unsaid(), 1, "once a minute");
        failures.report_due(at(230));
        assert_eq!((unsaid(), failures.recent()[0].count), (0, 4));
    }
}
