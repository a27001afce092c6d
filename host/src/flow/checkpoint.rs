//! The ledger of one partition: which offsets were received, which of them are settled, and up to where it is safe to
//! commit. A plain value without I/O or time.
//!
//! Guarantees: the commit position never passes an offset that was received and isn't settled; it never goes back; gaps
//! between offsets (compaction, transactions) don't hold it up; settling twice, or an offset that was never received,
//! changes nothing.

use std::collections::VecDeque;

/// An offset that was received and is at or behind the first unsettled one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    offset: u64,
    settled: bool,
}

/// See the module. Offsets are received in rising order, as Kafka delivers them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// From the first unsettled offset on; empty when all is settled.
    slots: VecDeque<Slot>,
    /// Unsettled ones among `slots`.
    in_flight: usize,
    /// The next offset after the last received one.
    received_end: Option<u64>,
}

impl Checkpoint {
    /// Takes note of an offset. `false`: it isn't newer than the last one received, and nothing was noted; the record
    /// is a repetition, which happens when a consumer is set back.
    #[must_use]
    pub fn receive(&mut self, offset: u64) -> bool {
        if self.received_end.is_some_and(|end| offset < end) {
            return false;
        }
        self.received_end = Some(offset.saturating_add(1));
        self.slots.push_back(Slot { offset, settled: false });
        self.in_flight += 1;
        true
    }

    /// Takes note that nothing more is to be expected below `offset`, though no record says so: control records at the
    /// end of a transaction, or a compacted tail.
    pub fn skip_to(&mut self, offset: u64) {
        if self.received_end.is_none_or(|end| offset > end) {
            self.received_end = Some(offset);
        }
    }

    /// Marks an offset as done: written, dropped by a verdict, or in the dead letters.
    pub fn acknowledge(&mut self, offset: u64) {
        let Ok(at) = self.slots.binary_search_by_key(&offset, |slot| slot.offset) else { return };
        if let Some(slot) = self.slots.get_mut(at)
            && !slot.settled
        {
            slot.settled = true;
            self.in_flight -= 1;
        }
        while self.slots.front().is_some_and(|slot| slot.settled) {
            self.slots.pop_front();
        }
    }

    /// What to commit: the next offset to read, should this partition be read again. `None` before the first record.
    pub fn commit_position(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.offset).or(self.received_end)
    }

    /// Records received and not settled.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_waits_for_the_oldest() {
        let mut checkpoint = Checkpoint::default();
        assert_eq!(checkpoint.commit_position(), None);
        for offset in [3, 4, 9] {
            assert!(checkpoint.receive(offset));
        }
        assert_eq!(checkpoint.commit_position(), Some(3));
        checkpoint.acknowledge(4);
        checkpoint.acknowledge(9);
        assert_eq!((checkpoint.commit_position(), checkpoint.in_flight()), (Some(3), 1));
        checkpoint.acknowledge(3);
        assert_eq!((checkpoint.commit_position(), checkpoint.in_flight()), (Some(10), 0));
    }

    #[test]
    fn repetitions_and_strangers_change_nothing() {
        let mut checkpoint = Checkpoint::default();
        assert!(checkpoint.receive(5));
        assert!(!checkpoint.receive(5));
        assert!(!checkpoint.receive(4));
        checkpoint.acknowledge(77);
        assert_eq!(checkpoint.in_flight(), 1);
        checkpoint.acknowledge(5);
        checkpoint.acknowledge(5);
        assert_eq!((checkpoint.commit_position(), checkpoint.in_flight()), (Some(6), 0));
        checkpoint.skip_to(8);
        checkpoint.skip_to(7);
        assert_eq!(checkpoint.commit_position(), Some(8));
        assert!(!checkpoint.receive(7));
    }
}
