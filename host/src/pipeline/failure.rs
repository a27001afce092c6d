//! Why the host can't go on: the first reason is the one to tell.

use std::sync::{Arc, OnceLock};

use tracing::error;

/// Shared by all who may fail.
#[derive(Clone, Default)]
pub(super) struct HostFailure(Arc<OnceLock<FailureReason>>);

/// Why the host can't go on, in two texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailureReason {
    /// For the log and for callers who may act: it may hold what a plugin said of a record.
    pub full: String,
    /// For anybody.
    pub public: String,
}

impl From<String> for FailureReason {
    /// A reason that holds nothing of records.
    fn from(text: String) -> Self {
        Self { full: text.clone(), public: text }
    }
}

impl HostFailure {
    pub fn set(&self, reason: impl Into<FailureReason>) {
        let reason = reason.into();
        if self.0.get().is_none() {
            error!("{}; stopping without committing what isn't settled", reason.full);
        }
        // Refused where there is a reason already.
        let _ = self.0.set(reason);
    }

    pub fn get(&self) -> Option<&FailureReason> {
        self.0.get()
    }
}
