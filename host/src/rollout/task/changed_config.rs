//! A changed configuration: the rollout task reads it, has the plugins loaded that it names, and takes over the new chain.
//!
//! Guarantees: a configuration is taken over as a whole or not at all. One whose plugins don't load is kept, and tried again
//! when one of their files changes or the registry may be back.

use std::sync::Arc;
use std::time::Instant;

use super::super::NotTaken;
use super::super::next_start::CONFIGURATION;
use super::super::pending::PendingConfig;
use super::super::reload::{Plan, loads_alike};
use super::super::report::Cause;
use super::super::rollout::Rollout;
use super::super::watcher::{LastSeen, digests, value_files};
use super::{Job, RolloutTask, plugin_configuration, plugin_file};
use crate::chain::StageSpec;
use crate::config::{self, PluginConfig};
use crate::plugin::{Digest, LoadError, LoadProblem, LoadedPlugin};

impl RolloutTask {
    /// Reads the configuration again if its file changed or a person asked for it.
    pub(super) fn read_source(&mut self) {
        let Some(source) = &self.source else { return };
        let asked = std::mem::take(&mut self.asked_to_reload);
        let changed = asked | std::mem::take(&mut self.values_changed);
        if let Some(file) = &mut self.source_file {
            if !changed && !file.due {
                return;
            }
            file.due = false;
            let read = std::fs::read(&file.path).ok().map(|bytes| Digest::of(&bytes));
            let now = read.map_or(LastSeen::Nothing, LastSeen::Done);
            // The first time the file is read in any case: it may have changed since the host read it at its start.
            let before = std::mem::replace(&mut file.last_seen, now);
            if !changed && before == now && now != LastSeen::Nothing {
                return;
            }
        } else if !changed {
            return;
        }
        let new = match (source.load)(&self.plugins_in_use()) {
            Ok(new) => new,
            Err(NotTaken::NeedsRestart { why, plugins }) => {
                tracing::warn!("the changed configuration is right, but needs a restart; the present one stays: {why}");
                self.pending = None;
                self.restart_needed = true;
                self.next_start.right(CONFIGURATION);
                self.next_start.passes_over(replaced_by(&self.shared.stages(), &source.present.plugins, &plugins));
                return;
            }
            Err(NotTaken::Wrong(problems)) => {
                if let Some(file) = self.source_file.as_mut().filter(|file| file.is_fresh(self.pace.settle)) {
                    (file.due, file.last_seen) = (true, LastSeen::Partial);
                    return;
                }
                tracing::error!("the changed configuration is wrong; the present one stays: {problems}");
                self.next_start.wrong(CONFIGURATION, problems);
                return;
            }
        };
        self.value_files = value_files(&new.files, std::mem::take(&mut self.value_files));
        let stays = config::needs_restart(&source.present, &new);
        if !stays.is_empty() {
            tracing::warn!(
                keys = ?stays, "these keys can't change without a restart; the host keeps their old values until then"
            );
        }
        if std::mem::replace(&mut self.restart_needed, !stays.is_empty()) && stays.is_empty() {
            tracing::info!("the configuration asks for nothing any more that needs a restart");
        }
        self.next_start.passes_over([]);
        self.pending = None;
        self.next_start.right(CONFIGURATION);
        let plan = Plan::new(&self.shared.stages(), &source.present.plugins, new.plugins);
        match plan {
            None if asked => tracing::info!("the configuration was read again; nothing changed in the chain"),
            None => {}
            Some(plan) => self.load(Job::Reload(plan)),
        }
    }

    /// The plugins of the versions that are active, on trial, or kept for a rollback.
    fn plugins_in_use(&self) -> Vec<Arc<PluginConfig>> {
        let others = self.rollouts.values().flat_map(Rollout::others).map(|stage| Arc::clone(&stage.config));
        self.shared.stages().into_iter().map(|stage| stage.config).chain(others).collect()
    }

    /// Tries a configuration again whose plugins didn't load, if one of their files changed since.
    pub(super) fn retry_pending(&mut self) {
        let (Some(pending), Some(source)) = (&mut self.pending, &self.source) else { return };
        let is_time = pending.fetch_at.is_some_and(|at| at <= Instant::now());
        if !is_time && !pending.files.iter().any(|file| file.due) {
            return;
        }
        pending.files.iter_mut().for_each(|file| file.due = false);
        if !is_time && pending.tried == digests(&pending.plugins) {
            return;
        }
        let plan = Plan::new(&self.shared.stages(), &source.present.plugins, pending.plugins.clone());
        match plan {
            Some(plan) => self.load(Job::Reload(plan)),
            None => {
                self.pending = None;
                self.next_start.right(CONFIGURATION);
            }
        }
    }

    pub(super) fn reload_loaded(&mut self, plan: Plan, result: Result<Vec<LoadedPlugin>, LoadError>) {
        let loaded = match result {
            Ok(loaded) => loaded,
            Err(error) => {
                // That a registry stays away is logged once.
                let is_known = self.pending.as_ref().is_some_and(|pending| pending.fetch_at.is_some());
                if !(is_known && matches!(error.problem, LoadProblem::Fetch(_))) {
                    tracing::error!(
                        "the changed configuration isn't applied and the present chain stays; the host tries it again when a \
                         file of its plugins changes, or the registry may be back: {error}"
                    );
                }
                self.next_start.wrong(CONFIGURATION, &error);
                self.pending = Some(PendingConfig::new(plan, &error.problem, self.pending.as_ref()));
                self.follow_folders();
                return;
            }
        };
        self.pending = None;
        self.next_start.right(CONFIGURATION);
        if let Some(source) = &mut self.source {
            source.present.plugins.clone_from(&plan.plugins);
        }
        let before = self.shared.stages();
        let made = plan.apply(&before, loaded);
        let changed: Vec<String> = made.names_of_changed().map(ToOwned::to_owned).collect();
        self.rollouts.retain(|name, rollout| {
            let goes_on = made.chain.iter().any(|stage| stage.config.name == *name) && !made.changes(name);
            if !goes_on {
                rollout.abandon(&self.shared, &self.swaps);
            }
            goes_on
        });
        let started = Instant::now();
        self.shared.install(made.chain);
        let took = started.elapsed();
        for (old, new) in made.replaced {
            let rollout = self.rollouts.entry(new.config.name.clone()).or_default();
            rollout.begin_bake_after_install(old, &new, Cause::Configuration, took, &self.swaps);
        }
        for candidate in made.candidates {
            self.introduce(candidate, Cause::Configuration);
        }
        self.forget_bad_configurations(|name| changed.iter().any(|changed| changed == name));
        self.follow_chain();
        let chain: Vec<String> = self.shared.stages().iter().map(|stage| stage.config.name.clone()).collect();
        tracing::info!(?chain, "the changed configuration is active from the next record on");
    }
}

/// What [`super::super::next_start::NextStart`] may know of the plugins that a configuration replaces or leaves out.
fn replaced_by(stages: &[StageSpec], present: &[PluginConfig], next: &[PluginConfig]) -> Vec<String> {
    fn named<'a>(rows: &'a [PluginConfig], name: &str) -> Option<&'a PluginConfig> {
        rows.iter().find(|row| row.name == name)
    }
    let stays = |name: &str| {
        let rows = named(present, name).zip(named(next, name));
        rows.is_some_and(|(before, after)| loads_alike(before, after))
    };
    let names = stages.iter().map(|stage| stage.config.name.as_str());
    names.filter(|name| !stays(name)).flat_map(|name| [plugin_file(name), plugin_configuration(name)]).collect()
}
