//! Decides whether a writer's small requests go together with those of other writers.
//!
//! Guarantees: after a shared request has failed, each of its writers makes its next request by itself; an entry that failed or took long
//! by itself, while the store wrote others, shares no request for a while, because a shared request that is cut off leaves
//! unfinished records in all its entries.

use std::time::{Duration, Instant};

/// For how long an entry shares no request, at first and at most.
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
    /// By itself until the turn ends, because a shared request failed, or because a batch that was refused is sent in halves. The writer
    /// waits before its next turn, in which it sends `Own` requests.
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

    /// Keeps the entry apart from now on, because it failed or was slow by itself: for longer each time, where that happens soon after the
    /// last time was over.
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
