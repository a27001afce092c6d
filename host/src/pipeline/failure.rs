//! Why the host can't go on. The first reason counts: later failures may only follow from it.
use std::sync::{Arc, OnceLock};

use tracing::error;

/// Shared by all threads that may find a reason.
#[derive(Clone, Default)]
pub(super) struct HostFailure(Arc<OnceLock<FailureReason>>);

/// Why the host can't go on, in two texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailureReason {
    /// For the log and for callers who may act: it may hold what a plugin said of a record.
    pub full: String,
    /// For every caller: it holds nothing of records.
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
            error!("{}; stopping without committing what isn't acknowledged", reason.full);
        }
        // It can be set once only: the first reason counts.
        let _ = self.0.set(reason);
    }

    pub fn get(&self) -> Option<&FailureReason> {
        self.0.get()
    }
}
