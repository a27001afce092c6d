//! What is wrong with the host, since when, and what the log says of it.
//!
//! Guarantees: a problem is one line in the log when it begins, one when it ends, and one a minute with the number of
//! problems in between, however often its cause is met; a problem is as old as its first failure, where that is known. Plain values but
//! for the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{info, warn};

use crate::kafka::observer::Finding;

/// How often problems that go on are counted in the log.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthProblem {
    /// A stable name of its kind, such as `kafka.unreachable`.
    pub code: &'static str,
    /// Cause and remedy, for a person.
    pub message: String,
    /// For how many seconds it is known.
    pub for_s: u64,
    /// The pipeline that has it, where several are shown together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
}

impl HealthProblem {
    /// One that is known since now.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self::since(code, message, 0)
    }

    /// One that is known for some seconds.
    pub fn since(code: &'static str, message: impl Into<String>, for_s: u64) -> Self {
        Self { code, message: message.into(), for_s, pipeline: None }
    }
}

/// A problem that is known.
#[derive(Debug)]
struct KnownProblem {
    message: String,
    since: Instant,
}

/// Remembers problems from one look to the next. Problems of one code count as one, with the newest message.
#[derive(Debug, Default)]
pub struct Tracker {
    known: BTreeMap<&'static str, KnownProblem>,
    reminded: Option<Instant>,
}

impl Tracker {
    /// Takes what is wrong now, and says in the log what has begun and what has ended.
    pub fn look(&mut self, now: Instant, findings: Vec<Finding>) -> Vec<HealthProblem> {
        let mut present: BTreeMap<&'static str, (Instant, Vec<String>)> = BTreeMap::new();
        for Finding { code, message, since } in findings {
            let (oldest, messages) = present.entry(code).or_insert((now, Vec::new()));
            *oldest = since.map_or(*oldest, |since| since.min(*oldest));
            messages.push(message);
        }
        self.known.retain(|code, known| {
            let goes_on = present.contains_key(code);
            if !goes_on {
                let for_s = now.saturating_duration_since(known.since).as_secs();
                info!(code, for_s, "solved: {code}, after {for_s} s");
            }
            goes_on
        });
        for (code, (since, mut messages)) in present {
            messages.sort();
            // Two may have noticed the same.
            messages.dedup();
            let message = messages.join("; ");
            match self.known.get_mut(code) {
                Some(known) => known.message = message,
                None => {
                    warn!(code, "problem: {message}");
                    self.known.insert(code, KnownProblem { message, since });
                    self.reminded = Some(now);
                }
            }
        }
        let oldest = self.known.values().map(|known| known.since).min();
        if let Some(oldest) = oldest
            && self.reminded.is_none_or(|at| now.duration_since(at) >= REMIND_EVERY)
        {
            self.reminded = Some(now);
            let codes = self.known.keys().copied().collect::<Vec<_>>().join(", ");
            let for_s = now.duration_since(oldest).as_secs();
            warn!(problems = self.known.len(), for_s, "still: {codes}");
        }
        let problem = |(code, known): (&&'static str, &KnownProblem)| {
            HealthProblem::since(code, known.message.clone(), now.duration_since(known.since).as_secs())
        };
        self.known.iter().map(problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(code: &'static str, message: &str) -> Finding {
        Finding::new(code, message)
    }

    #[test]
    fn a_problem_is_as_old_as_its_first_failure_and_not_as_the_look_that_noticed_it() {
        let mut tracker = Tracker::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let told = tracker.look(at(4), vec![finding("store", "away").since(at(0)), finding("store", "full")]);
        assert_eq!((told.len(), told[0].for_s), (1, 4));
        // A later failure of the same problem doesn't make it younger.
        assert_eq!(tracker.look(at(9), vec![finding("store", "away").since(at(8))])[0].for_s, 9);
    }

    #[test]
    fn a_problem_is_known_from_its_first_look_until_it_is_gone() {
        let mut tracker = Tracker::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(tracker.look(at(0), Vec::new()).is_empty());
        let two =
            vec![finding("store", "full"), finding("kafka.topic-missing", "b"), finding("kafka.topic-missing", "a")];
        tracker.look(at(5), two.clone());
        let told = tracker.look(at(15), two);
        assert_eq!(told.len(), 2);
        assert_eq!((told[0].code, told[0].message.as_str(), told[0].for_s), ("kafka.topic-missing", "a; b", 10));
        let told = tracker.look(at(20), vec![finding("store", "away")]);
        assert_eq!((told.len(), told[0].message.as_str(), told[0].for_s), (1, "away", 15));
        assert!(tracker.look(at(25), Vec::new()).is_empty());
        assert_eq!(tracker.look(at(30), vec![finding("store", "full")])[0].for_s, 0, "a new one");
        let told = tracker.look(at(35), vec![finding("store", "full"), finding("store", "full")]);
        assert_eq!(told[0].message, "full", "noticed by two");
    }
}
