//! What a plugin prints in calls that fail, such as the lines of a panic.
//!
//! Guarantees: of each kind of line [`FAILURES`] are written a minute and the rest is counted, whatever is printed; the number of kinds
//! is bounded. Plain values.

use std::time::{Duration, Instant};

/// This many lines of each kind are written a minute.
const FAILURES: u64 = 2;
/// Kinds of lines that are told apart, by their first characters, digits aside. Further ones are counted together.
const KINDS: usize = 64;
const KIND_CHARACTERS: usize = 80;
const MINUTE: Duration = Duration::from_secs(60);

/// What was printed in failing calls within the minute.
pub(super) struct FailingLines {
    since: Instant,
    kinds: Vec<FailingKind>,
}

struct FailingKind {
    name: String,
    lines: u64,
    last: String,
}

impl FailingLines {
    pub fn new(since: Instant) -> Self {
        Self { since, kinds: Vec::new() }
    }

    /// Whether this line may be written now, and what an earlier minute left out: how many lines, and the last of them.
    pub fn take(&mut self, now: Instant, text: &str) -> (bool, Vec<(u64, String)>) {
        let unreported = self.due(now);
        let name: String = text.chars().filter(|c| !c.is_ascii_digit()).take(KIND_CHARACTERS).collect();
        let at = self.kinds.iter().position(|kind| kind.name == name);
        if at.is_none() && self.kinds.len() < KINDS {
            self.kinds.push(FailingKind { name, lines: 1, last: String::new() });
            return (true, unreported);
        }
        // What is one kind too many counts with the last.
        let Some(kind) = self.kinds.get_mut(at.unwrap_or(KINDS - 1)) else { return (false, unreported) };
        kind.lines += 1;
        let granted = kind.lines <= FAILURES;
        if !granted {
            kind.last.clear();
            kind.last.push_str(text);
        }
        (granted, unreported)
    }

    /// What an earlier minute left out, if it is over: how many lines of each kind, and the last of them.
    pub fn due(&mut self, now: Instant) -> Vec<(u64, String)> {
        if now.saturating_duration_since(self.since) < MINUTE {
            return Vec::new();
        }
        let left_out = self.left_out();
        *self = Self::new(now);
        left_out
    }

    /// How many lines of each kind were left out, and the last of them; they are counted from here on again.
    pub fn left_out(&mut self) -> Vec<(u64, String)> {
        let left_out = |kind: &mut FailingKind| {
            let lines = kind.lines.saturating_sub(FAILURES);
            kind.lines = kind.lines.min(FAILURES);
            (lines > 0).then(|| (lines, std::mem::take(&mut kind.last)))
        };
        self.kinds.iter_mut().filter_map(left_out).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_panics_are_a_few_a_minute_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut failing = FailingLines::new(start);
        let panic = |n: u64| [format!("thread 'main' panicked at frame {n}"), "note: run with a backtrace".to_owned()];
        let mut written = 0;
        for n in 0..1000 {
            written += panic(n).iter().filter(|line| failing.take(start, line).0).count() as u64;
        }
        assert_eq!(written, 2 * FAILURES, "of each of the two kinds");
        let (granted, left_out) = failing.take(start + MINUTE, "another line");
        let [at_frame, note] = panic(999);
        assert_eq!((granted, left_out), (true, vec![(998, at_frame), (998, note)]));
        let (granted, left_out) = failing.take(start + MINUTE, "another line");
        assert_eq!((granted, left_out), (true, Vec::new()), "reported once");
        (0..10).for_each(|n| drop(failing.take(start + MINUTE, &format!("frame {n}"))));
        assert_eq!(failing.due(start + MINUTE + MINUTE / 2), Vec::new());
        assert_eq!(failing.due(start + MINUTE * 2), vec![(8, "frame 9".to_owned())], "also if no other line comes");
        assert_eq!(failing.due(start + MINUTE * 3), Vec::new());
        let kinds = (0..1000_usize).filter(|n| failing.take(start + MINUTE, &"x".repeat(*n)).0).count();
        assert!(kinds <= KINDS * FAILURES as usize, "{kinds}: their number is bounded");
    }
}
