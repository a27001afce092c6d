//! A dead letter that is sent again, as a [`PartitionState`] of its own.
//!
//! Guarantees: it commits nothing; where it is refused, it stays where it is; where it is sent beside live records, it may be written only
//! while its partition is this host's and isn't read again, and a request with it is a request of the partition: a revocation waits for
//! the answer.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{GENERATIONS, Inner, PartitionState, Phase};
use crate::flow::budget::{Budget, Usage};
use crate::record::entry_name::EntryName;
use crate::record::{Identity, TopicId};

/// What is special about a dead letter that is sent again.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Why it isn't written.
    refusal: OnceLock<ReplayRefusal>,
    /// The partition as this host reads it, where the letter is sent beside live records.
    live: Option<Arc<PartitionState>>,
    /// Where its outputs are.
    stored: Mutex<Vec<StoredOutput>>,
}

/// Why a dead letter that was sent again isn't written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayRefusal {
    /// It can't be written as it is.
    Failing(String),
    /// It can't be written now.
    NotNow(String),
}

/// Where an output of a dead letter is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOutput {
    /// The entry.
    pub entry: EntryName,
    /// Its time there, in microseconds since 1970.
    pub time_us: u64,
    /// Which Kafka record it was made of.
    pub identity: Identity,
    /// Of all bytes of its payload, comparable within this process only.
    pub checksum: u64,
    /// It was there before.
    pub found: bool,
}

impl PartitionState {
    /// The same for one dead letter that is sent again while no host runs. It commits nothing.
    #[must_use]
    pub fn for_replay(self) -> Self {
        Self { replay: Some(Replayed::default()), ..self }
    }

    /// A dead letter of this partition that is sent again beside its live records. It commits nothing.
    pub fn for_letter(self: &Arc<Self>, budget: &Arc<Budget>) -> Self {
        Self {
            source: self.source.clone(),
            template: self.template.clone(),
            entry: self.entry.clone(),
            dead_letter_entry: self.dead_letter_entry.clone(),
            generation: GENERATIONS.fetch_add(1, std::sync::atomic::Ordering::SeqCst),
            usage: Usage::of(budget),
            budget: Arc::clone(budget),
            gate: Arc::clone(&self.gate),
            block_offsets: self.block_offsets,
            written_before: 0,
            metadata: self.metadata.clone(),
            replay: Some(Replayed { live: Some(Arc::clone(self)), ..Replayed::default() }),
            inner: Mutex::new(Inner::starting_at(0)),
            changed: std::sync::Condvar::new(),
        }
    }

    /// Whether this stands for a dead letter that is sent again.
    pub fn is_replay(&self) -> bool {
        self.replay.is_some()
    }

    /// Whether this stands for a dead letter that is sent again beside live records.
    pub fn is_beside_live(&self) -> bool {
        self.live().is_some()
    }

    /// The partition of a letter that is sent beside live records.
    pub fn live(&self) -> Option<&Arc<Self>> {
        self.replay.as_ref()?.live.as_ref()
    }

    /// Whether dead letters of this partition may be written and removed now: it is this host's, nothing of it is being read
    /// again, and no request of an earlier host can arrive any more. Once it answered `true` and then `false`, it stays so.
    pub fn may_replay(&self) -> bool {
        let inner = self.lock();
        inner.phase == Phase::Reading && !inner.abandoned && !inner.is_rereading() && inner.late.is_none()
    }

    /// Whether all that was read of the record at this offset is done with. A topic of another id, which had the name before, is gone.
    pub fn has_passed(&self, offset: u64, topic_id: Option<TopicId>) -> bool {
        topic_id.is_some_and(|id| self.topic_id() != Some(id)) || offset < self.position()
    }

    /// Takes note of why a dead letter that is sent again isn't written. `false`: this is no replay.
    pub fn refuse_replay(&self, refusal: ReplayRefusal) -> bool {
        let Some(replay) = &self.replay else { return false };
        // Refused where there is a reason already: the first one counts.
        let _ = replay.refusal.set(refusal);
        true
    }

    /// Why the dead letter that is sent again isn't written; `None`: nothing was refused.
    pub fn replay_refusal(&self) -> Option<&ReplayRefusal> {
        self.replay.as_ref()?.refusal.get()
    }

    /// Takes note of where an output of a dead letter is.
    pub fn note_stored(&self, output: StoredOutput) {
        if let Some(replay) = &self.replay {
            replay.stored.lock().unwrap_or_else(PoisonError::into_inner).push(output);
        }
    }

    /// Where its outputs are.
    pub fn take_stored(&self) -> Vec<StoredOutput> {
        let stored = self.replay.as_ref().map(|replay| &replay.stored);
        stored
            .map(|stored| std::mem::take(&mut *stored.lock().unwrap_or_else(PoisonError::into_inner)))
            .unwrap_or_default()
    }
}
