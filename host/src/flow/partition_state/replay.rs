//! A dead letter that is sent again, as a [`PartitionState`] of its own.
//!
//! Guarantees: it commits nothing; where it is refused, it stays where it is; beside a partition that is read meanwhile it is
//! written only as long as the partition may be, and a revocation of the partition waits for its requests.

use std::sync::{Arc, Condvar, Mutex, OnceLock};

use super::{Inner, PartitionState};
use crate::flow::budget::{Budget, Usage};
use crate::flow::commit_metadata::CommitMetadata;

/// What is special about a dead letter that is sent again: it commits nothing, and where it is refused it stays where it is.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// The partition that this host reads meanwhile. While the letter is written, both use the same writer of an entry, and
    /// the letter may be written only as long as the partition may.
    pub owner: Option<Arc<PartitionState>>,
    /// Why it can't be written.
    refusal: OnceLock<String>,
}

impl Replayed {
    pub fn may_write(&self) -> bool {
        self.owner.as_ref().is_none_or(|owner| owner.may_write())
    }
}

impl PartitionState {
    /// The same for one dead letter that is sent again. It commits nothing.
    #[must_use]
    pub fn for_replay(self) -> Self {
        Self { replay: Some(Replayed::default()), ..self }
    }

    /// For one dead letter of this partition that is sent again while the partition is read.
    pub fn replay_beside(self: &Arc<Self>, budget: Arc<Budget>) -> Self {
        Self {
            source: self.source.clone(),
            template: self.template.clone(),
            entry: self.entry.clone(),
            dead_letter_entry: self.dead_letter_entry.clone(),
            generation: self.generation,
            budget,
            gate: Arc::clone(&self.gate),
            usage: Usage::default(),
            block_offsets: self.block_offsets,
            written_before: self.written_before,
            metadata: CommitMetadata::default(),
            replay: Some(Replayed { owner: Some(Arc::clone(self)), refusal: OnceLock::new() }),
            inner: Mutex::new(Inner::starting_at(0)),
            changed: Condvar::new(),
        }
    }

    /// Whether this stands for a dead letter that is sent again.
    pub fn is_replay(&self) -> bool {
        self.replay.is_some()
    }

    /// The partition whose blocks in the store a write for this value may change: itself, unless this is a replay beside it.
    pub fn owner<'a>(self: &'a Arc<Self>) -> &'a Arc<Self> {
        self.replay.as_ref().and_then(|replay| replay.owner.as_ref()).unwrap_or(self)
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
