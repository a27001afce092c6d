//! When the store was started, as far as its answers tell: its uptime comes in whole seconds, so that each answer bounds
//! the moment from both sides, and several narrow it down. Plain values, no I/O.
//!
//! Guarantees: two starts further apart than [`CLOCKS`] and what their bounds leave open are never taken for one.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far the clocks of hosts may differ, in milliseconds, before one start looks like two, which only costs reading
/// again. A server takes longer than this from one start to the next.
const CLOCKS: u64 = 300;

/// A moment between two others, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The store started no earlier than this, in milliseconds since 1970.
    pub from: u64,
    /// The store started no later than this, in milliseconds since 1970.
    pub to: u64,
}

impl Started {
    /// The start that follows from an uptime which the store gave between `asked` and `answered`.
    pub fn bounds(asked: u64, answered: u64, uptime_s: u64) -> Self {
        let from = asked.saturating_sub(uptime_s.saturating_add(1).saturating_mul(1000));
        Self { from, to: answered.saturating_sub(uptime_s.saturating_mul(1000)).max(from) }
    }

    /// The start that both bounds allow; `None`: they are bounds of different starts.
    pub fn narrow(self, other: Self) -> Option<Self> {
        let (from, to) = (self.from.max(other.from), self.to.min(other.to));
        (from <= to.saturating_add(CLOCKS)).then(|| Self { from: from.min(to), to: to.max(from) })
    }

    /// How imprecise that is.
    pub fn width(self) -> Duration {
        Duration::from_millis(self.to - self.from)
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from, self.to)
    }
}

impl FromStr for Started {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (from, to) = text.split_once('-').ok_or(())?;
        let (from, to) = (from.parse().map_err(drop)?, to.parse().map_err(drop)?);
        if from <= to { Ok(Self { from, to }) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_narrow_one_start_and_tell_two_apart() {
        let first = Started::bounds(10_000, 10_010, 3);
        assert_eq!(first, Started { from: 6_000, to: 7_010 });
        // Started at 6500: the uptime has just become 4.
        let both = first.narrow(Started::bounds(10_520, 10_530, 4)).unwrap();
        assert_eq!(both, Started { from: 6_000, to: 6_530 });
        let exact = both.narrow(Started::bounds(11_480, 11_490, 4)).unwrap();
        assert_eq!(exact, Started { from: 6_480, to: 6_530 });
        assert_eq!(exact.narrow(Started { from: 6_831, to: 7_831 }), None);
        assert!(exact.narrow(Started { from: 6_700, to: 7_700 }).is_some(), "clocks differ a little");
        assert_eq!(Started::bounds(500, 600, 3), Started { from: 0, to: 0 }, "a clock that was set back");
    }

    #[test]
    fn it_survives_being_written_down() {
        let started = Started { from: 1, to: 20 };
        assert_eq!(started.to_string().parse(), Ok(started));
        for text in ["", "1", "1-", "20-1", "a-b"] {
            assert!(text.parse::<Started>().is_err(), "{text}");
        }
    }
}
