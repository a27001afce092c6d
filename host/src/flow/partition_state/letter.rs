//! The [`PartitionState`] of a dead letter that a replay sends again. Each such letter has one of its own, because its acknowledgement says
//! nothing about the offsets of its partition. It tells the sink whether the letter may still be written, and takes note of what
//! became of it. Either no host runs (the letter is replayed *alone*), or this host reads the letter's partition at the same time (the
//! letter is replayed *beside live records*).
//!
//! Guarantees: a letter's state commits nothing; a letter that is refused stays a dead letter; beside live records a letter may be written
//! only while its partition is this host's and isn't re-read, and a request with a letter counts as a request of the partition, so that
//! a revocation waits for the answer.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{GENERATIONS, Inner, PartitionState, Phase};
use crate::flow::budget::{Budget, Usage};
use crate::record::entry_name::EntryName;
use crate::record::{Identity, TopicId};

/// What only the state of a dead letter has.
#[derive(Debug, Default)]
pub(super) struct LetterState {
    /// Why the letter isn't written; empty while nothing speaks against it.
    refusal: OnceLock<LetterRefusal>,
    /// The letter's partition as this host reads it; `None`: the letter is replayed alone.
    live: Option<Arc<PartitionState>>,
    /// Where the letter's outputs are in the store.
    stored: Mutex<Vec<StoredOutput>>,
}

/// Why a dead letter that was sent again isn't written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterRefusal {
    /// The letter can't be written as it is, for this reason.
    Failing(String),
    /// The letter can't be written now, for this reason.
    NotNow(String),
}

/// Where an output of a dead letter is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOutput {
    /// The entry that holds it.
    pub entry: EntryName,
    /// Its timestamp in the entry, in microseconds since 1970.
    pub time_us: u64,
    /// Which Kafka record it was made of.
    pub identity: Identity,
    /// The checksum of its whole payload, comparable within this process only.
    pub checksum: u64,
    /// Whether the entry had it before the replay.
    pub found: bool,
}

impl PartitionState {
    /// Makes this the state of one dead letter that is replayed while no host runs.
    #[must_use]
    pub fn for_letter_alone(self) -> Self {
        Self { letter: Some(LetterState::default()), ..self }
    }

    /// The state of one dead letter of this partition that is replayed beside the partition's live records.
    pub fn for_letter_beside_live(self: &Arc<Self>, budget: &Arc<Budget>) -> Self {
        Self {
            source: self.source.clone(),
            template: self.template.clone(),
            entry: self.entry.clone(),
            dead_letter_entry: self.dead_letter_entry.clone(),
            generation: GENERATIONS.fetch_add(1, std::sync::atomic::Ordering::SeqCst),
            usage: Usage::of(budget),
            budget: Arc::clone(budget),
            gate: Arc::clone(&self.gate),
            block_margin: self.block_margin.clone(),
            written_before: 0,
            owned_from: 0,
            metadata: self.metadata.clone(),
            letter: Some(LetterState { live: Some(Arc::clone(self)), ..LetterState::default() }),
            inner: Mutex::new(Inner::starting_at(0)),
            changed: std::sync::Condvar::new(),
        }
    }

    /// Whether this is the state of a dead letter, and not of a partition.
    pub fn is_of_letter(&self) -> bool {
        self.letter.is_some()
    }

    /// Whether this is the state of a dead letter that is replayed beside live records.
    pub fn is_of_letter_beside_live(&self) -> bool {
        self.live_partition().is_some()
    }

    /// The state of the partition of a letter that is replayed beside live records; `None`: this is no such letter's.
    pub fn live_partition(&self) -> Option<&Arc<Self>> {
        self.letter.as_ref()?.live.as_ref()
    }

    /// Whether dead letters of this partition may be written and removed now: the partition is this host's, it isn't being
    /// re-read, and no request of an earlier host can arrive any more. Once the answer has changed from `true` to `false`, it stays
    /// `false`.
    pub fn may_replay_letters(&self) -> bool {
        let inner = self.lock();
        inner.phase == Phase::Reading && !inner.abandoned && !inner.is_rereading() && inner.late.is_none()
    }

    /// Whether everything that was read at this offset is acknowledged. It is, too, where `topic_id` is of an earlier topic of the same
    /// name: nothing of that is read any more.
    pub fn has_passed(&self, offset: u64, topic_id: Option<TopicId>) -> bool {
        topic_id.is_some_and(|id| self.topic_id() != Some(id)) || offset < self.position()
    }

    /// Takes note of why the dead letter isn't written. `false`: this is a partition's state, and nothing was noted.
    pub fn refuse_letter(&self, refusal: LetterRefusal) -> bool {
        let Some(letter) = &self.letter else { return false };
        // It can be set once only: the first reason counts.
        let _ = letter.refusal.set(refusal);
        true
    }

    /// Why the dead letter isn't written; `None`: it wasn't refused.
    pub fn letter_refusal(&self) -> Option<&LetterRefusal> {
        self.letter.as_ref()?.refusal.get()
    }

    /// Takes note of where an output of the dead letter is.
    pub fn note_stored(&self, output: StoredOutput) {
        if let Some(letter) = &self.letter {
            letter.stored.lock().unwrap_or_else(PoisonError::into_inner).push(output);
        }
    }

    /// Where the outputs of the dead letter are, as far as that was noted.
    pub fn take_stored(&self) -> Vec<StoredOutput> {
        let stored = self.letter.as_ref().map(|letter| &letter.stored);
        stored
            .map(|stored| std::mem::take(&mut *stored.lock().unwrap_or_else(PoisonError::into_inner)))
            .unwrap_or_default()
    }
}
