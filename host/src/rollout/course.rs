//! The course of one plugin's versions: a candidate on trial, the take-over, the watch over the new version, and the way
//! back to the one before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bounds::{self, Record};
use super::report::{Cause, Outcome, Swaps, ms};
use crate::chain::{Link, SharedChain, Trial, start_trial};
use crate::config::Mode;
use crate::plugin::Digest;

#[derive(Default)]
pub(super) struct Course {
    trial: Option<OnTrial>,
    watch: Option<OnWatch>,
    /// The version before the present one, ready to return.
    former: Option<Link>,
}

struct OnTrial {
    candidate: Link,
    cause: Cause,
    report: u64,
    started: Instant,
    /// Of which nothing is left when it is over, and a person is to decide.
    trial: Option<Arc<Trial>>,
}

struct OnWatch {
    report: u64,
    started: Instant,
    /// Of the version before.
    before: Record,
    at_take_over: Record,
    /// It was told already that a bound was passed.
    told: bool,
}

impl Course {
    /// Whether there is something to be looked at again and again.
    pub fn is_under_way(&self) -> bool {
        self.watch.is_some() || self.trial.as_ref().is_some_and(|on_trial| on_trial.trial.is_some())
    }

    /// What is on trial, or waits to be promoted.
    pub fn candidate(&self) -> Option<&Link> {
        self.trial.as_ref().map(|on_trial| &on_trial.candidate)
    }

    pub fn introduce(&mut self, candidate: Link, cause: Cause, shared: &SharedChain, swaps: &Swaps) {
        self.end_trial(shared);
        if let Some(superseded) = self.trial.take() {
            swaps.update(superseded.report, |report| report.outcome = Outcome::Superseded);
        }
        let name = candidate.config.name.clone();
        let Some(present) = shared.link(&name) else { return };
        if candidate.version.plugin.digest == present.version.plugin.digest && cause == Cause::File {
            // What was on trial is gone from the file, and what is at work is back.
            return;
        }
        let bounds = candidate.config.trial.clone();
        if bounds.mode == Mode::Off {
            let report = begin(swaps, &present, &candidate, cause, Outcome::Watched);
            self.take_over(candidate, cause, report, shared, swaps);
            return;
        }
        let report = begin(swaps, &present, &candidate, cause, Outcome::OnTrial);
        match start_trial(candidate.clone(), bounds.records, bounds.every) {
            Ok(trial) => {
                tracing::info!(
                    plugin = name,
                    old = present.version.plugin.digest.short(),
                    new = candidate.version.plugin.digest.short(),
                    records = bounds.records,
                    every = bounds.every,
                    "the new version is on trial beside the present one",
                );
                // Refused where the plugin left the chain, and then the trial sees nothing and ends.
                let _ = shared.try_beside(&name, Some(Arc::clone(&trial)));
                let started = Instant::now();
                self.trial = Some(OnTrial { candidate, cause, report, started, trial: Some(trial) });
            }
            Err(error) => {
                tracing::error!(plugin = name, %error, "no thread for a trial; the present version goes on");
                swaps.update(report, |report| {
                    (report.outcome, report.reason) = (Outcome::FailedTrial, Some(error.to_string()));
                });
            }
        }
    }

    /// Looks at the trial and at the watch. Gives the digest of a version that isn't to be loaded again.
    pub fn step(&mut self, shared: &SharedChain, swaps: &Swaps) -> Option<Digest> {
        self.look_at_trial(shared, swaps).or_else(|| self.look_at_watch(shared, swaps))
    }

    fn look_at_trial(&mut self, shared: &SharedChain, swaps: &Swaps) -> Option<Digest> {
        let on_trial = self.trial.as_ref()?;
        let trial = on_trial.trial.as_ref()?;
        let (found, bounds) = (trial.found(), on_trial.candidate.config.trial.clone());
        let (report, took) = (on_trial.report, on_trial.started.elapsed());
        let mode = bounds.mode;
        let past = bounds::past_trial(&bounds, &found);
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
            let plugin = self.candidate().map(|link| link.config.name.clone()).unwrap_or_default();
            tracing::info!(
                plugin,
                records = found.records,
                same = found.same,
                failed = found.failed,
                past_bound = past,
                "the trial is over; `reduct-sink plugin promote` or `rollback` decides",
            );
            swaps.update(report, |report| (report.outcome, report.reason) = (Outcome::AwaitsPromotion, past));
            return None;
        }
        let OnTrial { candidate, cause, .. } = self.trial.take()?;
        let digest = candidate.version.plugin.digest;
        match past {
            Some(reason) => {
                tracing::error!(
                    plugin = candidate.config.name,
                    version = digest.short(),
                    records = found.records,
                    first_failure = found.first_failure,
                    reason,
                    "the new version failed its trial; the present version goes on",
                );
                swaps.update(report, |report| {
                    (report.outcome, report.reason) = (Outcome::FailedTrial, Some(reason));
                });
                Some(digest)
            }
            None => {
                tracing::info!(
                    plugin = candidate.config.name, version = digest.short(), records = found.records,
                    same = found.same, first_difference = found.first_difference, took = ?took,
                    "the new version passed its trial",
                );
                self.take_over(candidate, cause, report, shared, swaps);
                None
            }
        }
    }

    fn look_at_watch(&mut self, shared: &SharedChain, swaps: &Swaps) -> Option<Digest> {
        let former = self.former.as_ref()?;
        let present = shared.link(&former.config.name)?;
        let watch = self.watch.as_mut()?;
        let (bounds, elapsed) = (present.config.watch.clone(), watch.started.elapsed());
        let told = present.told();
        let now = Record::of(&told);
        let watched = bounds::watched(watch.before, watch.at_take_over, now, elapsed.as_secs_f64());
        let past = bounds::past_watch(&bounds, watch.before, now, &watched);
        swaps.update(watch.report, |report| {
            report.watch = Some(watched);
            report.steps.worker_ms = Some(ms(told.taking_over));
        });
        match past {
            Some(reason) if bounds.mode == Mode::Auto => {
                let report = watch.report;
                Some(self.bring_back(reason, report, shared, swaps))
            }
            Some(reason) if !watch.told => {
                watch.told = true;
                tracing::error!(
                    plugin = present.config.name,
                    version = told.digest.short(),
                    reason,
                    "the new version is worse than the one before; `reduct-sink plugin rollback` brings it back",
                );
                swaps.update(watch.report, |report| report.reason = Some(reason));
                None
            }
            _ => {
                if elapsed >= bounds.window {
                    swaps.update(watch.report, |report| report.outcome = Outcome::AtWork);
                    self.watch = None;
                }
                None
            }
        }
    }

    pub fn promote(&mut self, shared: &SharedChain, swaps: &Swaps) -> Result<String, String> {
        self.end_trial(shared);
        let OnTrial { candidate, cause, report, .. } = self.trial.take().ok_or("it has no candidate on trial")?;
        let digest = candidate.version.plugin.digest.short();
        self.take_over(candidate, cause, report, shared, swaps);
        Ok(format!("version {digest} is at work from the next record on"))
    }

    /// Ends the trial, or brings back the version before. The digest is that of the version that has to go.
    pub fn rollback(&mut self, shared: &SharedChain, swaps: &Swaps) -> Result<(String, Digest), String> {
        self.end_trial(shared);
        const ASKED: &str = "somebody asked for it";
        if let Some(on_trial) = self.trial.take() {
            let digest = on_trial.candidate.version.plugin.digest;
            swaps.update(on_trial.report, |report| {
                (report.outcome, report.reason) = (Outcome::FailedTrial, Some(ASKED.into()));
            });
            return Ok((format!("the trial of version {} is ended; the present one goes on", digest.short()), digest));
        }
        let former = self.former.clone().ok_or("it has no version before the present one")?;
        let present = shared.link(&former.config.name).ok_or("it isn't in the chain any more")?;
        let report = match &self.watch {
            Some(watch) => watch.report,
            None => begin(swaps, &present, &former, Cause::Rollback, Outcome::RolledBack),
        };
        let digest = self.bring_back(ASKED.into(), report, shared, swaps);
        Ok((
            format!("version {} is at work again from the next record on", former.version.plugin.digest.short()),
            digest,
        ))
    }

    /// The plugin leaves the chain, or gets another configuration.
    pub fn abandon(&mut self, shared: &SharedChain, swaps: &Swaps) {
        self.end_trial(shared);
        if let Some(on_trial) = self.trial.take() {
            swaps.update(on_trial.report, |report| report.outcome = Outcome::Superseded);
        }
        if let Some(watch) = self.watch.take() {
            swaps.update(watch.report, |report| report.outcome = Outcome::AtWork);
        }
    }

    /// Puts the candidate to work.
    fn take_over(&mut self, candidate: Link, cause: Cause, report: u64, shared: &SharedChain, swaps: &Swaps) {
        let started = Instant::now();
        let old = match shared.replace(candidate.clone()) {
            Ok(old) => old,
            Err(error) => return tracing::error!(plugin = candidate.config.name, %error, "the plugin wasn't swapped"),
        };
        self.at_work(old, &candidate, cause, report, started.elapsed(), swaps);
    }

    /// It was put to work already, with the rest of a changed chain.
    pub fn took_over(&mut self, old: Link, new: &Link, cause: Cause, took: Duration, swaps: &Swaps) {
        let report = begin(swaps, &old, new, cause, Outcome::Watched);
        self.at_work(old, new, cause, report, took, swaps);
    }

    fn at_work(&mut self, old: Link, new: &Link, cause: Cause, report: u64, took: Duration, swaps: &Swaps) {
        if let Some(watch) = self.watch.take() {
            swaps.update(watch.report, |report| report.outcome = Outcome::AtWork);
        }
        let (before, plugin) = (old.version.plugin.digest, &new.version.plugin);
        let is_watched = new.config.watch.mode != Mode::Off;
        swaps.update(report, |report| {
            report.outcome = if is_watched { Outcome::Watched } else { Outcome::AtWork };
            report.steps.take_over_ms = Some(ms(took));
        });
        tracing::info!(
            plugin = new.config.name, old = before.short(), new = plugin.digest.short(), bytes = plugin.bytes, ?cause,
            compiled_in = ?plugin.compiled_in, started_in = ?plugin.started_in, took_over_in = ?took,
            "swapped: the plugin's new version is at work from the next record on",
        );
        if is_watched {
            let (before, at_take_over) = (Record::of(&old.told()), Record::of(&new.told()));
            self.watch = Some(OnWatch { report, started: Instant::now(), before, at_take_over, told: false });
        }
        self.former = Some(old);
    }

    /// Puts the version before to work again. Gives the digest of the one that has to go.
    fn bring_back(&mut self, reason: String, report: u64, shared: &SharedChain, swaps: &Swaps) -> Digest {
        self.watch = None;
        let Some(former) = self.former.take() else { return Digest::of(b"") };
        let (name, back) = (former.config.name.clone(), former.version.plugin.digest);
        let gone = match shared.replace(former.restarted()) {
            Ok(gone) => gone,
            Err(error) => {
                tracing::error!(plugin = name, %error, "the plugin wasn't rolled back");
                return back;
            }
        };
        let digest = gone.version.plugin.digest;
        tracing::error!(
            plugin = name,
            bad = digest.short(),
            back = back.short(),
            reason,
            "rolled back: the version before is at work again; the file still holds the other, which isn't loaded again \
             until it changes or the host is restarted",
        );
        swaps.update(report, |report| {
            (report.outcome, report.reason) = (Outcome::RolledBack, Some(reason));
        });
        digest
    }

    fn end_trial(&mut self, shared: &SharedChain) {
        if let Some(on_trial) = &mut self.trial
            && on_trial.trial.take().is_some()
        {
            // Refused where the plugin left the chain, and the trial with it.
            let _ = shared.try_beside(&on_trial.candidate.config.name, None);
        }
    }
}

fn begin(swaps: &Swaps, old: &Link, new: &Link, cause: Cause, outcome: Outcome) -> u64 {
    let plugin = &new.version.plugin;
    let (before, digest) = (old.version.plugin.digest.to_string(), plugin.digest.to_string());
    let number = swaps.begin(&new.config.name, cause, before, digest, outcome);
    if cause != Cause::Rollback {
        swaps.update(number, |report| {
            report.steps.compile_ms = Some(ms(plugin.compiled_in));
            report.steps.start_ms = Some(ms(plugin.started_in));
        });
    }
    number
}
