//! The rollout of one plugin's versions: the shadow trial of a candidate, its activation, its bake window, and the
//! rollback to the previous version.
//!
//! Guarantees: a single version becomes active by `activate` only, and the previous one by `return_to_former` only (a changed
//! configuration installs its whole chain at once); the previous
//! version stays loaded until the next swap; bytes that were refused aren't loaded again until the file changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::actions::PluginActions;
use super::bake_window::{self, VersionStats};
use super::reload::loads_alike;
use super::report::{Cause, RolloutOutcome, Swaps, ms};
use super::shadow_trial::{ShadowTrial, start_trial};
use crate::chain::{SharedChain, StageObserver, StageSpec};
use crate::config::Mode;

#[derive(Default)]
pub(super) struct Rollout {
    trial: Option<OnTrial>,
    baking: Option<Baking>,
    /// The previous version, kept loaded for a rollback.
    former: Option<StageSpec>,
}

struct OnTrial {
    candidate: StageSpec,
    cause: Cause,
    report: u64,
    started: Instant,
    /// `None`: the trial is over, and a person has to decide.
    trial: Option<Arc<ShadowTrial>>,
}

struct Baking {
    report: u64,
    started: Instant,
    /// What the previous version had done when it was replaced.
    before: VersionStats,
    /// What the new version had already done when it was activated, in an earlier activation.
    at_take_over: VersionStats,
    /// Whether the log already says that the new version has passed a bound.
    reported: bool,
}

impl Rollout {
    /// Whether a trial or a bake window is running.
    pub fn is_under_way(&self) -> bool {
        self.baking.is_some() || self.trial.as_ref().is_some_and(|on_trial| on_trial.trial.is_some())
    }

    /// The version that is on trial, or waits to be promoted.
    pub fn candidate(&self) -> Option<&StageSpec> {
        self.trial.as_ref().map(|on_trial| &on_trial.candidate)
    }

    /// What [`Self::promote`] and [`Self::rollback`] would find.
    pub fn actions(&self) -> PluginActions {
        PluginActions { promote: self.trial.is_some(), roll_back: self.trial.is_some() || self.former.is_some() }
    }

    /// The versions beside the active one that may become active without being loaded.
    pub fn others(&self) -> impl Iterator<Item = &StageSpec> {
        self.candidate().into_iter().chain(&self.former)
    }

    /// Starts the rollout of a new version: with its trial, or with its activation if `trial.mode` is off.
    pub fn introduce(&mut self, candidate: StageSpec, cause: Cause, shared: &SharedChain, swaps: &Swaps) {
        self.end_trial(shared);
        if let Some(superseded) = self.trial.take() {
            swaps.update(superseded.report, |report| report.outcome = RolloutOutcome::Superseded);
        }
        let name = candidate.config.name.clone();
        let Some(present) = shared.stage(&name) else { return };
        if candidate.version.plugin.digest == present.version.plugin.digest && cause == Cause::File {
            // The file holds the active version again.
            return;
        }
        let bounds = candidate.config.trial.clone();
        if bounds.mode == Mode::Off {
            let report = begin_report(swaps, &present, &candidate, cause, RolloutOutcome::Baking);
            self.activate(candidate, cause, report, shared, swaps);
            return;
        }
        let report = begin_report(swaps, &present, &candidate, cause, RolloutOutcome::OnTrial);
        match start_trial(candidate.clone(), bounds.records, bounds.every) {
            Ok(trial) => {
                tracing::info!(
                    plugin = name,
                    old = present.version.plugin.version(),
                    new = candidate.version.plugin.version(),
                    records = bounds.records,
                    every = bounds.every,
                    "the new version is on trial beside the active one",
                );
                // This fails if the plugin has left the chain; the trial then gets no record and ends.
                let _ = shared.observe(&name, Some(Arc::clone(&trial) as Arc<dyn StageObserver>));
                let started = Instant::now();
                self.trial = Some(OnTrial { candidate, cause, report, started, trial: Some(trial) });
            }
            Err(error) => {
                tracing::error!(plugin = name, %error, "the trial's thread can't be started; the active version stays");
                swaps.update(report, |report| {
                    (report.outcome, report.reason) = (RolloutOutcome::FailedTrial, Some(error.to_string()));
                });
            }
        }
    }

    /// Decides about the trial and the bake window by what they have found so far. Returns a version that was refused or
    /// rolled back and must not be loaded again.
    pub fn step(&mut self, shared: &SharedChain, swaps: &Swaps) -> Option<StageSpec> {
        self.judge_trial(shared, swaps).or_else(|| self.judge_bake(shared, swaps))
    }

    fn judge_trial(&mut self, shared: &SharedChain, swaps: &Swaps) -> Option<StageSpec> {
        let on_trial = self.trial.as_ref()?;
        let trial = on_trial.trial.as_ref()?;
        let (found, bounds) = (trial.found(), on_trial.candidate.config.trial.clone());
        let (report, took) = (on_trial.report, on_trial.started.elapsed());
        let mode = bounds.mode;
        let past = bake_window::past_trial(&bounds, &found);
        let over = trial.is_complete() || took >= bounds.within;
        swaps.update(report, |report| {
            report.steps.trial_ms = Some(ms(took));
            report.trial = Some(found.clone());
        });
        if !over && (past.is_none() || mode == Mode::Manual) {
            return None;
        }
        self.end_trial(shared);
        if mode == Mode::Manual {
            let plugin = self.candidate().map(|spec| spec.config.name.clone()).unwrap_or_default();
            tracing::info!(
                plugin,
                records = found.records,
                same = found.same,
                failed = found.failed,
                past_bound = past,
                "the trial is over; `reduct-sink plugin promote` or `rollback` decides",
            );
            swaps.update(report, |report| (report.outcome, report.reason) = (RolloutOutcome::AwaitsPromotion, past));
            return None;
        }
        let OnTrial { candidate, cause, .. } = self.trial.take()?;
        let version = candidate.version.plugin.version();
        match past {
            Some(reason) => {
                tracing::error!(
                    plugin = candidate.config.name,
                    version,
                    records = found.records,
                    first_failure = found.first_failure,
                    reason,
                    "the new version failed its trial; the active version stays",
                );
                swaps.update(report, |report| {
                    (report.outcome, report.reason) = (RolloutOutcome::FailedTrial, Some(reason));
                });
                Some(candidate)
            }
            None => {
                tracing::info!(
                    plugin = candidate.config.name, version, records = found.records,
                    same = found.same, first_difference = found.first_difference, took = ?took,
                    "the new version passed its trial",
                );
                self.activate(candidate, cause, report, shared, swaps);
                None
            }
        }
    }

    fn judge_bake(&mut self, shared: &SharedChain, swaps: &Swaps) -> Option<StageSpec> {
        let former = self.former.as_ref()?;
        let present = shared.stage(&former.config.name)?;
        let baking = self.baking.as_mut()?;
        let (bounds, elapsed) = (present.config.bake.clone(), baking.started.elapsed());
        let described = present.describe();
        let now = VersionStats::of(&described);
        let figures = bake_window::figures(baking.before, baking.at_take_over, now, elapsed.as_secs_f64());
        let past = bake_window::past_bounds(&bounds, baking.before, now, &figures);
        swaps.update(baking.report, |report| {
            report.bake = Some(figures);
            report.steps.worker_ms = Some(ms(described.taking_over));
        });
        match past {
            Some(reason) if bounds.mode == Mode::Auto => {
                let report = baking.report;
                self.return_to_former(reason, report, shared, swaps)
            }
            Some(reason) if !baking.reported => {
                baking.reported = true;
                tracing::error!(
                    plugin = present.config.name,
                    version = present.version.plugin.version(),
                    reason,
                    "the new version is worse than the previous one; `reduct-sink plugin rollback` returns to it",
                );
                swaps.update(baking.report, |report| report.reason = Some(reason));
                None
            }
            _ => {
                if elapsed >= bounds.window {
                    swaps.update(baking.report, |report| report.outcome = RolloutOutcome::Active);
                    self.baking = None;
                }
                None
            }
        }
    }

    /// Activates the candidate, whatever its trial has found. Returns a sentence for the person who asked.
    pub fn promote(&mut self, shared: &SharedChain, swaps: &Swaps) -> Result<String, String> {
        self.end_trial(shared);
        let OnTrial { candidate, cause, report, .. } = self.trial.take().ok_or("it has no candidate on trial")?;
        let version = candidate.version.plugin.version();
        self.activate(candidate, cause, report, shared, swaps);
        Ok(format!("version {version} is active from the next record on"))
    }

    /// Ends the trial, or activates the previous version again. Returns a sentence for the person who asked, and the
    /// version that was given up.
    pub fn rollback(&mut self, shared: &SharedChain, swaps: &Swaps) -> Result<(String, Option<StageSpec>), String> {
        self.end_trial(shared);
        const ASKED: &str = "a person asked for it";
        if let Some(on_trial) = self.trial.take() {
            let version = on_trial.candidate.version.plugin.version();
            swaps.update(on_trial.report, |report| {
                (report.outcome, report.reason) = (RolloutOutcome::FailedTrial, Some(ASKED.into()));
            });
            return Ok((
                format!("the trial of version {version} was ended; the active version stays"),
                Some(on_trial.candidate),
            ));
        }
        let former = self.former.clone().ok_or("it has no previous version")?;
        let present = shared.stage(&former.config.name).ok_or("it isn't in the chain any more")?;
        let report = match &self.baking {
            Some(baking) => baking.report,
            None => begin_report(swaps, &present, &former, Cause::Rollback, RolloutOutcome::RolledBack),
        };
        let gone = self.return_to_former(ASKED.into(), report, shared, swaps);
        Ok((format!("version {} is active again from the next record on", former.version.plugin.version()), gone))
    }

    /// Ends the rollout, because the plugin leaves the chain or gets another configuration.
    pub fn abandon(&mut self, shared: &SharedChain, swaps: &Swaps) {
        self.end_trial(shared);
        if let Some(on_trial) = self.trial.take() {
            swaps.update(on_trial.report, |report| report.outcome = RolloutOutcome::Superseded);
        }
        if let Some(baking) = self.baking.take() {
            swaps.update(baking.report, |report| report.outcome = RolloutOutcome::Active);
        }
    }

    /// Activates the candidate.
    fn activate(&mut self, candidate: StageSpec, cause: Cause, report: u64, shared: &SharedChain, swaps: &Swaps) {
        let started = Instant::now();
        let old = match shared.replace(candidate.clone()) {
            Ok(old) => old,
            Err(error) => return tracing::error!(plugin = candidate.config.name, %error, "the plugin wasn't swapped"),
        };
        self.watch_active(old, &candidate, cause, report, started.elapsed(), swaps);
    }

    /// Begins the bake window of a version that was already activated together with the rest of a changed chain.
    pub fn begin_bake_after_install(
        &mut self,
        old: StageSpec,
        new: &StageSpec,
        cause: Cause,
        took: Duration,
        swaps: &Swaps,
    ) {
        let report = begin_report(swaps, &old, new, cause, RolloutOutcome::Baking);
        self.watch_active(old, new, cause, report, took, swaps);
    }

    fn watch_active(
        &mut self,
        old: StageSpec,
        new: &StageSpec,
        cause: Cause,
        report: u64,
        took: Duration,
        swaps: &Swaps,
    ) {
        if let Some(baking) = self.baking.take() {
            swaps.update(baking.report, |report| report.outcome = RolloutOutcome::Active);
        }
        let (before, plugin) = (&old.version.plugin, &new.version.plugin);
        let is_baking = new.config.bake.mode != Mode::Off;
        swaps.update(report, |report| {
            report.outcome = if is_baking { RolloutOutcome::Baking } else { RolloutOutcome::Active };
            report.steps.take_over_ms = Some(ms(took));
        });
        tracing::info!(
            plugin = new.config.name, old = before.version(), new = plugin.version(), bytes = plugin.bytes, ?cause,
            compiled_in = ?plugin.compiled_in, started_in = ?plugin.started_in, took_over_in = ?took,
            "swapped: the plugin's new version is active from the next record on",
        );
        if is_baking {
            let (before, at_take_over) = (VersionStats::of(&old.describe()), VersionStats::of(&new.describe()));
            self.baking = Some(Baking { report, started: Instant::now(), before, at_take_over, reported: false });
        }
        self.former = Some(old);
    }

    /// Activates the previous version again. Returns the one that was given up.
    fn return_to_former(
        &mut self,
        reason: String,
        report: u64,
        shared: &SharedChain,
        swaps: &Swaps,
    ) -> Option<StageSpec> {
        self.baking = None;
        let former = self.former.take()?;
        let (name, back) = (former.config.name.clone(), former.version.plugin.version());
        let gone = match shared.replace(former.restarted()) {
            Ok(gone) => gone,
            Err(error) => {
                tracing::error!(plugin = name, %error, "the plugin wasn't rolled back");
                return None;
            }
        };
        let bad = gone.version.plugin.version();
        if loads_alike(&gone.config, &former.config) {
            tracing::error!(
                plugin = name,
                bad,
                back,
                reason,
                "rolled back: the previous version is active again; the plugin's file still holds the bad version, which the \
                 host doesn't load again until the file changes or the host is restarted",
            );
        } else {
            tracing::error!(
                plugin = name,
                bad,
                back,
                reason,
                "rolled back: the plugin's previous configuration is active again; correct the plugin's row of the configuration, \
                 which still asks for the bad version: a restarted host would begin with it",
            );
        }
        swaps.update(report, |report| {
            (report.outcome, report.reason) = (RolloutOutcome::RolledBack, Some(reason));
        });
        Some(gone)
    }

    fn end_trial(&mut self, shared: &SharedChain) {
        if let Some(on_trial) = &mut self.trial
            && on_trial.trial.take().is_some()
        {
            // This fails if the plugin has left the chain, where the trial's observer was.
            let _ = shared.observe(&on_trial.candidate.config.name, None);
        }
    }
}

fn begin_report(swaps: &Swaps, old: &StageSpec, new: &StageSpec, cause: Cause, outcome: RolloutOutcome) -> u64 {
    let plugin = &new.version.plugin;
    let (before, digest) = (old.version.plugin.digest.to_string(), plugin.digest.to_string());
    let number = swaps.begin(&new.config.name, cause, before, digest, outcome);
    swaps.update(number, |report| {
        let shown = |spec: &StageSpec| spec.version.plugin.config.map(|config| config.to_string());
        (report.old_config, report.new_config) = (shown(old), shown(new));
    });
    if cause != Cause::Rollback {
        swaps.update(number, |report| {
            report.steps.compile_ms = Some(ms(plugin.compiled_in));
            report.steps.start_ms = Some(ms(plugin.started_in));
        });
    }
    number
}
