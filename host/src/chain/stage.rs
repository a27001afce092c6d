//! One plugin's place in a worker's chain. A stage owns the plugin's instances on this worker, and replaces an instance
//! that broke, that is worn, or whose version was swapped.
//!
//! Guarantees: a stage has one active version; one instance of it decides about each record. With `instances =
//! "per-topic"` an instance sees the records of one topic only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::PluginFailure;
use super::instances::Instances;
use super::meter::Meter;
use super::shared::{StageSpec, Version};
use crate::config::{self, FailurePolicy, PluginSource, WhileOpen};
use crate::plugin::{Admission, Breaker, Instance, MAX_OUTPUTS, PluginCounters, RecordView, Trouble, Verdict, apply};
use crate::record::{InputRecord, OutputRecord};

/// One record in this many is timed, because reading the clock costs a tenth of what a small plugin costs. Each call that ran
/// into its time limit is timed as well.
pub(super) const MEASURED_EVERY: u64 = 64;

/// Sees a sample of a stage's records, and what the stage made of them. The workers call it, so it must not block.
pub(crate) trait StageObserver: Send + Sync {
    /// Whether the observer wants to see the next record.
    fn wants_next(&self) -> bool;
    /// Gets what the stage was given, what it made of that (or why it failed), and how long it took.
    fn observe(&self, given: Vec<OutputRecord>, made: Result<&[OutputRecord], &Trouble>, took: Duration);
}

/// What one stage made of a record, for `reduct-sink tap`.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSeen {
    /// The plugin's name.
    pub plugin: String,
    /// Its answers, joined by `+` where it was asked about several parts of a split.
    pub verdict: String,
    /// How long it took.
    pub took: Duration,
}

/// The names of the verdicts' bits in [`Stage::answered`].
const ANSWERS: [(u8, &str); 4] = [(1, "keep"), (2, "change"), (4, "split"), (8, "drop")];

pub(crate) struct Stage {
    config: Arc<config::PluginConfig>,
    version: Version,
    /// The topic of the latest record, and whether `config.when` accepts that topic.
    last_topic: Option<(Arc<str>, bool)>,
    /// How many records the plugin was asked about.
    records: u64,
    counters: Arc<PluginCounters>,
    meter: Arc<Meter>,
    observer: Option<Arc<dyn StageObserver>>,
    /// This stage runs a candidate in a shadow trial: its output is discarded and its calls aren't counted. If the
    /// candidate is promoted, its circuit breaker starts closed.
    is_shadow: bool,
    /// This stage belongs to a replay of the dead letters in a running host: its calls aren't counted with those of the
    /// workers, and it uses neither the circuit breaker nor the observer.
    is_replay: bool,
    instances: Instances,
    /// Empty between two records; the vector is kept to reuse its memory.
    verdicts: Vec<Verdict>,
    /// What the plugin answered about the last record: bits of [`ANSWERS`].
    answered: u8,
}

impl Stage {
    pub fn new(spec: &StageSpec) -> anyhow::Result<Self> {
        Self::empty(spec, spec.version.plugin.counters()).started(spec)
    }

    /// A stage for a replay of the dead letters in a running host.
    pub fn for_replay(spec: &StageSpec) -> anyhow::Result<Self> {
        Self::empty_for_replay(spec).started(spec)
    }

    fn started(mut self, spec: &StageSpec) -> anyhow::Result<Self> {
        let start = Instance::start(&spec.version.plugin);
        let name = &spec.config.name;
        let fresh = start.map_err(|problem| anyhow!("plugin `{name}` {problem}; {}", problem.remedy()))?;
        self.instances = Instances::new(spec.config.instances, Some(fresh));
        Ok(self)
    }

    /// A stage for a plugin that joins a running chain. If no instance starts now, the stage tries again with the next
    /// record.
    pub fn added(spec: &StageSpec, since: Instant, is_replay: bool) -> Self {
        let mut stage =
            if is_replay { Self::empty_for_replay(spec) } else { Self::empty(spec, spec.version.plugin.counters()) };
        let fresh = stage.spare(&spec.version).or_else(|| Instance::start(&spec.version.plugin).ok());
        stage.instances = Instances::new(spec.config.instances, fresh);
        stage.meter.took_over_in(since.elapsed());
        stage
    }

    /// A stage for a candidate in a shadow trial.
    pub fn shadow(spec: &StageSpec) -> Self {
        let mut stage = Self::empty(spec, Arc::default());
        stage.is_shadow = true;
        stage
    }

    fn empty_for_replay(spec: &StageSpec) -> Self {
        let mut stage = Self::empty(spec, Arc::default());
        stage.meter = Arc::default();
        stage.observer = None;
        stage.is_replay = true;
        stage
    }

    /// An instance that was started ahead of time; `None` if none is left, or if this stage doesn't belong to a worker.
    fn spare(&self, version: &Version) -> Option<Instance> {
        if self.is_replay { None } else { version.spare() }
    }

    fn empty(spec: &StageSpec, counters: Arc<PluginCounters>) -> Self {
        Self {
            config: Arc::clone(&spec.config),
            version: spec.version.clone(),
            last_topic: None,
            records: 0,
            counters,
            meter: spec.version.meters.join(),
            observer: spec.observer.clone(),
            is_shadow: false,
            is_replay: false,
            instances: Instances::new(spec.config.instances, None),
            verdicts: Vec::new(),
            answered: 0,
        }
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Decides whether the plugin is asked about this record, and counts the record if it isn't.
    pub fn asks_about(&mut self, input: &InputRecord) -> bool {
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

    /// What becomes of a record while the plugin's circuit breaker is open.
    pub fn while_open(&self) -> WhileOpen {
        self.version.plugin.breaker().then()
    }

    pub fn attempts(&self) -> u32 {
        self.config.attempts
    }

    pub fn memory_bytes(&self) -> usize {
        self.instances.memory_bytes()
    }

    /// The plugin's `name@digest:config` for the label `sink.plugins`. `None`: it is the builtin passthrough, which decides
    /// nothing.
    pub fn mark(&self) -> Option<String> {
        (self.config.source != PluginSource::Builtin).then(|| self.version.plugin.mark())
    }

    /// Logs that the plugin failed on this record.
    pub fn report_failure(&self, input: &InputRecord, policy: FailurePolicy, reason: &str) {
        if !self.is_replay {
            self.version.plugin.report_failure(input, policy, reason);
        }
    }

    pub fn failure(&self, reason: String) -> PluginFailure {
        let plugin = &self.version.plugin;
        PluginFailure { plugin: plugin.name.clone(), digest: plugin.digest, config: plugin.config, reason }
    }

    /// Takes over what changed in the spec: the configuration, the observer, and the version if an instance of it
    /// starts. `since` is when the worker began to change over.
    pub fn take_over(&mut self, spec: &StageSpec, since: Instant) {
        self.config = Arc::clone(&spec.config);
        self.last_topic = None;
        if !self.is_replay {
            self.observer.clone_from(&spec.observer);
        }
        let (new, old) = (&spec.version, &self.version);
        if new.plugin.is(&old.plugin) {
            return;
        }
        match self.spare(new).map_or_else(|| Instance::start(&new.plugin), Ok) {
            Ok(instance) => {
                self.meter.record_memory(0);
                if !self.is_replay {
                    self.counters = new.plugin.counters();
                    self.meter = new.meters.join();
                }
                self.version = new.clone();
                self.instances = Instances::new(spec.config.instances, Some(instance));
                self.meter.took_over_in(since.elapsed());
            }
            Err(problem) => tracing::error!(
                plugin = %self.config.name, version = new.plugin.digest.short(),
                kept = old.plugin.digest.short(), %problem, remedy = problem.remedy(),
                "the new version doesn't start on this worker; the previous one stays active",
            ),
        }
    }

    /// Asks the plugin about each of `outputs` and replaces them by what the plugin made of them. Returns whether it
    /// split any of them. On an error `outputs` is unchanged.
    pub fn transform(&mut self, record: &RecordView<'_>, outputs: &mut Vec<OutputRecord>) -> Result<bool, Trouble> {
        self.records += 1;
        let observed = self.observer.as_ref().is_some_and(|observer| observer.wants_next());
        let sampled = self.records.is_multiple_of(MEASURED_EVERY);
        if observed || sampled {
            self.measure(record, outputs, sampled, observed)
        } else {
            self.decide(record, outputs)
        }
    }

    /// Decides like [`Stage::decide`] and times the call: for the meter if `sampled` is set, for the observer if `observed` is.
    fn measure(
        &mut self,
        record: &RecordView<'_>,
        outputs: &mut Vec<OutputRecord>,
        sampled: bool,
        observed: bool,
    ) -> Result<bool, Trouble> {
        let given = observed.then(|| outputs.clone());
        let start = Instant::now();
        let answer = self.decide(record, outputs);
        let took = start.elapsed();
        if sampled && !matches!(answer, Err(Trouble::TimedOut(..))) {
            self.meter.took(took);
        }
        self.meter.record_memory(self.memory_bytes());
        if let (Some(observer), Some(given)) = (&self.observer, given) {
            let made = answer.as_ref().map(|_| outputs.as_slice());
            observer.observe(given, made, took);
        }
        answer
    }

    /// Asks the plugin, unless its circuit breaker is open; counts the answer and applies it to `outputs`. Returns
    /// whether any of them was split.
    pub fn decide(&mut self, record: &RecordView<'_>, outputs: &mut Vec<OutputRecord>) -> Result<bool, Trouble> {
        self.verdicts.clear();
        if let Some(breaker) = self.breaker()
            && let Admission::Refused(wait) = breaker.admit(Instant::now)
        {
            return Err(Trouble::NotAsked(wait));
        }
        let answer = self.ask(record, outputs);
        self.count(&answer);
        if let Err(Trouble::TimedOut(_, took)) = &answer {
            self.meter.timed_out(*took);
        }
        match (&answer, self.breaker()) {
            (Ok(()), Some(breaker)) => breaker.succeeded(),
            (Err(Trouble::NotAsked(_)), _) | (_, None) => {}
            (Err(trouble), Some(breaker)) => breaker.failed(trouble.text(), Instant::now),
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
        (!self.is_shadow && !self.is_replay).then(|| self.version.plugin.breaker())
    }

    /// Has an instance fill `verdicts`, one for each of `outputs`, and replaces an instance that broke or is worn.
    fn ask(&mut self, record: &RecordView<'_>, outputs: &mut Vec<OutputRecord>) -> Result<(), Trouble> {
        let Some(topic) = outputs.first().map(|output| output.input.source.topic.clone()) else { return Ok(()) };
        let plugin = &self.version.plugin;
        let instance = self.instances.of(&topic, || Instance::start(plugin));
        let instance =
            instance.map_err(|problem| Trouble::Broken(format!("no instance of the plugin starts: it {problem}")))?;
        let answer = instance.ask(record, outputs, &mut self.verdicts);
        if let Err(Trouble::Broken(_) | Trouble::TimedOut(..)) = answer {
            self.instances.replace(&topic, None);
        } else if instance.is_worn() {
            match Instance::start(plugin) {
                Ok(fresh) => self.instances.replace(&topic, Some(fresh)),
                Err(problem) => {
                    tracing::warn!(
                        plugin = self.config.name, %problem,
                        "no fresh instance starts; the worn instance stays in use",
                    );
                    instance.carry_on();
                }
            }
        }
        answer?;
        let made: usize = self.verdicts.iter().map(outputs_of).sum();
        if made > MAX_OUTPUTS {
            return Err(Trouble::Failed(format!(
                "the answer makes {made} outputs of the record; at most {MAX_OUTPUTS} are allowed"
            )));
        }
        Ok(())
    }

    /// What this stage made of the last record, given its answer.
    pub fn seen(&self, answer: &Result<bool, Trouble>, took: Duration) -> StageSeen {
        let verdict = match answer {
            Ok(_) => {
                let given = ANSWERS.iter().filter(|(bit, _)| self.answered & bit != 0);
                given.map(|(_, name)| *name).collect::<Vec<_>>().join("+")
            }
            Err(Trouble::Retry(_)) => "retry".into(),
            Err(Trouble::Failed(_) | Trouble::Broken(_) | Trouble::TimedOut(..)) => "failure".into(),
            Err(Trouble::NotAsked(_)) => "not-asked".into(),
        };
        StageSeen { plugin: self.name().to_owned(), verdict, took }
    }

    /// Counts the plugin's verdicts, and the failure that ended them if there was one.
    fn count(&mut self, answer: &Result<(), Trouble>) {
        self.answered = 0;
        for verdict in &self.verdicts {
            let bit = match verdict {
                Verdict::Keep => {
                    self.counters.kept();
                    1
                }
                Verdict::Change(_) => {
                    self.counters.changed();
                    2
                }
                Verdict::Split(_) => {
                    self.counters.split();
                    4
                }
                Verdict::Drop => {
                    self.counters.dropped();
                    8
                }
            };
            self.answered |= bit;
        }
        match answer {
            Ok(()) => {}
            Err(Trouble::Retry(_)) => self.counters.retried(),
            Err(Trouble::Failed(_) | Trouble::Broken(_) | Trouble::TimedOut(..)) => self.counters.failed(),
            Err(Trouble::NotAsked(_)) => {}
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.meter.record_memory(0);
    }
}

fn outputs_of(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Keep | Verdict::Change(_) => 1,
        Verdict::Drop => 0,
        Verdict::Split(parts) => parts.len(),
    }
}
