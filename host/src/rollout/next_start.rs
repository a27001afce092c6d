//! What would keep the host from starting again with the files as they are now, while it runs on with what it has.
//!
//! Guarantees: a reason is known from the moment the host has read the file, and gone when the file is right again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The reasons, by what is wrong: the configuration, or a plugin. Shared with the host's health.
#[derive(Debug, Clone, Default)]
pub struct NextStart(Arc<Mutex<BTreeMap<String, String>>>);

impl NextStart {
    /// Each with its cause.
    pub fn reasons(&self) -> Vec<String> {
        let sentence = |(what, why): (&String, &String)| {
            format!("the host runs on, but would not start again as the files are now: {what}: {why}")
        };
        self.lock().iter().map(sentence).collect()
    }

    /// What is wrong without its causes, which may quote a plugin or the configuration.
    pub fn public(&self) -> Option<String> {
        let wrong = self.lock();
        let names: Vec<&str> = wrong.keys().map(String::as_str).collect();
        (!names.is_empty()).then(|| {
            let names = names.join(", ");
            format!(
                "the host runs on, but would not start again as the files are now: {names} (why is in the log, and shown to \
                 callers who may act)"
            )
        })
    }

    pub(super) fn wrong(&self, what: &str, why: impl ToString) {
        self.lock().insert(what.to_owned(), why.to_string());
    }

    pub(super) fn right(&self, what: &str) {
        if self.lock().remove(what).is_some() {
            tracing::info!("{what} is right again: the host would start with it");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
