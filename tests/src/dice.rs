//! Random numbers that can be repeated.
//!
//! Guarantees: the seed is printed; the same seed gives the same numbers in the same order.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// A source of numbers that look random.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// A source with the seed in `TESTBED_SEED`, or else with a new seed.
    pub fn new(test: &str) -> Result<Self> {
        let seed = match std::env::var("TESTBED_SEED") {
            Ok(seed) => seed.parse().with_context(|| format!("TESTBED_SEED is {seed:?}"))?,
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into(),
        };
        println!("seed of {test}: {seed}; again with TESTBED_SEED={seed}");
        Ok(Self::seeded(seed))
    }

    pub fn seeded(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Another source, whose use doesn't change the numbers of this one.
    pub fn fork(&mut self) -> Self {
        Self::seeded(self.throw())
    }

    /// SplitMix64: good enough for tests, whatever the seed.
    pub fn throw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.throw() % bound.max(1)
    }

    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    pub fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }
}
