//! How much is measured. A run has enough records to take seconds, because the costs of a start, such as the first use of
//! memory, must not count; and few enough that the whole benchmark takes about a quarter of an hour.

/// A payload size with what is measured at it.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// In the names of figures.
    pub name: &'static str,
    pub label: &'static str,
    pub bytes: usize,
    /// Of a run.
    pub records: u64,
    /// The tutorial's consumer is slower by far, and needs fewer for as long a run.
    pub tutorial_records: u64,
    /// Records in one request of the direct writer: what was fastest of 4 to 80 at this size, by a few percent.
    pub direct_batch: usize,
    rounds: usize,
    long_rounds: usize,
}

impl Size {
    pub fn rounds(&self, long: bool) -> usize {
        if long { self.long_rounds } else { self.rounds }
    }
}

pub const SIZES: [Size; 3] = [
    Size {
        name: "1kb",
        label: "1 KB",
        bytes: 1_000,
        records: 12_000,
        tutorial_records: 2_500,
        direct_batch: 80,
        rounds: 5,
        long_rounds: 15,
    },
    Size {
        name: "100kb",
        label: "100 KB",
        bytes: 100_000,
        records: 10_000,
        tutorial_records: 1_000,
        direct_batch: 80,
        rounds: 4,
        long_rounds: 12,
    },
    Size {
        name: "900kb",
        label: "900 KB",
        bytes: 900_000,
        records: 3_000,
        tutorial_records: 300,
        direct_batch: 16,
        rounds: 4,
        long_rounds: 12,
    },
];

/// Through the discarding sink, of 1 KB.
pub const DISCARD_RECORDS: u64 = 2_000_000;
pub const DISCARD_RUNS: usize = 3;
pub const DISCARD_LONG_RUNS: usize = 7;

/// 2 GB of 900 KB records.
pub const BACKLOG_BYTES: u64 = 2_000_000_000;
pub const BACKLOG_RECORD: usize = 900_000;
