//! Knows under which leader epochs of Kafka the records of a partition were written. With the epoch at an offset, a later reader finds out
//! whether the log was truncated below that offset since, as by an unclean leader election.
//!
//! Guarantees: [`LeaderEpochs::at`] names an epoch whose records reach up to the offset, in the log as it was read; where
//! that isn't known, as behind records that compaction or a transaction left no trace of, it names none. A plain value
//! without I/O.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    /// Where each epoch begins, as far as it matters: the first offset, and the epoch.
    begins: VecDeque<(u64, u32)>,
    /// The next offset after the last record whose epoch is known.
    end: u64,
}

impl LeaderEpochs {
    /// The epochs of a partition that is read from `offset` on. `epoch` is the one that an earlier reader knew at this offset or behind it.
    pub fn starting_at(offset: u64, epoch: Option<u32>) -> Self {
        Self { begins: epoch.map(|epoch| (0, epoch)).into_iter().collect(), end: offset }
    }

    /// Takes note of a record that was read, and of its epoch; `None`: the broker doesn't tell it. `position`: epochs at offsets before it
    /// aren't asked for any more.
    pub fn read(&mut self, offset: u64, epoch: Option<u32>, position: u64) {
        self.end = offset.saturating_add(1);
        let Some(epoch) = epoch else { return self.begins.clear() };
        if self.begins.back().is_some_and(|(_, last)| *last == epoch) {
            return;
        }
        self.begins.push_back((offset, epoch));
        while self.begins.get(1).is_some_and(|(begin, _)| *begin <= position) {
            self.begins.pop_front();
        }
    }

    /// The epoch to note beside an offset that is committed.
    pub fn at(&self, offset: u64) -> Option<u32> {
        // No record has told the epoch of the offsets between the last record and this one.
        if offset > self.end {
            return None;
        }
        // Where only later epochs are known, the first of them is right, too: its records reach up to this offset all the more.
        let begun = self.begins.iter().rev().find(|(begin, _)| *begin <= offset);
        begun.or_else(|| self.begins.front()).map(|(_, epoch)| *epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_has_the_epoch_of_its_record_or_of_the_last_one_before_it() {
        let mut epochs = LeaderEpochs::starting_at(10, Some(3));
        assert_eq!((epochs.at(8), epochs.at(10), epochs.at(11)), (Some(3), Some(3), None));
        epochs.read(10, Some(3), 10);
        epochs.read(12, Some(5), 10);
        epochs.read(13, Some(5), 10);
        assert_eq!([10, 11, 12, 14, 15].map(|offset| epochs.at(offset)), [Some(3), Some(3), Some(5), Some(5), None]);
        epochs.read(14, Some(6), 14);
        assert_eq!(
            (epochs.begins.len(), epochs.at(14), epochs.at(3)),
            (1, Some(6), Some(6)),
            "what is settled is forgotten"
        );
    }

    #[test]
    fn what_no_record_told_is_not_known() {
        let mut epochs = LeaderEpochs::starting_at(0, None);
        assert_eq!(epochs.at(0), None);
        epochs.read(0, Some(1), 0);
        epochs.read(1, None, 0);
        assert_eq!(epochs.at(1), None, "a record in an old format");
        epochs.read(5, Some(2), 0);
        assert_eq!((epochs.at(6), epochs.at(9)), (Some(2), None), "6 to 8 may be of a later epoch");
    }
}
