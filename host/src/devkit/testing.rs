//! `plugin test`: asks a fresh instance of each plugin about each case, and compares the answer with the expected one.
//!
//! Guarantees: the plugins are loaded, limited and called as in `reduct-sink run`; a plugin's memory holds nothing of
//! an earlier case; a case without an expectation fails.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use similar::TextDiff;

use super::answer::PluginAnswer;
use super::fixtures::Case;
use crate::chain::{Chain, Outcome, SharedChain};
use crate::config::{PluginConfig, PluginSource, plugin_name_of};
use crate::plugin::Runtime;
use crate::record::OutputRecord;
use crate::record::entry_name::{EntriesAllowed, Naming, topic_segment};
use crate::record::labels::LabelRules;

/// A chain under test.
pub struct Tester {
    runtime: Arc<Runtime>,
    files: Vec<PathBuf>,
    timeout: Duration,
    memory_bytes: u64,
    /// The loaded chains by configuration, so that no component is compiled twice.
    chains: HashMap<String, Arc<SharedChain>>,
}

/// The result of one case.
#[derive(Debug)]
pub struct CaseReport {
    /// The fixture's name.
    pub name: String,
    /// Whether it passed.
    pub result: TestResult,
    /// How long the chain took.
    pub took: Duration,
    /// The chain's answer; `None`: no plugin was asked.
    pub answer: Option<PluginAnswer>,
    /// What readers of ReductStore would see if the configuration sets no `store.entry`.
    pub stored: Vec<StoredView>,
}

/// One record as readers would see it.
#[derive(Debug)]
pub struct StoredView {
    /// The record's entry if the host reads one topic and that has one partition.
    pub entry: String,
    /// The record's entry if the host reads one topic and that has several partitions.
    pub entry_of_partition: String,
    /// The entry that the plugin chose, if a host allows it only with `limits.entries`; otherwise `None`.
    pub needs_entry: Option<String>,
    /// All labels of the record, the host's own included.
    pub labels: Vec<(String, String)>,
}

/// Whether a fixture passed.
#[derive(Debug, PartialEq, Eq)]
pub enum TestResult {
    /// The answer was the expected one.
    Passed,
    /// The answer wasn't the expected one: the difference, as a diff.
    Differs(String),
    /// The case has no expectation: the answer.
    Unexpected(String),
    /// No plugin could be asked: the reason.
    Broken(String),
}

impl Tester {
    /// A chain of these components, which are loaded when the first case needs them.
    pub fn new(files: Vec<PathBuf>, timeout: Duration, memory_bytes: u64) -> anyhow::Result<Self> {
        Ok(Self { runtime: super::cached_runtime()?, files, timeout, memory_bytes, chains: HashMap::new() })
    }

    /// Runs one case. It blocks, so it must not be called on a thread of tokio.
    pub fn run(&mut self, case: &Case) -> CaseReport {
        let started = Instant::now();
        let (result, answer, stored) = match self.ask(case) {
            Ok((answer, stored)) => (judge(case, &answer), Some(answer), stored),
            Err(error) => (TestResult::Broken(format!("{error:#}")), None, Vec::new()),
        };
        CaseReport { name: case.name.clone(), result, took: started.elapsed(), answer, stored }
    }

    fn ask(&mut self, case: &Case) -> anyhow::Result<(PluginAnswer, Vec<StoredView>)> {
        let shared = match self.chains.get(&case.config) {
            Some(shared) => Arc::clone(shared),
            None => {
                let shared = SharedChain::load(Arc::clone(&self.runtime), &self.plugins(&case.config))?;
                self.chains.insert(case.config.clone(), Arc::clone(&shared));
                shared
            }
        };
        let outcome = Chain::new(shared)?.transform(&case.input);
        let stored = match &outcome {
            Outcome::Outputs(outputs) => outputs.iter().map(|output| stored(case, output)).collect(),
            _ => Vec::new(),
        };
        Ok((PluginAnswer::of(&outcome), stored))
    }

    fn plugins(&self, config: &str) -> Vec<PluginConfig> {
        let plugin = |file: &PathBuf| PluginConfig {
            config: config.into(),
            timeout: self.timeout,
            memory_bytes: self.memory_bytes,
            ..PluginConfig::new(plugin_name(file), PluginSource::File(file.clone()))
        };
        self.files.iter().map(plugin).collect()
    }
}

fn stored(case: &Case, output: &OutputRecord) -> StoredView {
    let source = &case.input.source;
    let entry = |partitions| {
        let naming = Naming::default_for(partitions, false);
        let entry = match &output.entry {
            Some(chosen) => naming.chosen.render(chosen, source),
            None => naming.derived.render(&topic_segment(&source.topic), source),
        };
        entry.map_or_else(|error| error.to_string(), |entry| entry.to_string())
    };
    let mut labels: Vec<(String, String)> = LabelRules::default().all_labels(output).into_iter().collect();
    labels.sort();
    let chosen = output.entry.clone();
    let needs_entry = chosen.filter(|chosen| !EntriesAllowed::OfTopic.allows(chosen, &source.topic));
    StoredView { entry: entry(1), entry_of_partition: entry(2), needs_entry, labels }
}

/// The name of the plugin in `file`, as a configuration without `name` would give it.
pub fn plugin_name(file: &std::path::Path) -> String {
    plugin_name_of(file).unwrap_or_else(|| "plugin".into())
}

fn judge(case: &Case, answer: &PluginAnswer) -> TestResult {
    let answered = match text(answer) {
        Ok(answered) => answered,
        Err(error) => return TestResult::Broken(format!("{error:#}")),
    };
    let Some(expected) = &case.expected else { return TestResult::Unexpected(answered) };
    if expected.is_met_by(answer, &case.folder) {
        return TestResult::Passed;
    }
    match text(expected) {
        Ok(expected) => {
            let diff = TextDiff::from_lines(&expected, &answered);
            TestResult::Differs(diff.unified_diff().context_radius(3).header("expected", "answered").to_string())
        }
        Err(error) => TestResult::Broken(format!("{error:#}")),
    }
}

fn text(answer: &PluginAnswer) -> anyhow::Result<String> {
    toml::to_string(answer).context("the answer can't be written as TOML")
}
