//! What a changed configuration makes of the chain. The files' digests are all that it reads.

use std::sync::Arc;

use super::watcher::digests;
use crate::chain::{StageSpec, Version};
use crate::config::{Bake, FailurePolicy, Mode, PluginConfig, Trial};
use crate::plugin::{Digest, LoadedPlugin};

/// The way from one chain to another.
pub(super) struct Plan {
    /// The chain as configured.
    pub plugins: Vec<PluginConfig>,
    /// Those of it that have to be loaded: new ones, and those of which changed what an instance is started with.
    pub to_load: Vec<Arc<PluginConfig>>,
    /// The digests of the plugins' files before they are loaded; `None`: the file can't be read.
    pub digests: Vec<Option<Digest>>,
}

/// What becomes of the chain.
pub(super) struct Made {
    pub chain: Vec<StageSpec>,
    /// Stages that are replaced at once: the old and the new.
    pub replaced: Vec<(StageSpec, StageSpec)>,
    /// Versions that have to pass a trial first.
    pub candidates: Vec<StageSpec>,
}

impl Plan {
    /// `None`: nothing is to change. `configured` is what was configured last, which may have been rolled back since.
    pub fn new(stages: &[StageSpec], configured: &[PluginConfig], plugins: Vec<PluginConfig>) -> Option<Self> {
        if configured == plugins {
            return None;
        }
        let was_configured = |plugin: &PluginConfig| configured.iter().any(|before| loads_alike(before, plugin));
        let is_there = |plugin: &PluginConfig| stages.iter().any(|stage| stage.config.name == plugin.name);
        let to_load = plugins.iter().filter(|plugin| !(was_configured(plugin) && is_there(plugin)));
        let to_load = to_load.cloned().map(Arc::new).collect();
        Some(Self { digests: digests(&plugins), plugins, to_load })
    }

    pub fn apply(&self, before: &[StageSpec], loaded: Vec<LoadedPlugin>) -> Made {
        let mut made = Made { chain: Vec::new(), replaced: Vec::new(), candidates: Vec::new() };
        let mut loaded: Vec<(Arc<PluginConfig>, LoadedPlugin)> = self.to_load.iter().cloned().zip(loaded).collect();
        for plugin in &self.plugins {
            let old = before.iter().find(|stage| stage.config.name == plugin.name);
            let new = loaded.iter().position(|(config, _)| config.name == plugin.name).map(|at| loaded.swap_remove(at));
            match (old, new) {
                (Some(old), None) => {
                    // What an instance was started with stays that of the active version.
                    let active = PluginConfig { config: old.config.config.clone(), ..plugin.clone() };
                    made.chain.push(old.configured(Arc::new(active)));
                }
                (Some(old), Some((config, loaded))) if plugin.trial.mode != Mode::Off => {
                    made.chain.push(old.clone());
                    made.candidates.push(StageSpec::new(config, Version::new(loaded)));
                }
                (Some(old), Some((config, loaded))) => {
                    let new = StageSpec::new(config, Version::new(loaded));
                    made.replaced.push((old.clone(), new.clone()));
                    made.chain.push(new);
                }
                (None, Some((config, loaded))) => made.chain.push(StageSpec::new(config, Version::new(loaded))),
                // Doesn't happen: what isn't there is loaded.
                (None, None) => {}
            }
        }
        made
    }
}

impl Made {
    /// Whether the plugin of that name gets another version or configuration to run.
    pub fn changes(&self, name: &str) -> bool {
        let mut new = self.replaced.iter().map(|(_, new)| new).chain(&self.candidates);
        new.any(|stage| stage.config.name == name)
    }
}

/// Whether the two load and start alike. The other keys concern the host, and change without a new version.
fn loads_alike(one: &PluginConfig, other: &PluginConfig) -> bool {
    let loaded_part = |plugin: &PluginConfig| PluginConfig {
        on_failure: FailurePolicy::DeadLetter,
        attempts: 1,
        when: None,
        trial: Trial::default(),
        bake: Bake::default(),
        ..plugin.clone()
    };
    loaded_part(one) == loaded_part(other)
}
