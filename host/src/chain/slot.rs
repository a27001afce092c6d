//! One plugin's place in a worker's chain: its instance, replaced when it broke, wore out or has a successor.

use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;

use super::Failure;
use crate::config::{self, FailurePolicy, PluginSource, WhileOpen};
use crate::plugin::{Admission, Counters, Instance, LoadedPlugin, MAX_OUTPUTS, RecordView, Trouble, Verdict, apply};
use crate::record::OutputRecord;

pub(super) struct Slot {
    plugin: LoadedPlugin,
    policy: FailurePolicy,
    /// How often a record is handed over that the plugin asks to be given again.
    attempts: u32,
    /// Whether records tell that it handled them: the builtin passthrough has nothing to tell.
    marks: bool,
    counters: Arc<Counters>,
    /// `None` after it broke: the next record gets a fresh one.
    instance: Option<Instance>,
    /// Kept from record to record for its memory; empty between them.
    verdicts: Vec<Verdict>,
}

impl Slot {
    pub fn new(plugin: LoadedPlugin, config: &config::Plugin) -> anyhow::Result<Self> {
        let start = Instance::start(&plugin);
        let instance = start.map_err(|problem| anyhow!("plugin `{}` {problem}; {}", plugin.name, problem.remedy()))?;
        Ok(Self {
            counters: plugin.counters(),
            plugin,
            policy: config.on_failure,
            attempts: config.attempts,
            marks: config.source != PluginSource::Builtin,
            instance: Some(instance),
            verdicts: Vec::new(),
        })
    }

    pub fn policy(&self) -> FailurePolicy {
        self.policy
    }

    /// What becomes of a record that the plugin isn't asked about.
    pub fn while_open(&self) -> WhileOpen {
        self.plugin.breaker().then()
    }

    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    pub fn memory_bytes(&self) -> usize {
        self.instance.as_ref().map_or(0, Instance::memory_bytes)
    }

    pub fn mark(&self) -> Option<String> {
        self.marks.then(|| self.plugin.mark())
    }

    pub fn failure(&self, reason: String) -> Failure {
        Failure { plugin: self.plugin.name.clone(), digest: self.plugin.digest, reason }
    }

    /// Puts `plugin` in the present one's place, if it is another and starts.
    pub fn take_over(&mut self, plugin: LoadedPlugin) {
        if plugin.is(&self.plugin) {
            return;
        }
        match Instance::start(&plugin) {
            Ok(instance) => {
                self.counters = plugin.counters();
                self.plugin = plugin;
                self.instance = Some(instance);
            }
            Err(problem) => tracing::error!(
                plugin = %plugin.name, version = plugin.digest.short(), kept = self.plugin.digest.short(), %problem,
                remedy = problem.remedy(), "the new version doesn't start on this worker; the one before goes on",
            ),
        }
    }

    /// Asks the plugin about each of `outputs` and puts in their place what it made of them. Tells whether it split
    /// any. On trouble `outputs` stays as it was.
    pub fn transform(&mut self, record: &RecordView<'_>, outputs: &mut Vec<OutputRecord>) -> Result<bool, Trouble> {
        self.verdicts.clear();
        if let Admission::Refused(wait) = self.plugin.breaker().admit(Instant::now) {
            return Err(Trouble::NotAsked(wait));
        }
        let answer = self.ask(record, outputs);
        self.count(&answer);
        match &answer {
            Ok(()) => self.plugin.breaker().succeeded(),
            Err(Trouble::Failed(reason) | Trouble::Retry(reason) | Trouble::Broken(reason)) => {
                self.plugin.breaker().failed(reason, Instant::now);
            }
            Err(Trouble::NotAsked(_)) => {}
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

    fn ask(&mut self, record: &RecordView<'_>, outputs: &mut Vec<OutputRecord>) -> Result<(), Trouble> {
        let instance = match &mut self.instance {
            Some(instance) => instance,
            None => {
                let start = Instance::start(&self.plugin);
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
        match Instance::start(&self.plugin) {
            Ok(fresh) => self.instance = Some(fresh),
            Err(problem) => {
                tracing::warn!(plugin = %self.plugin.name, %problem, "no fresh instance starts; the worn one goes on");
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

fn outputs_of(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Keep | Verdict::Change(_) => 1,
        Verdict::Drop => 0,
        Verdict::Split(parts) => parts.len(),
    }
}
