//! One plugin's place in a worker's chain: its instance, replaced when it broke, wore out or has a successor.

use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;

use super::Failure;
use super::meter::Meter;
use super::shared::{Link, Version};
use super::trial::{Answer, Trial};
use crate::config::{self, FailurePolicy, PluginSource, WhileOpen};
use crate::plugin::{Admission, Breaker, Counters, Instance, MAX_OUTPUTS, RecordView, Trouble, Verdict, apply};
use crate::record::{InputRecord, OutputRecord};

/// The time of one record in so many is taken: a clock costs as much as a tenth of a small plugin.
const MEASURED_EVERY: u64 = 64;

pub(super) struct Slot {
    config: Arc<config::Plugin>,
    version: Version,
    /// What `config.when` says of the topic that was asked about last.
    last_topic: Option<(Arc<str>, bool)>,
    /// Records it was asked about.
    records: u64,
    counters: Arc<Counters>,
    meter: Arc<Meter>,
    trial: Option<Arc<Trial>>,
    /// On trial itself: what it does counts for nobody, and its circuit breaker begins closed when it takes over.
    is_beside: bool,
    /// `None` after it broke: the next record gets a fresh one.
    instance: Option<Instance>,
    /// Kept from record to record for its memory; empty between them.
    verdicts: Vec<Verdict>,
}

impl Slot {
    pub fn new(link: &Link) -> anyhow::Result<Self> {
        let mut slot = Self::empty(link, link.version.plugin.counters());
        let start = Instance::start(&link.version.plugin);
        let name = &link.config.name;
        slot.instance = Some(start.map_err(|problem| anyhow!("plugin `{name}` {problem}; {}", problem.remedy()))?);
        Ok(slot)
    }

    /// For a plugin that joins the chain. Where no instance starts, the next record finds out.
    pub fn added(link: &Link, since: Instant) -> Self {
        let mut slot = Self::empty(link, link.version.plugin.counters());
        slot.instance = link.version.spare().or_else(|| Instance::start(&link.version.plugin).ok());
        slot.meter.took_over_in(since.elapsed());
        slot
    }

    /// For a candidate on trial.
    pub fn beside(link: &Link) -> Self {
        let mut slot = Self::empty(link, Arc::default());
        slot.is_beside = true;
        slot
    }

    fn empty(link: &Link, counters: Arc<Counters>) -> Self {
        Self {
            config: Arc::clone(&link.config),
            version: link.version.clone(),
            last_topic: None,
            records: 0,
            counters,
            meter: link.version.meters.join(),
            trial: link.trial.clone(),
            is_beside: false,
            instance: None,
            verdicts: Vec::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether the plugin is to be asked about this record.
    pub fn is_for(&mut self, input: &InputRecord) -> bool {
        let Some(when) = &self.config.when else { return true };
        let takes_topic = match &self.last_topic {
            Some((topic, takes)) if Arc::ptr_eq(topic, &input.source.topic) => *takes,
            _ => {
                let takes = when.takes_topic(&input.source.topic);
                self.last_topic = Some((Arc::clone(&input.source.topic), takes));
                takes
            }
        };
        let asked = takes_topic && when.takes(input);
        if !asked {
            self.meter.passed_over();
        }
        asked
    }

    pub fn policy(&self) -> FailurePolicy {
        self.config.on_failure
    }

    /// What becomes of a record that the plugin isn't asked about.
    pub fn while_open(&self) -> WhileOpen {
        self.version.plugin.breaker().then()
    }

    pub fn attempts(&self) -> u32 {
        self.config.attempts
    }

    pub fn memory_bytes(&self) -> usize {
        self.instance.as_ref().map_or(0, Instance::memory_bytes)
    }

    pub fn mark(&self) -> Option<String> {
        // The builtin passthrough has nothing to tell.
        (self.config.source != PluginSource::Builtin).then(|| self.version.plugin.mark())
    }

    pub fn failure(&self, reason: String) -> Failure {
        Failure { plugin: self.version.plugin.name.clone(), digest: self.version.plugin.digest, reason }
    }

    /// Takes over what is new of its link: the configuration, a trial, and another version if it starts.
    pub fn take_over(&mut self, link: &Link, since: Instant) {
        self.config = Arc::clone(&link.config);
        self.last_topic = None;
        self.trial.clone_from(&link.trial);
        let (new, old) = (&link.version, &self.version);
        if new.plugin.is(&old.plugin) {
            return;
        }
        match new.spare().map_or_else(|| Instance::start(&new.plugin), Ok) {
            Ok(instance) => {
                self.meter.has_memory(0);
                self.counters = new.plugin.counters();
                self.meter = new.meters.join();
                self.version = new.clone();
                self.instance = Some(instance);
                self.meter.took_over_in(since.elapsed());
            }
            Err(problem) => tracing::error!(
                plugin = %self.config.name, version = new.plugin.digest.short(),
                kept = old.plugin.digest.short(), %problem, remedy = problem.remedy(),
                "the new version doesn't start on this worker; the one before goes on",
            ),
        }
    }

    /// Asks the plugin about each of `outputs` and puts in their place what it made of them. Tells whether it split
    /// any. On trouble `outputs` stays as it was.
    pub fn transform(&mut self, record: &RecordView<'_>, outputs: &mut Vec<OutputRecord>) -> Result<bool, Trouble> {
        self.records += 1;
        let sampled = self.trial.as_ref().is_some_and(|trial| trial.wants_next());
        if sampled || self.records.is_multiple_of(MEASURED_EVERY) {
            self.closely(record, outputs, sampled)
        } else {
            self.decide(record, outputs)
        }
    }

    /// The same, measured, and seen by the candidate.
    fn closely(
        &mut self,
        record: &RecordView<'_>,
        outputs: &mut Vec<OutputRecord>,
        sampled: bool,
    ) -> Result<bool, Trouble> {
        let given = sampled.then(|| outputs.clone());
        let start = Instant::now();
        let answer = self.decide(record, outputs);
        let took = start.elapsed();
        self.meter.took(took);
        self.meter.has_memory(self.memory_bytes());
        if let (Some(trial), Some(given)) = (&self.trial, given) {
            trial.offer(given, Answer::of(&answer, outputs, took));
        }
        answer
    }

    pub fn decide(&mut self, record: &RecordView<'_>, outputs: &mut Vec<OutputRecord>) -> Result<bool, Trouble> {
        self.verdicts.clear();
        if let Some(breaker) = self.breaker()
            && let Admission::Refused(wait) = breaker.admit(Instant::now)
        {
            return Err(Trouble::NotAsked(wait));
        }
        let answer = self.ask(record, outputs);
        self.count(&answer);
        match (&answer, self.breaker()) {
            (Ok(()), Some(breaker)) => breaker.succeeded(),
            (Err(Trouble::Failed(reason) | Trouble::Retry(reason) | Trouble::Broken(reason)), Some(breaker)) => {
                breaker.failed(reason, Instant::now);
            }
            (Err(Trouble::NotAsked(_)), _) | (_, None) => {}
        }
        answer?;
        if self.verdicts.iter().all(|verdict| matches!(verdict, Verdict::Keep)) {
            return Ok(false);
        }
        let split = self.verdicts.iter().any(|verdict| matches!(verdict, Verdict::Split(_)));
        let mut made = Vec::with_capacity(outputs.len());
        for (verdict, output) in self.verdicts.drain(..).zip(outputs.drain(..)) {
            apply(verdict, output, &mut made);
        }
        *outputs = made;
        Ok(split)
    }

    fn breaker(&self) -> Option<&Breaker> {
        (!self.is_beside).then(|| self.version.plugin.breaker())
    }

    fn ask(&mut self, record: &RecordView<'_>, outputs: &mut Vec<OutputRecord>) -> Result<(), Trouble> {
        let instance = match &mut self.instance {
            Some(instance) => instance,
            None => {
                let start = Instance::start(&self.version.plugin);
                let fresh =
                    start.map_err(|problem| Trouble::Broken(format!("no instance of it starts: it {problem}")))?;
                self.instance.insert(fresh)
            }
        };
        let answer = instance.ask(record, outputs, &mut self.verdicts);
        if let Err(Trouble::Broken(_)) = answer {
            self.instance = None;
        } else if instance.is_worn() {
            self.renew();
        }
        answer?;
        let made: usize = self.verdicts.iter().map(outputs_of).sum();
        if made > MAX_OUTPUTS {
            return Err(Trouble::Failed(format!(
                "with it the record becomes {made} outputs; the most are {MAX_OUTPUTS}"
            )));
        }
        Ok(())
    }

    fn renew(&mut self) {
        match Instance::start(&self.version.plugin) {
            Ok(fresh) => self.instance = Some(fresh),
            Err(problem) => {
                tracing::warn!(plugin = self.config.name, %problem, "no fresh instance starts; the worn one goes on");
                self.instance.iter_mut().for_each(Instance::carry_on);
            }
        }
    }

    /// Counts the verdicts that came, and the trouble that ended them.
    fn count(&self, answer: &Result<(), Trouble>) {
        for verdict in &self.verdicts {
            match verdict {
                Verdict::Keep => self.counters.kept(),
                Verdict::Drop => self.counters.dropped(),
                Verdict::Change(_) => self.counters.changed(),
                Verdict::Split(_) => self.counters.split(),
            }
        }
        match answer {
            Ok(()) => {}
            Err(Trouble::Retry(_)) => self.counters.retried(),
            Err(Trouble::Failed(_) | Trouble::Broken(_)) => self.counters.failed(),
            Err(Trouble::NotAsked(_)) => {}
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.meter.has_memory(0);
    }
}

fn outputs_of(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Keep | Verdict::Change(_) => 1,
        Verdict::Drop => 0,
        Verdict::Split(parts) => parts.len(),
    }
}
