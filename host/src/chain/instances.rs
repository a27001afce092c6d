//! The instances of one plugin on one worker: one instance for all records, or one for each topic.
//!
//! Guarantees: with one instance for each topic, no instance is asked about records of two topics, so that a plugin
//! can't carry data of one topic into the records of another. The number of instances is bounded.

use std::sync::Arc;

use crate::config::InstancesFor;
use crate::plugin::{Instance, LoadProblem};

/// The most topics for which a worker keeps an instance. Beyond it the least recently used instance is ended.
const TOPICS: usize = 16;

pub(super) struct Instances {
    per_topic: bool,
    /// An instance that was started ahead of time and was not asked about any record yet.
    fresh: Option<Instance>,
    /// The instances in use, each with its topic (`None`: all topics share it), the most recently used one last.
    used: Vec<(Option<Arc<str>>, Instance)>,
}

impl Instances {
    pub fn new(whose: InstancesFor, fresh: Option<Instance>) -> Self {
        Self { per_topic: whose == InstancesFor::EachTopic, fresh, used: Vec::new() }
    }

    /// The instance that is asked about records of this topic; `start` starts one if there is none yet.
    pub fn of(
        &mut self,
        topic: &Arc<str>,
        start: impl FnOnce() -> Result<Instance, LoadProblem>,
    ) -> Result<&mut Instance, LoadProblem> {
        if let Some(at) = self.position(topic) {
            if self.per_topic {
                // The most recently used instance stands last.
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

    /// Puts `fresh` in the place of the topic's instance, or ends that instance where `fresh` is `None`.
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
