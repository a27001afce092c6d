//! A set of whole numbers (offsets, microseconds), kept as ranges.
//!
//! Guarantees: the ranges are disjoint, none is empty, and none touches another, so that two sets with the same members
//! are equal. A plain value without I/O.

use std::collections::BTreeMap;
use std::ops::Range;

/// Half-open ranges: start → end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set has no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in rising order.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = Range<u64>> {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    /// Whether `at` is a member.
    pub fn contains(&self, at: u64) -> bool {
        self.end_of_range_at(at).is_some()
    }

    /// The end of the range that `at` is a member of.
    pub fn end_of_range_at(&self, at: u64) -> Option<u64> {
        self.0.range(..=at).next_back().map(|(_, end)| *end).filter(|end| at < *end)
    }

    /// Adds all members of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Ranges that overlap or touch the new one are merged into it.
        while let Some((s, e)) = self.0.range(..=end).next_back().map(|(s, e)| (*s, *e)).filter(|(_, e)| *e >= start) {
            self.0.remove(&s);
            (start, end) = (start.min(s), end.max(e));
        }
        self.0.insert(start, end);
    }

    /// Removes one member.
    pub fn remove(&mut self, at: u64) {
        let Some(end) = self.end_of_range_at(at) else { return };
        let Some((start, _)) = self.0.range(..=at).next_back().map(|(s, e)| (*s, *e)) else { return };
        self.0.remove(&start);
        self.insert(start..at);
        self.insert(at.saturating_add(1)..end);
    }

    /// Removes all members below `floor`.
    pub fn remove_below(&mut self, floor: u64) {
        let reaching_over = self.0.range(..floor).next_back().map(|(_, end)| *end).filter(|end| *end > floor);
        self.0 = self.0.split_off(&floor);
        if let Some(end) = reaching_over {
            self.insert(floor..end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_merge_and_split() {
        let mut set = RangeSet::default();
        for range in [5..6, 7..8, 6..7, 20..30, 8..8] {
            set.insert(range);
        }
        assert_eq!(set.ranges().collect::<Vec<_>>(), [5..8, 20..30]);
        set.insert(0..40);
        set.remove(10);
        assert_eq!(set.ranges().collect::<Vec<_>>(), [0..10, 11..40]);
        assert!(!set.contains(10) && set.contains(11) && !set.contains(40));
        set.remove_below(15);
        assert_eq!(set.ranges().next(), Some(15..40));
        assert_eq!(set.ranges().count(), 1);
    }

    #[test]
    fn it_has_the_members_of_a_plain_set() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for _ in 0..rng.usize(0..20) {
                let start = rng.u64(0..40);
                match rng.u8(..8) {
                    0 => {
                        set.remove(start);
                        model.remove(&start);
                    }
                    1 => {
                        set.remove_below(start);
                        model.retain(|at| *at >= start);
                    }
                    _ => {
                        let end = start + rng.u64(0..6);
                        set.insert(start..end);
                        model.extend(start..end);
                    }
                }
                assert!((0..60).all(|at| set.contains(at) == model.contains(&at)), "{set:?} {model:?}");
                let ranges: Vec<_> = set.ranges().collect();
                assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|(one, next)| one.end < next.start), "{set:?}");
            }
        }
    }
}
