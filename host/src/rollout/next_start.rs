//! What would go wrong at the next start with the files as they are now, while the host still runs with what it read earlier: it would not
//! start, or would start a version or a configuration of a plugin that was rolled back.
//!
//! Guarantees: a reason is there from the moment the host has read the wrong file, and gone when the file is right
//! again, or isn't what the next start reads any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How the configuration is named in [`NextStart`].
pub const CONFIGURATION: &str = "the configuration";

/// The reasons, by what is wrong: the configuration, or the file of a plugin. The host's health shows them.
#[derive(Debug, Clone, Default)]
pub struct NextStart(Arc<Mutex<StartReasons>>);

#[derive(Debug, Default)]
struct StartReasons {
    known: BTreeMap<String, String>,
    /// Of what the present configuration names and the next start doesn't read.
    passed_over: BTreeSet<String>,
}

impl StartReasons {
    fn shown(&self) -> impl Iterator<Item = (&String, &String)> {
        self.known.iter().filter(|(what, _)| !self.passed_over.contains(*what))
    }
}

impl NextStart {
    /// A sentence for each thing that is wrong, with its cause.
    pub fn reasons(&self) -> Vec<String> {
        let sentence = |(what, why): (&String, &String)| {
            format!("the host runs on, but a start with its files as they are now would go wrong: {what}: {why}")
        };
        self.lock().shown().map(sentence).collect()
    }

    /// One sentence that names what is wrong, without the causes, which may quote a plugin or the configuration.
    /// `None`: nothing is wrong.
    pub fn public(&self) -> Option<String> {
        let wrong = self.lock();
        let names: Vec<&str> = wrong.shown().map(|(what, _)| what.as_str()).collect();
        (!names.is_empty()).then(|| {
            let names = names.join(", ");
            format!(
                "the host runs on, but a start with its files as they are now would go wrong: {names} (the log says why, \
                 and callers who may act see it here)"
            )
        })
    }

    pub(super) fn wrong(&self, what: &str, why: impl ToString) {
        self.lock().known.insert(what.to_owned(), why.to_string());
    }

    pub(super) fn right(&self, what: &str) {
        if self.lock().known.remove(what).is_some() {
            tracing::info!("{what} is right again: the host could start with it");
        }
    }

    /// The configuration that the next start reads has something else in the place of these, though the host that runs can't take it over.
    pub(super) fn passes_over(&self, what: impl IntoIterator<Item = String>) {
        self.lock().passed_over = what.into_iter().collect();
    }

    fn lock(&self) -> MutexGuard<'_, StartReasons> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
