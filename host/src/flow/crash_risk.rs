//! Acknowledged records of a partition that a crash of the store may harm, and that its present owner may not remember, because
//! an earlier owner wrote them. A re-read goes back by the block margin, which covers them where all records go to one entry. Where they go
//! to several, one that gets few records keeps its block open while thousands of others are written.
//!
//! Guarantees: what is added stays until its time is over; no more than [`MOST`] risks are kept, and where there are more, the first ones
//! become one that covers them. A plain value without I/O.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// For how long after a record was written the store may still be at work on its block. Source: it keeps blocks open for 30 s and
/// saves what is open every 60 s by default, but not while it is busy (`reductstore` 1.21, block_cache.rs and cfg).
pub const BLOCK_AT_WORK: Duration = Duration::from_secs(300);

/// A host that is started again and again adds one each time.
const MOST: usize = 8;

/// Until this moment a crash may harm records from this offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashRisk {
    /// The first offset.
    pub from: u64,
    /// In milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// See the module. Each begins at a lower offset than the next one, and is over before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrashRisks(Vec<CrashRisk>);

impl CrashRisks {
    /// Adds a risk, unless another one covers it.
    pub fn add(&mut self, risk: CrashRisk) {
        let covers = |one: &CrashRisk, other: &CrashRisk| one.from <= other.from && one.until_ms >= other.until_ms;
        if self.0.iter().any(|known| covers(known, &risk)) {
            return;
        }
        self.0.retain(|known| !covers(&risk, known));
        let at = self.0.partition_point(|known| known.until_ms < risk.until_ms);
        self.0.insert(at, risk);
        if self.0.len() > MOST {
            let first = self.0.remove(0);
            if let Some(next) = self.0.first_mut() {
                next.from = first.from;
            }
        }
    }

    /// Leaves those out that were over at `ran_ms`, when the store was last known to run: in one that is down no block is saved. None lasts
    /// for longer than if its record had been written now: the clock of the host that added it may be wrong.
    pub fn at(&self, ran_ms: u64, now_ms: u64) -> Self {
        let latest = until(now_ms);
        let mut left = Self::default();
        for risk in self.0.iter().filter(|risk| risk.until_ms > ran_ms) {
            left.add(CrashRisk { until_ms: risk.until_ms.min(latest), ..*risk });
        }
        left
    }

    /// The first offset that is at risk.
    pub fn lowest(&self) -> Option<u64> {
        self.0.first().map(|risk| risk.from)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Until when a record is at risk that is written now, to the next full minute: this is committed, and an offset whose metadata changes is
/// committed again.
pub fn until(now_ms: u64) -> u64 {
    const MINUTE_MS: u64 = 60_000;
    let until = now_ms.saturating_add(u64::try_from(BLOCK_AT_WORK.as_millis()).unwrap_or(u64::MAX));
    until.checked_next_multiple_of(MINUTE_MS).unwrap_or(until)
}

impl fmt::Display for CrashRisks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let risks: Vec<String> = self.0.iter().map(|risk| format!("{}@{}", risk.from, risk.until_ms)).collect();
        f.write_str(&risks.join(","))
    }
}

/// The text isn't one that [`CrashRisks`] displays.
#[derive(Debug)]
pub struct NotRisks;

impl FromStr for CrashRisks {
    type Err = NotRisks;

    fn from_str(text: &str) -> Result<Self, NotRisks> {
        let mut risks = Self::default();
        for risk in text.split(',') {
            let (from, until) = risk.split_once('@').ok_or(NotRisks)?;
            let number = |text: &str| text.parse().map_err(|_| NotRisks);
            risks.add(CrashRisk { from: number(from)?, until_ms: number(until)? });
        }
        Ok(risks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn risks(text: &str) -> CrashRisks {
        text.parse().unwrap()
    }

    #[test]
    fn a_risk_that_another_one_covers_is_left_out() {
        assert_eq!(risks("50@100,20@90,60@80,10@70,50@95").to_string(), "10@70,20@90,50@100");
        assert_eq!(risks("50@100,40@100").to_string(), "40@100");
        for text in ["", "4", "4@", "4@5,", "4@5-6"] {
            assert!(text.parse::<CrashRisks>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn where_there_are_too_many_the_first_become_one() {
        let mut many = CrashRisks::default();
        let most = MOST as u64;
        for number in 0..most + 2 {
            many.add(CrashRisk { from: 10 * number, until_ms: 100 + number });
        }
        assert_eq!((many.0.len(), many.lowest()), (MOST, Some(0)));
        assert_eq!(many.0[0], CrashRisk { from: 0, until_ms: 102 }, "it lasts as long as the last of them");
        assert_eq!(many.at(102, 102).lowest(), Some(30));
    }

    #[test]
    fn a_risk_is_over_at_its_time_and_soon_by_any_clock() {
        let text = "5@1000,7@99999999999";
        assert_eq!(risks(text).at(999, 999).to_string(), "5@1000,7@360000");
        assert_eq!(risks(text).at(1000, 1000).to_string(), "7@360000");
        assert!(risks("5@1000").at(1000, 1000).is_empty());
        assert_eq!(risks("5@1000").at(999, 900_000).to_string(), "5@1000", "the store was down since");
        assert_eq!(until(60_000), 360_000);
        assert_eq!(until(u64::MAX), u64::MAX);
    }
}
