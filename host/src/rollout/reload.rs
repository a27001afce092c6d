//! Works out how a changed configuration changes the chain: which plugins have to be loaded, and which stages stay. Of
//! the plugins' files it reads only the digests.

use std::sync::Arc;

use super::watcher::digests;
use crate::chain::{StageSpec, Version};
use crate::config::{Bake, FailurePolicy, Mode, PluginConfig, Trial};
use crate::plugin::{Digest, LoadedPlugin};

/// How to get from the present chain to the configured one.
pub(super) struct Plan {
    /// The plugins of the new configuration, in order.
    pub plugins: Vec<PluginConfig>,
    /// The plugins that have to be loaded: new ones, and those whose changed settings are needed to start an instance.
    pub to_load: Vec<Arc<PluginConfig>>,
    /// The digests of the plugins' files before they are loaded; `None`: the file can't be read.
    pub digests: Vec<Option<Digest>>,
}

/// The chain that a [`Plan`] leads to.
pub(super) struct PlannedChain {
    /// The stages to install now.
    pub chain: Vec<StageSpec>,
    /// The stages that are replaced without a trial: each the old and the new one.
    pub replaced: Vec<(StageSpec, StageSpec)>,
    /// The versions that have to pass a trial before they are activated.
    pub candidates: Vec<StageSpec>,
}

impl Plan {
    /// Plans the change from `stages`, the present chain, to `plugins`, the new configuration. `configured` is the
    /// previous configuration; a rollback since then may have made the present chain differ from it. `None`: the
    /// configuration of the plugins is unchanged.
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

    /// The new chain, made of the present stages and of `loaded`, the loaded plugins in the order of `to_load`.
    pub fn apply(&self, before: &[StageSpec], loaded: Vec<LoadedPlugin>) -> PlannedChain {
        let mut made = PlannedChain { chain: Vec::new(), replaced: Vec::new(), candidates: Vec::new() };
        let mut loaded: Vec<(Arc<PluginConfig>, LoadedPlugin)> = self.to_load.iter().cloned().zip(loaded).collect();
        for plugin in &self.plugins {
            let old = before.iter().find(|stage| stage.config.name == plugin.name);
            let new = loaded.iter().position(|(config, _)| config.name == plugin.name).map(|at| loaded.swap_remove(at));
            match (old, new) {
                (Some(old), None) => {
                    // The plugin's own configuration stays the one with which the active version's instances were
                    // started.
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
                // This can't happen: a plugin that has no stage yet is in `to_load`.
                (None, None) => {}
            }
        }
        made
    }
}

impl PlannedChain {
    /// Whether the plugin of that name gets another version, or another configuration of its own.
    pub fn changes(&self, name: &str) -> bool {
        self.names_of_changed().any(|changed| changed == name)
    }

    /// The plugins that get another version, or another configuration of their own.
    pub fn names_of_changed(&self) -> impl Iterator<Item = &str> {
        let new = self.replaced.iter().map(|(_, new)| new).chain(&self.candidates);
        new.map(|stage| stage.config.name.as_str())
    }
}

/// Whether both rows load and start the same version. The keys that are left out concern the host alone, and change
/// without a new version.
pub(super) fn loads_alike(one: &PluginConfig, other: &PluginConfig) -> bool {
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
