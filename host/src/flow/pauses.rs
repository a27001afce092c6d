//! Which topics the operator has paused (`reduct-sink pause`), if not all.
//!
//! Guarantees: once a topic is paused, no worker reads another record of it; records that were read before are finished. Whether a topic is
//! paused costs a worker one atomic load while nothing is paused. Pauses are kept in memory only: a process that is started again reads
//! all topics.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// The operator's pauses. Shared by the workers, which obey them, and the status server, which changes them.
#[derive(Debug, Default)]
pub struct Pauses {
    /// Whether anything is paused, so that workers needn't take the lock.
    any: AtomicBool,
    paused: Mutex<Paused>,
}

/// What is paused at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// Whether all topics are paused, also those that the host gets later.
    pub all: bool,
    /// The topics that were paused by name.
    pub topics: BTreeSet<String>,
}

impl Paused {
    /// Whether nothing is paused.
    pub fn is_nothing(&self) -> bool {
        !self.all && self.topics.is_empty()
    }
}

impl Pauses {
    /// Pauses this topic; `None`: all topics.
    pub fn pause(&self, topic: Option<&str>) {
        let mut paused = self.lock();
        match topic {
            Some(topic) => drop(paused.topics.insert(topic.to_owned())),
            None => paused.all = true,
        }
        self.any.store(true, Ordering::SeqCst);
    }

    /// Ends the pause of this topic; `None`: of all topics. The error says why nothing changes.
    pub fn resume(&self, topic: Option<&str>) -> Result<(), String> {
        let mut paused = self.lock();
        match topic {
            Some(topic) if paused.all => {
                return Err(format!("all topics are paused, not only {topic}; resume all of them, then pause others"));
            }
            Some(topic) if !paused.topics.remove(topic) => return Err(format!("topic {topic} isn't paused")),
            None if paused.is_nothing() => return Err("nothing is paused".into()),
            Some(_) => {}
            None => *paused = Paused::default(),
        }
        self.any.store(!paused.is_nothing(), Ordering::SeqCst);
        Ok(())
    }

    /// Whether the topic is paused, by name or because all topics are.
    pub fn is_paused(&self, topic: &str) -> bool {
        self.any.load(Ordering::Relaxed) && {
            let paused = self.lock();
            paused.all || paused.topics.contains(topic)
        }
    }

    /// What is paused.
    pub fn now(&self) -> Paused {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Paused> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_topic_or_all_are_paused_until_they_are_resumed() {
        let pauses = Pauses::default();
        assert!(!pauses.is_paused("a"));
        assert!(pauses.resume(None).is_err() && pauses.resume(Some("a")).is_err(), "nothing is paused");
        pauses.pause(Some("a"));
        assert!(pauses.is_paused("a") && !pauses.is_paused("b"));
        pauses.pause(None);
        assert!(pauses.is_paused("b"));
        assert!(pauses.resume(Some("a")).unwrap_err().contains("all topics"));
        assert!(pauses.is_paused("a"), "nothing changed");
        pauses.resume(None).unwrap();
        assert!(!pauses.is_paused("a") && !pauses.is_paused("b") && pauses.now().is_nothing());
        pauses.pause(Some("a"));
        pauses.resume(Some("a")).unwrap();
        assert!(!pauses.is_paused("a"));
    }
}
