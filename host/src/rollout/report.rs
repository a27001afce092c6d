//! Reports of swaps: each with its outcome, what the trial and the bake window found, and how long its steps took.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::shadow_trial::TrialComparison;

/// How many are remembered.
const REMEMBERED: usize = 64;

/// A new version or configuration of a plugin, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SwapReport {
    /// Counts up from 1.
    pub number: u64,
    /// The plugin's name in the configuration.
    pub plugin: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What began it.
    pub cause: Cause,
    /// Digests of the files.
    pub old: String,
    /// The new version's digest.
    pub new: String,
    /// Identify the configurations; absent where the plugin has none.
    pub old_config: Option<String>,
    /// The version of the new configuration, if the plugin has one.
    pub new_config: Option<String>,
    /// How it stands or ended.
    pub outcome: RolloutOutcome,
    /// Why, where the outcome doesn't say it.
    pub reason: Option<String>,
    /// How long each step took.
    pub steps: Steps,
    /// What the trial found, if there was one.
    pub trial: Option<TrialComparison>,
    /// What was seen in the bake window, if there was one.
    pub bake: Option<BakeFigures>,
}

/// What began a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The plugin's file changed.
    File,
    /// The plugin's configuration changed.
    Configuration,
    /// A person asked for the previous version.
    Rollback,
}

/// How a rollout stands or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutOutcome {
    /// It doesn't load; the active one stays.
    Refused,
    /// The new version runs as a shadow.
    OnTrial,
    /// The trial went past a bound; the active one stays.
    FailedTrial,
    /// The trial is over, and a person decides.
    AwaitsPromotion,
    /// A newer one came before it was active.
    Superseded,
    /// It is active, and its bake window has begun.
    Baking,
    /// It is active, and its bake window is over.
    Active,
    /// It went past a bound, or a person asked for it: the previous one is active again.
    RolledBack,
}

impl RolloutOutcome {
    /// As it is in JSON and in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::OnTrial => "on-trial",
            Self::FailedTrial => "failed-trial",
            Self::AwaitsPromotion => "awaits-promotion",
            Self::Superseded => "superseded",
            Self::Baking => "baking",
            Self::Active => "active",
            Self::RolledBack => "rolled-back",
        }
    }
}

/// How long each step took, in milliseconds; absent where there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Steps {
    /// Compiling, in milliseconds.
    pub compile_ms: Option<f64>,
    /// Starting and configuring the first instance.
    pub start_ms: Option<f64>,
    /// The shadow trial, in milliseconds.
    pub trial_ms: Option<f64>,
    /// Starting an instance for each worker, and telling the workers.
    pub take_over_ms: Option<f64>,
    /// What the slowest worker so far took to change over between two records.
    pub worker_ms: Option<f64>,
}

/// What a version did in its bake window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct BakeFigures {
    /// Records that the new version decided about.
    pub records: u64,
    /// Records on which it failed.
    pub failed: u64,
    /// Failures a record that the version before had.
    pub failed_before: f64,
    /// Half of its calls took at most this, in microseconds.
    pub p50_us: f64,
    /// The same of the version before, in microseconds.
    pub p50_us_before: f64,
    /// How long its bake window has lasted, in seconds.
    pub seconds: f64,
}

/// The last swaps, shared with the status page.
#[derive(Debug, Clone, Default)]
pub struct Swaps(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    reports: VecDeque<SwapReport>,
    number: u64,
    /// How many swaps ended how, since the host started.
    ended: [u64; ENDS.len()],
}

/// How a swap can end.
const ENDS: [RolloutOutcome; 5] = [
    RolloutOutcome::Refused,
    RolloutOutcome::FailedTrial,
    RolloutOutcome::Superseded,
    RolloutOutcome::Active,
    RolloutOutcome::RolledBack,
];

impl Kept {
    fn count(&mut self, outcome: RolloutOutcome) {
        let at = ENDS.iter().position(|end| *end == outcome);
        if let Some(count) = at.and_then(|at| self.ended.get_mut(at)) {
            *count += 1;
        }
    }
}

impl Swaps {
    /// The oldest first.
    pub fn last(&self) -> Vec<SwapReport> {
        self.lock().reports.iter().cloned().collect()
    }

    /// How many swaps ended how, since the host started.
    pub fn ended(&self) -> [(&'static str, u64); ENDS.len()] {
        let mut counts = ENDS.map(|end| (end.name(), 0));
        for ((_, count), ended) in counts.iter_mut().zip(self.lock().ended) {
            *count = ended;
        }
        counts
    }

    pub(super) fn begin(&self, plugin: &str, cause: Cause, old: String, new: String, outcome: RolloutOutcome) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut kept = self.lock();
        kept.number += 1;
        kept.count(outcome);
        let number = kept.number;
        kept.reports.push_back(SwapReport {
            number,
            plugin: plugin.into(),
            at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            cause,
            old,
            new,
            old_config: None,
            new_config: None,
            outcome,
            reason: None,
            steps: Steps::default(),
            trial: None,
            bake: None,
        });
        if kept.reports.len() > REMEMBERED {
            kept.reports.pop_front();
        }
        number
    }

    /// Changes a report that is still remembered.
    pub(super) fn update(&self, number: u64, change: impl FnOnce(&mut SwapReport)) {
        let mut kept = self.lock();
        let Some(report) = kept.reports.iter_mut().find(|report| report.number == number) else { return };
        let before = report.outcome;
        change(report);
        let now = report.outcome;
        if now != before {
            kept.count(now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
