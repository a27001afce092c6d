//! Reports of swaps: each with its outcome, what the trial and the bake window found, and how long its steps took.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::shadow_trial::TrialComparison;

/// How many reports are remembered.
const REMEMBERED: usize = 64;

/// A new version or configuration of a plugin, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SwapReport {
    /// The number of the swap, counted from 1 since the host started.
    pub number: u64,
    /// The plugin's name in the configuration.
    pub plugin: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What began it.
    pub cause: Cause,
    /// The old version's digest.
    pub old: String,
    /// The new version's digest.
    pub new: String,
    /// Identifies the old version's configuration; absent if the plugin had none.
    pub old_config: Option<String>,
    /// Identifies the new version's configuration; absent if the plugin has none.
    pub new_config: Option<String>,
    /// The state of the rollout, or how it ended.
    pub outcome: RolloutOutcome,
    /// The reason for the outcome, where the outcome doesn't say it.
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

/// The state of a rollout, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutOutcome {
    /// The new version doesn't load; the active version stays.
    Refused,
    /// The new version runs as a shadow beside the active one.
    OnTrial,
    /// The new version passed a bound of its trial, or a person ended the trial; the active version stays.
    FailedTrial,
    /// The trial is over, and a person has to promote the new version or to roll it back.
    AwaitsPromotion,
    /// A still newer version came before this one was activated.
    Superseded,
    /// The new version is active, and its bake window is running.
    Baking,
    /// The new version is active, and its bake window is over.
    Active,
    /// The new version passed a bound in its bake window, or a person asked for the rollback: the previous version is
    /// active again.
    RolledBack,
}

impl RolloutOutcome {
    /// The outcome's name in JSON and in the metrics.
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

/// How long each step took, in milliseconds; absent if there was no such step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Steps {
    /// Compiling, in milliseconds.
    pub compile_ms: Option<f64>,
    /// Starting and configuring the first instance, in milliseconds.
    pub start_ms: Option<f64>,
    /// The shadow trial, in milliseconds.
    pub trial_ms: Option<f64>,
    /// Starting an instance for each worker and announcing the new version to the workers, in milliseconds.
    pub take_over_ms: Option<f64>,
    /// How long the slowest worker so far took to change over between two records, in milliseconds.
    pub worker_ms: Option<f64>,
}

/// What a version did in its bake window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct BakeFigures {
    /// How many records the new version decided about.
    pub records: u64,
    /// On how many records the new version failed.
    pub failed: u64,
    /// On which share of its records the previous version failed, from 0 to 1.
    pub failed_before: f64,
    /// The median of the new version's calls, in microseconds.
    pub p50_us: f64,
    /// The median of the previous version's calls, in microseconds.
    pub p50_us_before: f64,
    /// How long the bake window has lasted, in seconds.
    pub seconds: f64,
}

/// The reports of the last swaps, shared with the status page.
#[derive(Debug, Clone, Default)]
pub struct Swaps(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    reports: VecDeque<SwapReport>,
    /// How many swaps there were since the host started.
    number: u64,
    /// How many swaps ended in each way of [`ENDS`] since the host started.
    ended: [u64; ENDS.len()],
}

/// The outcomes with which a swap can end.
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
    /// The remembered reports, the oldest first.
    pub fn last(&self) -> Vec<SwapReport> {
        self.lock().reports.iter().cloned().collect()
    }

    /// How many swaps ended with each outcome since the host started, by the outcome's name.
    pub fn ended(&self) -> [(&'static str, u64); ENDS.len()] {
        let mut counts = ENDS.map(|end| (end.name(), 0));
        for ((_, count), ended) in counts.iter_mut().zip(self.lock().ended) {
            *count = ended;
        }
        counts
    }

    /// Begins a report and returns its number.
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

    /// Changes the report of that number, if it is still remembered.
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
