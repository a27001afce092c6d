//! Which offsets of one partition were received, which of them are acknowledged, and up to where it is safe to commit.
//!
//! Guarantees: the position never passes an offset that was received and isn't acknowledged; it never goes back; gaps
//! between offsets (compaction, transactions) don't hold it up; acknowledging twice, or an offset that was never
//! received, changes nothing. A plain value without I/O or time.

use std::collections::VecDeque;

/// An offset that was received and is at or above the first unacknowledged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PendingOffset {
    offset: u64,
    acknowledged: bool,
}

/// See the module. Offsets are received in rising order, as Kafka delivers them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// From the first unacknowledged offset on; empty when all are acknowledged.
    slots: VecDeque<PendingOffset>,
    /// How many of `slots` aren't acknowledged.
    in_flight: usize,
    next_offset: u64,
}

impl Checkpoint {
    /// A checkpoint of a partition that is read from this offset on.
    pub fn starting_at(offset: u64) -> Self {
        Self { next_offset: offset, ..Self::default() }
    }

    /// Takes note of an offset. `false`: it isn't newer than the last one received, and nothing was noted; the record
    /// is a repetition.
    #[must_use]
    pub fn receive(&mut self, offset: u64) -> bool {
        if offset < self.next_offset {
            return false;
        }
        self.next_offset = offset.saturating_add(1);
        self.slots.push_back(PendingOffset { offset, acknowledged: false });
        self.in_flight += 1;
        true
    }

    /// Takes note that no record comes between the last received one and `offset`: control records at the end of a
    /// transaction, a compacted tail, or records that can't be read and that the configuration says to skip.
    pub fn skip_to(&mut self, offset: u64) {
        self.next_offset = self.next_offset.max(offset);
    }

    /// Marks an offset as acknowledged (see the glossary).
    pub fn acknowledge(&mut self, offset: u64) {
        let Ok(at) = self.slots.binary_search_by_key(&offset, |slot| slot.offset) else { return };
        if let Some(slot) = self.slots.get_mut(at)
            && !slot.acknowledged
        {
            slot.acknowledged = true;
            self.in_flight -= 1;
        }
        while self.slots.front().is_some_and(|slot| slot.acknowledged) {
            self.slots.pop_front();
        }
    }

    /// The next offset to read, if this partition were read again: the oldest one that isn't acknowledged.
    pub fn position(&self) -> u64 {
        self.slots.front().map_or(self.next_offset, |slot| slot.offset)
    }

    /// The next offset to receive.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// Records received and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Records received since the oldest one that isn't acknowledged, including it: what this value takes memory for,
    /// and what is read again if the partition is.
    pub fn span(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_waits_for_the_oldest() {
        let mut checkpoint = Checkpoint::starting_at(2);
        assert_eq!(checkpoint.position(), 2);
        for offset in [3, 4, 9] {
            assert!(checkpoint.receive(offset));
        }
        assert_eq!(checkpoint.position(), 3);
        checkpoint.acknowledge(4);
        checkpoint.acknowledge(9);
        assert_eq!((checkpoint.position(), checkpoint.in_flight(), checkpoint.span()), (3, 1, 3));
        checkpoint.acknowledge(3);
        assert_eq!((checkpoint.position(), checkpoint.in_flight(), checkpoint.span()), (10, 0, 0));
    }

    #[test]
    fn repetitions_and_unknown_offsets_change_nothing() {
        let mut checkpoint = Checkpoint::starting_at(5);
        assert!(!checkpoint.receive(4));
        assert!(checkpoint.receive(5));
        assert!(!checkpoint.receive(5));
        checkpoint.acknowledge(77);
        assert_eq!(checkpoint.in_flight(), 1);
        checkpoint.acknowledge(5);
        checkpoint.acknowledge(5);
        assert_eq!((checkpoint.position(), checkpoint.in_flight()), (6, 0));
        checkpoint.skip_to(8);
        checkpoint.skip_to(7);
        assert_eq!(checkpoint.position(), 8);
        assert!(!checkpoint.receive(7));
    }
}
