//! What becomes of a record that the store doesn't take.
//!
//! Guarantees: the record that is to blame is found, and no other of its batch waits for it or shares its fate; it becomes
//! a dead letter with the store's reason; a dead letter that the store doesn't take either is kept and tried again from
//! time to time, while its partition commits nothing and the reason is among the sink's problems; no record is sent that
//! would make a FIFO bucket remove everything it holds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::batch::note_state;
use super::pending::PendingWrite;
use super::{RequestSharing, Writer};
use crate::sink::counters::DeadLetterClass;
use crate::sink::problems::RefusedSubject;
use crate::sink::store::StoreError;

/// How often a dead letter that the store refuses is tried again.
const PARKED_FOR: Duration = Duration::from_secs(15);

/// For records of at most this size nobody looks whether the quota has room.
const ALWAYS_FITS: u64 = 64 * 1024;

/// Dead letters that the store refuses.
#[derive(Debug, Default)]
pub(super) struct Parked {
    records: VecDeque<PendingWrite>,
    since: Option<Instant>,
}

impl Parked {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How long until they are tried again.
    pub fn patience(&self) -> Option<Duration> {
        self.since.map(|since| PARKED_FOR.saturating_sub(since.elapsed()))
    }
}

impl Writer {
    /// The store refuses the whole batch for what may be one record: halves it until that one stands alone.
    pub(super) async fn narrow_down(
        &mut self,
        batch: &mut VecDeque<PendingWrite>,
        error: StoreError,
    ) -> Result<(), StoreError> {
        if batch.len() == 1
            && let Some(mut pending) = batch.pop_front()
        {
            pending.withdraw(&mut self.occupied);
            return match self.refuse_if_hopeless(pending, &error) {
                None => Ok(()),
                Some(pending) => {
                    batch.push_front(pending);
                    Err(error)
                }
            };
        }
        if matches!(error, StoreError::TooLarge(_) | StoreError::Doubtful(_)) {
            let header_bytes = batch.iter().map(|pending| pending.prepared.header_bytes()).sum();
            let bytes = batch.iter().map(PendingWrite::bytes).sum();
            self.shared.learn_limit(&error, header_bytes, bytes);
        }
        // The halves share no request with records of other writers.
        self.request_sharing = RequestSharing::JustFailed;
        let mut second = batch.split_off(batch.len() / 2);
        let first = Box::pin(self.send(batch)).await;
        let answer = match first {
            Ok(()) => Box::pin(self.send(&mut second)).await,
            Err(error) => Err(error),
        };
        batch.append(&mut second);
        answer
    }

    /// Makes the record a dead letter where trying again doesn't help; gives it back where that may help.
    pub(super) fn refuse_if_hopeless(&mut self, mut pending: PendingWrite, error: &StoreError) -> Option<PendingWrite> {
        let reason = match error {
            StoreError::Invalid(_) => format!("ReductStore refused it: {error}"),
            // Such an answer may have another reason than this record, and counts only where the store takes other records.
            StoreError::Doubtful(_) if !pending.fail(self.shared.counters.snapshot().written) => return Some(pending),
            StoreError::TooLarge(_) | StoreError::Doubtful(_) => format!(
                "{error}; it has {} bytes, and {} bytes of headers: {}",
                pending.bytes(),
                pending.prepared.header_bytes(),
                error.remedy()
            ),
            StoreError::Failed(_) if pending.fail(self.shared.counters.snapshot().written) => {
                format!("ReductStore failed at it again and again while it wrote others: {error}")
            }
            _ => return Some(pending),
        };
        self.refuse(pending, &reason, error);
        None
    }

    fn refuse(&mut self, pending: PendingWrite, reason: &str, error: &StoreError) {
        if !pending.prepared.is_dead_letter() {
            self.shared.dead_letter(pending.into_item(), reason, DeadLetterClass::Store);
            return;
        }
        let record = &pending.prepared.identity;
        error!(entry = %self.entry, %record, reason, "a dead letter can't be stored: its partition commits nothing behind it");
        self.shared.problems.report(&self.entry, RefusedSubject::DeadLetter, error, Instant::now());
        self.parked.since.get_or_insert_with(Instant::now);
        self.parked.records.push_back(pending);
    }

    /// Queues parked dead letters again when it is time.
    pub(super) fn retry_parked(&mut self) {
        if self.parked.patience().is_some_and(|patience| patience.is_zero()) {
            self.parked.since = None;
            for parked in std::mem::take(&mut self.parked.records) {
                note_state(&mut self.waiting_states, parked.state());
                self.pending.push_back(parked);
            }
            self.shared.problems.clear(&self.entry, RefusedSubject::DeadLetter);
        }
    }

    /// Refuses the records of a batch that the bucket's quota has no room for.
    pub(super) async fn refuse_too_large(&mut self, batch: &mut VecDeque<PendingWrite>) {
        if !batch.iter().any(|pending| pending.bytes() > ALWAYS_FITS) {
            return;
        }
        let Some(most) = self.shared.store.largest_record().await else { return };
        for pending in std::mem::take(batch) {
            if pending.bytes() <= most {
                batch.push_back(pending);
                continue;
            }
            let error = StoreError::Full(format!(
                "a record of {} bytes doesn't fit into the bucket's quota, which has room for one of {most}",
                pending.bytes()
            ));
            warn!(entry = %self.entry, record = %pending.prepared.identity, %error, "not sent");
            self.refuse(pending, &error.to_string(), &error);
        }
    }
}
