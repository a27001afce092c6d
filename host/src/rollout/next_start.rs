//! What would go wrong at the next start with the files as they are now, while the host still runs with what it read earlier: it would not
//! start, or would start a version or a configuration of a plugin that was rolled back.
//!
//! Guarantees: a reason is there from the moment the host has read the wrong file, and gone when the file is right
//! again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How the configuration is named in [`NextStart`].
pub const CONFIGURATION: &str = "the configuration";

/// The reasons, by what is wrong: the configuration, or the file of a plugin. The host's health shows them.
#[derive(Debug, Clone, Default)]
pub struct NextStart(Arc<Mutex<BTreeMap<String, String>>>);

impl NextStart {
    /// A sentence for each thing that is wrong, with its cause.
    pub fn reasons(&self) -> Vec<String> {
        let sentence = |(what, why): (&String, &String)| {
            format!("the host runs on, but a start with its files as they are now would go wrong: {what}: {why}")
        };
        self.lock().iter().map(sentence).collect()
    }

    /// One sentence that names what is wrong, without the causes, which may quote a plugin or the configuration.
    /// `None`: nothing is wrong.
    pub fn public(&self) -> Option<String> {
        let wrong = self.lock();
        let names: Vec<&str> = wrong.keys().map(String::as_str).collect();
        (!names.is_empty()).then(|| {
            let names = names.join(", ");
            format!(
                "the host runs on, but a start with its files as they are now would go wrong: {names} (the log says why, \
                 and callers who may act see it here)"
            )
        })
    }

    pub(super) fn wrong(&self, what: &str, why: impl ToString) {
        self.lock().insert(what.to_owned(), why.to_string());
    }

    pub(super) fn right(&self, what: &str) {
        if self.lock().remove(what).is_some() {
            tracing::info!("{what} is right again: the host could start with it");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
