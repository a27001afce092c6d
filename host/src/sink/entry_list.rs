//! Which entries the bucket has, so that a writer of a new entry needn't ask for the newest record of one that isn't there.
//!
//! Guarantees: an entry is said to be absent only if a list that was asked for after its partitions came to this host, a
//! few seconds ago at most, didn't have it, and no writer of this host was told so before; the list is asked for only
//! where many writers want to know; 16 bytes for each entry are kept.

use std::collections::HashSet;
use std::hash::Hasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as AsyncMutex;

use super::recent::hasher;
use super::store::Store;
use crate::record::entry_name::EntryName;

/// How long a list is taken for true. Nobody else writes these entries; but a request of a killed host may be late.
const FRESH: Duration = Duration::from_secs(5);
/// A question about one entry costs as much as this many lines of a list.
const LINES_A_QUESTION: usize = 50;
/// Fewer questions are asked one by one.
const FEW_QUESTIONS: usize = 4;
/// A longer list isn't kept.
const MOST_LINES: usize = 1_000_000;
/// After a list that couldn't be had, each writer asks for itself for this time.
const WITHOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct EntryList {
    listed: Mutex<Listed>,
    /// Held while the list is asked for.
    asking: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct Listed {
    asked: Option<Instant>,
    /// The highest generation of a partition that had begun when it was asked for.
    generation: u64,
    /// A hash of each name that was there, or that a writer has taken since. A collision costs a question.
    known: HashSet<u64>,
    lines: usize,
    /// That were not answered since the last list.
    questions: usize,
    /// When a list was asked for in vain.
    failed: Option<Instant>,
}

impl EntryList {
    /// Whether the entry surely wasn't there when the generation began, nor written to by this host since. `true` is
    /// answered once for an entry.
    pub async fn is_absent(&self, store: &Store, entry: &EntryName, generation: u64) -> bool {
        {
            let (mut listed, now) = (self.listed(), Instant::now());
            let is_fresh = listed.is_fresh(now, generation);
            if is_fresh || !listed.pays_off(now) {
                return listed.claim(entry.as_str()) && is_fresh;
            }
        }
        // A list may be long, and most entries are known: a writer asks for its own rather than wait for that.
        let Ok(_asking) = self.asking.try_lock() else {
            self.listed().claim(entry.as_str());
            return false;
        };
        let asked = Instant::now();
        let names = store.names().await;
        let mut listed = self.listed();
        let Ok(names) = names else {
            // The question that the writer asks itself shows what is wrong.
            listed.failed = Some(Instant::now());
            listed.claim(entry.as_str());
            return false;
        };
        listed.take(asked, generation, names.iter().map(String::as_str));
        listed.claim(entry.as_str())
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    fn is_fresh(&self, now: Instant, generation: u64) -> bool {
        self.generation >= generation && self.asked.is_some_and(|asked| now.duration_since(asked) < FRESH)
    }

    /// One more question; whether a list answers it at a lower cost.
    fn pays_off(&mut self, now: Instant) -> bool {
        self.questions = self.questions.saturating_add(1);
        self.failed.is_none_or(|failed| now.duration_since(failed) > WITHOUT)
            && self.questions >= FEW_QUESTIONS
            && self.questions.saturating_mul(LINES_A_QUESTION) >= self.lines
    }

    fn take<'a>(&mut self, asked: Instant, generation: u64, names: impl ExactSizeIterator<Item = &'a str>) {
        let lines = names.len();
        // A writer that knew its entry to be absent may have written there after the list was made.
        let mut known = std::mem::take(&mut self.known);
        let is_kept = lines + known.len() <= MOST_LINES;
        if is_kept {
            known.extend(names.map(hash));
        } else {
            known = HashSet::new();
        }
        *self = Self { asked: is_kept.then_some(asked), generation, known, lines, questions: 0, failed: None };
    }

    /// Whether the name is new to a list.
    fn claim(&mut self, name: &str) -> bool {
        if self.known.len() > MOST_LINES {
            (self.known, self.asked) = (HashSet::new(), None);
        }
        self.known.insert(hash(name)) && self.asked.is_some()
    }
}

fn hash(name: &str) -> u64 {
    let mut hasher = hasher();
    hasher.write(name.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_absent_once_and_only_by_a_list_of_its_generation() {
        let (mut listed, now) = (Listed::default(), Instant::now());
        assert!(!listed.is_fresh(now, 1) && !listed.claim("a") && !listed.claim("z"), "there is no list yet");
        listed.take(now, 7, ["a"].into_iter());
        assert!(listed.is_fresh(now, 7) && listed.is_fresh(now, 3));
        assert!(!listed.is_fresh(now, 8), "somebody else may have written before generation 8 began");
        assert!(!listed.is_fresh(now + FRESH, 7));
        assert!(!listed.claim("a") && listed.claim("b") && listed.claim("c"));
        assert!(!listed.claim("b"), "a writer of this host may have written it since");
        assert!(!listed.claim("z"), "a writer of this host may have written it while the list was made");
    }

    #[tokio::test]
    async fn nobody_waits_while_another_asks_for_the_list() {
        let list = EntryList::default();
        let store = Store::new(&crate::sink::tests::config("http://127.0.0.1:1").store).unwrap();
        list.listed().questions = FEW_QUESTIONS;
        let asking = list.asking.lock().await;
        let entry = EntryName::parse("a").unwrap();
        assert!(!list.is_absent(&store, &entry, 1).await, "it asks for its own entry");
        assert!(list.listed().failed.is_none(), "no list was asked for");
        list.listed().take(Instant::now(), 1, ["b"].into_iter());
        drop(asking);
        assert!(!list.is_absent(&store, &entry, 1).await, "its writer may have written it since");
        assert!(list.is_absent(&store, &EntryName::parse("c").unwrap(), 1).await);
    }

    #[test]
    fn a_long_list_is_asked_for_where_it_answers_many() {
        let mut listed = Listed::default();
        let now = Instant::now();
        let asked = |listed: &mut Listed| (1..).find(|_| listed.pays_off(now)).unwrap();
        assert_eq!(asked(&mut listed), FEW_QUESTIONS);
        let names: Vec<String> = (0..10_000).map(|n| format!("e{n}")).collect();
        listed.take(now, 1, names.iter().map(String::as_str));
        assert_eq!(asked(&mut listed), 10_000 / LINES_A_QUESTION);
        listed.failed = Some(now);
        assert!(!listed.pays_off(now) && listed.pays_off(now + 2 * WITHOUT), "it isn't waited for again at once");
    }
}
