//! A record that a writer has taken in and not acknowledged yet.

use std::sync::Arc;

use crate::flow::PartitionState;
use crate::sink::item::{Item, Prepared};
use crate::sink::occupied::OccupiedTimestamps;
use crate::sink::store::{QueriedRecord, Write};

/// How often the store may fail at one record while it writes others.
const MOST_FAILURES: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct PendingWrite {
    pub prepared: Box<Prepared>,
    /// The microsecond that it was given; `None` while it waits for one.
    pub time_us: Option<u64>,
    /// Whether it was sent to this microsecond, so that the store may have it.
    pub sent: bool,
    /// Whether an unfinished record may hide it, so that only a query proves that it can be read.
    pub must_be_shown: bool,
    /// The microsecond that was occupied at the last attempt, as the store said.
    pub conflict_us: Option<u64>,
    /// How often the store has failed at it.
    failures: u32,
    /// How many records of all entries the sink had written when the store first failed at this one.
    written_at_failure: u64,
}

impl PendingWrite {
    pub fn new(prepared: Box<Prepared>) -> Self {
        Self {
            prepared,
            time_us: None,
            sent: false,
            must_be_shown: false,
            conflict_us: None,
            failures: 0,
            written_at_failure: 0,
        }
    }

    pub fn state(&self) -> &Arc<PartitionState> {
        self.prepared.ack.state()
    }

    pub fn bytes(&self) -> u64 {
        self.prepared.payload.len() as u64
    }

    /// What to send; `None` while it has no microsecond.
    pub fn take_write(&mut self) -> Option<Write> {
        self.time_us.map(|time| self.prepared.take_write(time))
    }

    /// Takes the microsecond away from the record. If the record was sent to it, that microsecond is read before it is used again.
    pub fn withdraw(&mut self, occupied: &mut OccupiedTimestamps) {
        let was_sent = std::mem::take(&mut self.sent);
        match self.time_us.take() {
            Some(time) if was_sent => {
                occupied.doubt(time);
                self.must_be_shown = true;
            }
            Some(time) => occupied.release(time),
            None => {}
        }
    }

    /// Whether what was seen was made from the same Kafka record.
    pub fn is_of(&self, seen: &QueriedRecord) -> bool {
        seen.identity.as_ref().is_some_and(|identity| identity.matches(&self.prepared.identity))
    }

    /// Whether this is the record, whole.
    pub fn is(&self, seen: &QueriedRecord) -> bool {
        self.is_of(seen) && seen.size == self.prepared.payload.len()
    }

    /// Takes note that the store failed at it. `true`: that happened too often, while the store wrote other records.
    pub fn fail(&mut self, written: u64) -> bool {
        if self.failures == 0 {
            self.written_at_failure = written;
        }
        self.failures = self.failures.saturating_add(1);
        self.failures >= MOST_FAILURES && written > self.written_at_failure
    }

    pub fn into_item(self) -> Item {
        self.prepared.into_item()
    }
}
