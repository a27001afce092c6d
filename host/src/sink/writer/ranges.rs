//! How many ranges of microseconds all writers keep together.
//!
//! Guarantees: while they keep [`MOST`] or fewer, each keeps as many as it can use; above that each that writes keeps no more than its share,
//! and [`LEAST`] at least; what a writer kept isn't counted any more when it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sink::occupied::{MAX_RANGES, OccupiedTimestamps};

/// Over all writers; about 50 B each.
const MOST: usize = 1_000_000;
/// Records whose times rise need only the last ones.
const LEAST: usize = 20;

/// What one writer keeps, as part of the sum.
pub(super) struct KeptRanges {
    of_all: Arc<AtomicUsize>,
    own: usize,
}

impl KeptRanges {
    pub fn new(of_all: &Arc<AtomicUsize>) -> Self {
        Self { of_all: Arc::clone(of_all), own: 0 }
    }

    /// Forgets the oldest ranges where there are too many. See [`OccupiedTimestamps::make_room`].
    pub fn make_room(&mut self, occupied: &mut OccupiedTimestamps, writers: impl FnOnce() -> usize) {
        let is_full = self.of_all.load(Ordering::Relaxed) > MOST;
        occupied.make_room(if is_full { (MOST / writers().max(1)).max(LEAST) } else { MAX_RANGES });
        self.count(occupied.ranges());
    }

    fn count(&mut self, own: usize) {
        if own > self.own {
            self.of_all.fetch_add(own - self.own, Ordering::Relaxed);
        } else {
            self.of_all.fetch_sub(self.own - own, Ordering::Relaxed);
        }
        self.own = own;
    }
}

impl Drop for KeptRanges {
    fn drop(&mut self) {
        self.count(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_keeps_its_share_only_where_all_together_keep_too_many() {
        let of_all = Arc::new(AtomicUsize::new(0));
        let (mut ranges, mut occupied) = (KeptRanges::new(&of_all), OccupiedTimestamps::default());
        (0..500).for_each(|n| occupied.occupy(n * 10));
        ranges.make_room(&mut occupied, || 50_000);
        assert_eq!((occupied.ranges(), of_all.load(Ordering::Relaxed)), (500, 500));
        of_all.fetch_add(MOST, Ordering::Relaxed);
        ranges.make_room(&mut occupied, || 10_000);
        assert_eq!((occupied.ranges(), of_all.load(Ordering::Relaxed)), (50, MOST + 50), "half of 100");
        ranges.make_room(&mut occupied, || 1_000_000);
        assert_eq!(occupied.ranges(), LEAST / 2);
        drop(ranges);
        assert_eq!(of_all.load(Ordering::Relaxed), MOST);
    }
}
