//! Whether a writer's small requests go together with those of other writers.
//!
//! Guarantees: after a shared request that failed its writers ask by themselves once; an entry that failed or took long by
//! itself, while the store wrote others, shares no request for a while: one that it cuts off would leave unfinished
//! records in all entries of that request.

use std::time::{Duration, Instant};

/// How long an entry shares nothing, at first and at most.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(600);
/// A turn that takes longer than this is slow.
pub(super) const SLOW: Duration = Duration::from_secs(5);

/// How a writer makes its next small request.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestSharing {
    /// Together with those of other writers.
    #[default]
    Shared,
    /// By itself: a shared request failed in this turn, and the next turn shows whose fault it was.
    JustFailed,
    /// By itself, until a turn succeeds.
    Own,
}

/// For how long an entry that harmed others is kept apart from them.
#[derive(Debug, Default)]
pub(super) struct Apart {
    until: Option<Instant>,
    term: Duration,
}

impl Apart {
    pub fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// It failed or was slow by itself. Each time that it does so soon after it was let in again it stays out for longer.
    pub fn begin(&mut self, now: Instant) {
        self.term = match self.until {
            Some(until) if now < until => self.term,
            Some(until) if now < until + LONGEST => self.term.saturating_mul(2).min(LONGEST),
            _ => FIRST,
        };
        self.until = Some(now + self.term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_keeps_failing_stays_out_for_longer_each_time() {
        let (mut apart, mut now) = (Apart::default(), Instant::now());
        assert!(apart.is_over(now));
        for minutes in [1, 2, 4, 8, 10, 10] {
            apart.begin(now);
            let until = now + minutes * FIRST;
            assert!(!apart.is_over(until - Duration::from_millis(1)) && apart.is_over(until), "{minutes}");
            now = until;
        }
        now += LONGEST;
        apart.begin(now);
        now += FIRST / 2;
        apart.begin(now);
        assert!(!apart.is_over(now + FIRST / 2) && apart.is_over(now + FIRST), "from the last failure on");
    }
}
