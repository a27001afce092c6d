//! The instances of one plugin on one worker: one for all records, or one for each topic.
//!
//! Guarantees: with one for each topic, no instance is asked about records of two topics, so that a plugin can't carry
//! data of one into the records of another. The number of instances is bounded.

use std::sync::Arc;

use crate::config::InstancesFor;
use crate::plugin::{Instance, LoadProblem};

/// The most topics of which a worker keeps an instance. The one that was not used for longest is ended first.
const TOPICS: usize = 16;

pub(super) struct Instances {
    per_topic: bool,
    /// Started, and not asked about anything yet.
    fresh: Option<Instance>,
    /// In use: the topic, `None` where all topics share one. The last one was used last.
    used: Vec<(Option<Arc<str>>, Instance)>,
}

impl Instances {
    pub fn new(whose: InstancesFor, fresh: Option<Instance>) -> Self {
        Self { per_topic: whose == InstancesFor::EachTopic, fresh, used: Vec::new() }
    }

    /// The instance that is asked about records of this topic.
    pub fn of(
        &mut self,
        topic: &Arc<str>,
        start: impl FnOnce() -> Result<Instance, LoadProblem>,
    ) -> Result<&mut Instance, LoadProblem> {
        if let Some(at) = self.position(topic) {
            if self.per_topic {
                // Ordered by use.
                let last = self.used.remove(at);
                self.used.push(last);
            }
        } else {
            let instance = self.fresh.take().map_or_else(start, Ok)?;
            if self.used.len() == TOPICS {
                self.used.remove(0);
            }
            self.used.push((self.per_topic.then(|| topic.clone()), instance));
        }
        match self.used.last_mut() {
            Some((_, instance)) => Ok(instance),
            None => Err(LoadProblem::Host("no instance is kept".into())),
        }
    }

    /// Replaces the topic's instance, or ends it.
    pub fn replace(&mut self, topic: &Arc<str>, fresh: Option<Instance>) {
        let Some(at) = self.position(topic) else { return };
        match (fresh, self.used.get_mut(at)) {
            (Some(fresh), Some((_, instance))) => *instance = fresh,
            _ => drop(self.used.remove(at)),
        }
    }

    pub fn memory_bytes(&self) -> usize {
        let used = self.used.iter().map(|(_, instance)| instance);
        used.chain(&self.fresh).map(Instance::memory_bytes).sum()
    }

    fn position(&self, topic: &Arc<str>) -> Option<usize> {
        if !self.per_topic {
            return (!self.used.is_empty()).then_some(0);
        }
        self.used.iter().rposition(|(of, _)| of.as_ref() == Some(topic))
    }
}
