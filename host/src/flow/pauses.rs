//! What is paused: the whole host, or some topics.
//!
//! Guarantees: nothing is read of a paused topic from the next record on, by any worker; what was read before is finished.
//! Asking costs one load while nothing is paused. It is kept in memory only: a host that is started again reads everything.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// Whether something is paused, and what.
#[derive(Debug, Default)]
pub struct Pauses {
    any: AtomicBool,
    paused: Mutex<Paused>,
}

/// What is paused at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// All topics, also those that come later.
    pub all: bool,
    /// These, where not all are.
    pub topics: BTreeSet<String>,
}

impl Paused {
    /// Whether nothing is paused.
    pub fn is_nothing(&self) -> bool {
        !self.all && self.topics.is_empty()
    }
}

impl Pauses {
    /// Pauses a topic, or all of them.
    pub fn pause(&self, topic: Option<&str>) {
        let mut paused = self.lock();
        match topic {
            Some(topic) => drop(paused.topics.insert(topic.to_owned())),
            None => paused.all = true,
        }
        self.any.store(true, Ordering::SeqCst);
    }

    /// Ends the pause of a topic, or of everything. The error says why nothing changes.
    pub fn resume(&self, topic: Option<&str>) -> Result<(), String> {
        let mut paused = self.lock();
        match topic {
            Some(topic) if paused.all => {
                return Err(format!("all topics are paused, not {topic} by itself; resume all, then pause others"));
            }
            Some(topic) if !paused.topics.remove(topic) => return Err(format!("topic {topic} isn't paused")),
            None if paused.is_nothing() => return Err("nothing is paused".into()),
            Some(_) => {}
            None => *paused = Paused::default(),
        }
        self.any.store(!paused.is_nothing(), Ordering::SeqCst);
        Ok(())
    }

    /// Whether nothing is to be read of the topic.
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
    fn a_topic_or_everything_is_paused_until_it_is_resumed() {
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
