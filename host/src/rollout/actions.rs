//! What there is to do with each plugin's versions: promote a candidate, end its trial, or return to the previous version.
//!
//! Guarantees: it is what the rollout task itself would do with a request, as of its last step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// What there is to do with a plugin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PluginActions {
    /// It has a candidate on trial.
    pub promote: bool,
    /// It has one, whose trial can be ended, or a previous version.
    pub roll_back: bool,
}

/// The same for each plugin, shared with the status page.
#[derive(Debug, Clone, Default)]
pub struct PossibleActions(Arc<Mutex<BTreeMap<String, PluginActions>>>);

impl PossibleActions {
    /// For the plugin of this name.
    pub fn of(&self, plugin: &str) -> PluginActions {
        self.lock().get(plugin).copied().unwrap_or_default()
    }

    pub(super) fn set(&self, actions: BTreeMap<String, PluginActions>) {
        *self.lock() = actions;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, PluginActions>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
