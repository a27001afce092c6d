//! A dead letter that is sent again, as a [`PartitionState`] of its own.
//!
//! Guarantees: it commits nothing; where it is refused, it stays where it is.

use std::sync::OnceLock;

use super::PartitionState;

/// What is special about a dead letter that is sent again: it commits nothing, and where it is refused it stays where it is.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Why it can't be written.
    refusal: OnceLock<String>,
}

impl PartitionState {
    /// The same for one dead letter that is sent again. It commits nothing.
    #[must_use]
    pub fn for_replay(self) -> Self {
        Self { replay: Some(Replayed::default()), ..self }
    }

    /// Whether this stands for a dead letter that is sent again.
    pub fn is_replay(&self) -> bool {
        self.replay.is_some()
    }

    /// Takes note of why a dead letter that is sent again can't be written. `false`: this is no replay.
    pub fn refuse_replay(&self, reason: &str) -> bool {
        let Some(replay) = &self.replay else { return false };
        // Refused where there is a reason already: the first one counts.
        let _ = replay.refusal.set(reason.to_owned());
        true
    }

    /// Why the dead letter that is sent again can't be written; `None`: nothing was refused.
    pub fn replay_refusal(&self) -> Option<&str> {
        self.replay.as_ref()?.refusal.get().map(String::as_str)
    }
}
