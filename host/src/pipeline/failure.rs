//! Why the host can't go on: the first reason is the one to tell.

use std::sync::{Arc, OnceLock};

use tracing::error;

/// Shared by all who may fail.
#[derive(Clone, Default)]
pub(super) struct HostFailure(Arc<OnceLock<String>>);

impl HostFailure {
    pub fn set(&self, reason: String) {
        if self.0.get().is_none() {
            error!("{reason}; stopping without committing what isn't settled");
        }
        // Refused where there is a reason already.
        let _ = self.0.set(reason);
    }

    pub fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}
