//! What keeps records from being written at present, for the host's health page.
//!
//! Guarantees: a problem is there from the first failed request on until one succeeds; entries that fail for the same
//! cause are one problem, however many they are. Plain values without I/O.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::store::StoreError;
use crate::record::entry_name::EntryName;

/// The code of problems for which records wait.
pub const STORE: &str = "store";
/// The code of problems with attachments, which hold no record up.
pub const ATTACHMENTS: &str = "attachments";

/// What can't be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedSubject {
    /// The records of an entry.
    Entry,
    /// Dead letters, which the store refuses.
    DeadLetter,
    /// An entry's attachments, which the store refuses.
    Attachments,
}

/// A cause for which records aren't written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteProblem {
    /// The stable name of its kind: `store` where records wait for it, or `attachments`.
    pub code: &'static str,
    /// Since when: the begin of the first request that failed.
    pub since: Instant,
    /// How many entries wait for it; 0 where that isn't known.
    pub entries: usize,
    /// Cause and remedy, for a person.
    pub message: String,
}

#[derive(Debug)]
struct Reported {
    since: Instant,
    error: StoreError,
}

/// See the module.
#[derive(Debug, Default)]
pub struct WriteProblems(Mutex<HashMap<(EntryName, RefusedSubject), Reported>>);

impl WriteProblems {
    /// `since`: when the failed request was begun, or the first one that the store hasn't answered.
    pub(super) fn report(&self, entry: &EntryName, subject: RefusedSubject, error: &StoreError, since: Instant) {
        let mut reported = self.lock();
        match reported.get_mut(&(entry.clone(), subject)) {
            Some(known) => known.error = error.clone(),
            None => {
                let new = Reported { since, error: error.clone() };
                reported.insert((entry.clone(), subject), new);
            }
        }
    }

    pub(super) fn clear(&self, entry: &EntryName, subject: RefusedSubject) {
        let mut reported = self.lock();
        if !reported.is_empty() {
            reported.remove(&(entry.clone(), subject));
        }
    }

    /// One for each cause, the oldest first.
    pub fn list(&self) -> Vec<WriteProblem> {
        let reported = self.lock();
        let mut by_cause: HashMap<(RefusedSubject, Discriminant<StoreError>), (usize, &EntryName, &Reported)> =
            HashMap::new();
        for ((entry, subject), one) in reported.iter() {
            let cause = by_cause.entry((*subject, discriminant(&one.error))).or_insert((0, entry, one));
            cause.0 += 1;
            if one.since < cause.2.since {
                (cause.1, cause.2) = (entry, one);
            }
        }
        let mut problems: Vec<WriteProblem> = by_cause
            .into_iter()
            .map(|((subject, _), (entries, entry, Reported { since, error }))| {
                let what = match subject {
                    RefusedSubject::Entry => "records can't be written to ReductStore",
                    RefusedSubject::Attachments => {
                        "attachments are refused by ReductStore, so records are written without them"
                    }
                    RefusedSubject::DeadLetter => {
                        "dead letters can't be written to ReductStore, so their partitions commit nothing"
                    }
                };
                let remedy = error.remedy();
                let entries_named = if entries == 1 { String::new() } else { format!(" and {} more", entries - 1) };
                let waits = if subject == RefusedSubject::Entry { "; nothing is lost, they wait in Kafka" } else { "" };
                let message = format!("{what}: {error}; {remedy}{waits} (entry {entry}{entries_named})");
                let code = if subject == RefusedSubject::Attachments { ATTACHMENTS } else { STORE };
                WriteProblem { code, since: *since, entries, message }
            })
            .collect();
        problems.sort_by(|one, other| (one.since, &one.message).cmp(&(other.since, &other.message)));
        problems
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(EntryName, RefusedSubject), Reported>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_fail_for_one_cause_are_one_problem() {
        let problems = WriteProblems::default();
        let name = |text: &str| EntryName::parse(text).unwrap();
        let (full, away) = (StoreError::Full("507".into()), StoreError::Unavailable("no connection".into()));
        for entry in ["a", "b", "c"] {
            problems.report(&name(entry), RefusedSubject::Entry, &full, Instant::now());
        }
        problems.report(&name("d"), RefusedSubject::Entry, &away, Instant::now());
        problems.report(&name("a"), RefusedSubject::DeadLetter, &full, Instant::now());
        let listed = problems.list();
        assert_eq!(listed.iter().map(|problem| problem.entries).collect::<Vec<_>>(), [3, 1, 1]);
        assert!(listed.iter().any(|problem| problem.message.contains("entry a and 2 more")), "{listed:?}");
        for entry in ["a", "b", "c", "d"] {
            problems.clear(&name(entry), RefusedSubject::Entry);
        }
        assert_eq!(problems.list().len(), 1);
        assert!(problems.list()[0].message.contains("dead letters"));
    }
}
