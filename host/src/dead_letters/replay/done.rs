//! Which offsets of a partition are done with, where those before them may not be: a position, and ranges behind it.
//!
//! Guarantees: what [`DoneOffsets::read`] makes of [`DoneOffsets::position`] and [`DoneOffsets::metadata`] is never more than what was done;
//! it is the same unless there are more ranges than the metadata has room for, where the last ones are left out. A plain
//! value, without I/O.

use std::collections::BTreeMap;
use std::ops::Range;

/// Kafka's brokers take this many bytes beside a committed offset, unless `offset.metadata.max.bytes` says otherwise.
const MAX_METADATA: usize = 4096;
const PREFIX: &str = "done=";

/// The offsets of a partition of dead letters that a replay has dealt with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DoneOffsets {
    /// All before it are done with.
    position: u64,
    /// Begin and end of what is done with behind it: apart from each other and from the position.
    ranges: BTreeMap<u64, u64>,
}

impl DoneOffsets {
    /// From what was committed. Metadata of someone else's says nothing.
    pub fn read(position: u64, metadata: &str) -> Self {
        let mut done = Self { position, ranges: BTreeMap::new() };
        for range in metadata.strip_prefix(PREFIX).unwrap_or_default().split(',') {
            if let Some((first, last)) = range.split_once('-')
                && let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>())
            {
                done.add(first..last.saturating_add(1));
            }
        }
        done
    }

    /// The first offset that isn't done with.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The ranges above the position, as text for the commit metadata.
    pub fn metadata(&self) -> String {
        let mut text = String::new();
        for (begin, end) in &self.ranges {
            let range = format!("{}{begin}-{}", if text.is_empty() { PREFIX } else { "," }, end - 1);
            if text.len() + range.len() > MAX_METADATA {
                break;
            }
            text += &range;
        }
        text
    }

    /// Whether this offset was dealt with.
    pub fn contains(&self, offset: u64) -> bool {
        offset < self.position || self.ranges.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }

    /// Adds offsets that were dealt with.
    pub fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Those that overlap or touch it become one with it.
        while let Some((&begin, &until)) = self.ranges.range(..=end).next_back().filter(|(_, until)| **until >= start) {
            self.ranges.remove(&begin);
            (start, end) = (start.min(begin), end.max(until));
        }
        if start <= self.position {
            self.position = self.position.max(end);
        } else {
            self.ranges.insert(start, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_contains_what_was_added_in_any_order_and_comes_back_from_its_metadata() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let (mut done, mut model) = (DoneOffsets::read(3, ""), (0..3).collect::<BTreeSet<u64>>());
            for _ in 0..rng.usize(0..20) {
                let start = rng.u64(0..40);
                let end = start + rng.u64(0..6);
                done.add(start..end);
                model.extend(start..end);
                let again = DoneOffsets::read(done.position(), &done.metadata());
                assert_eq!(again, done);
                let first = (0..).find(|offset| !model.contains(offset)).unwrap();
                assert_eq!(done.position(), first);
                assert!((0..60).all(|offset| done.contains(offset) == model.contains(&offset)), "{done:?} {model:?}");
            }
        }
    }

    #[test]
    fn what_has_no_room_counts_as_not_done() {
        let mut done = DoneOffsets::default();
        (1..5_000).for_each(|n| done.add(n * 2..n * 2 + 1));
        let metadata = done.metadata();
        assert!(metadata.len() <= MAX_METADATA, "{}", metadata.len());
        let read = DoneOffsets::read(done.position(), &metadata);
        assert!(read.contains(2) && !read.contains(3) && done.contains(9_998) && !read.contains(9_998));
    }

    #[test]
    fn metadata_of_someone_else_says_nothing() {
        for metadata in ["", "store=1 safe=2", "done=", "done=x-y,5", "done=9-3", "5-9"] {
            assert_eq!(
                DoneOffsets::read(4, metadata),
                DoneOffsets { position: 4, ranges: BTreeMap::new() },
                "{metadata:?}"
            );
        }
    }
}
